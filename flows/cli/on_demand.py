"""Groups of commands that are imported and built only when they are used.

Building commands takes most of the time of `--help`, which needs only the names of the groups.
"""

from __future__ import annotations

import importlib
from collections.abc import MutableMapping
from functools import cached_property
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


def group(module: str, help_text: str) -> typer.Typer:
    """The commands of a module's `app`.

    Args:
        module: its full name.
        help_text: the first line of its help.
    """
    return typer.Typer(
        cls=type("Group", (_OnDemand,), {"module": module}),
        help=help_text,
        no_args_is_help=True,
        rich_markup_mode=None,
    )


class _OnDemand(TyperGroup):
    """A group that takes its commands from a module.

    Attributes:
        module: its full name.
    """

    module: ClassVar[str]

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """The commands by name."""
        return self._built

    @commands.setter
    def commands(self, empty: MutableMapping[str, Any]) -> None:
        """What typer sets: this group is declared without commands."""

    @cached_property
    def _built(self) -> MutableMapping[str, Any]:
        app = importlib.import_module(self.module).app
        return typer.main.get_group(app).commands
