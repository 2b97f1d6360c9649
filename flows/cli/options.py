"""Options, output and access to the workspace, for all commands."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flows.register.register import Register

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Events = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON, and progress as JSON lines on stderr."),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Stages that run at once. Default: one per core.")
]
Target = Annotated[
    str, typer.Argument(metavar="BATCH|REQUEST", help="Name of a batch, or id of a request of it.")
]


def workspace() -> Path:
    """The workspace around the current folder."""
    from flows.workspace import layout

    return layout.find(Path.cwd())


@contextlib.contextmanager
def open_register(home: Path | None = None) -> Iterator[tuple[Path, Register]]:
    """A workspace, by default the current one, and its register, closed at the end."""
    from flows.register.register import opened

    home = home or workspace()
    with opened(home) as register:
        yield home, register


@contextlib.contextmanager
def existing_register(home: Path) -> Iterator[Register | None]:
    """The register of a workspace, closed at the end; None: it has none."""
    from flows.register import database
    from flows.workspace import environment

    if not (home / database.FILE).exists() and not environment.secret(database.URL):
        yield None
        return
    with open_register(home) as (_, register):
        yield register


def required_text(text: str, option: str = "--by") -> str:
    """A person's text, trimmed; an empty one is refused."""
    if not text.strip():
        raise typer.BadParameter(f"{option}: expected a text")
    return text.strip()


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
