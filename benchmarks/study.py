"""Options and output that the benchmarks of unlearning and of verdicts share."""

from __future__ import annotations

import inspect
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

from benchmarks import measure, worlds
from benchmarks.worlds import World
from tasks.common import files, stage_cli


@dataclass(frozen=True)
class Study:
    """One world, how many models are trained of each kind, and where results are kept."""

    world: str = "digits"
    originals: int = 3
    references: int = 16
    seed: int = 1
    jobs: int = 2
    keep: Path = Path(".benchmarks")
    out: Path = Path("benchmarks/results")
    page: Path | None = None

    @cached_property
    def given(self) -> World:
        """The world's data and settings."""
        return worlds.load(self.world)

    def folder(self, name: str) -> Path:
        """Where a benchmark keeps the results of its trials."""
        return self.keep / f"{name}-{self.world}-{self.seed}"

    def publish(
        self,
        name: str,
        figures: Mapping[str, Any],
        table: Callable[[dict[str, Any]], str],
        **options: int,
    ) -> None:
        """Keep the figures as JSON, say their table, and put it into the page between its marks.

        Args:
            name: of the benchmark, as in `python -m benchmarks.<name>`.
            figures: what was measured.
            table: makes Markdown of it.
            options: those of the command that the study itself does not have.
        """
        words = {"originals": self.originals, "references": self.references, **options}
        arguments = "".join(_option(key.replace("_", "-"), value) for key, value in words.items())
        result = {
            "world": self.world,
            "about": self.given.about,
            "command": (
                f"python -m benchmarks.{name} --world {self.world}{arguments} --seed {self.seed}"
            ),
            **figures,
            "versions": versions(),
        }
        files.write_json(self.out / f"{name}-{self.world}.json", result)
        stage_cli.say(table(result))
        if self.page:
            measure.insert(self.page, f"{name} {self.world}", table(result))


def _option(name: str, value: int) -> str:
    """An option as it is given to the command; `--name` or `--no-name` of a bool."""
    if isinstance(value, bool):
        return f" --{'' if value else 'no-'}{name}"
    return f" --{name} {value}"


def run(main: Callable[..., None], **defaults: Any) -> None:
    """Run a benchmark as a command; the fields of its parameter `study` become options.

    Args:
        main: takes a `Study` first, and options of its own.
        defaults: of the study, where the benchmark's differ.
    """
    own = list(inspect.signature(main).parameters.values())[1:]
    hints = get_type_hints(main)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(field.name, field.default),
        )
        for field in fields(Study)
    ]
    kinds = get_type_hints(Study)

    def command(**options: Any) -> None:
        study = Study(**{parameter.name: options.pop(parameter.name) for parameter in shared})
        main(study, **options)

    command.__doc__ = main.__doc__
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*shared, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]
    )
    command.__annotations__ = {
        **{name: kinds[name] for name in (field.name for field in fields(Study))},
        **{parameter.name: hints[parameter.name] for parameter in own},
        "return": None,
    }
    stage_cli.run(command)


def versions() -> dict[str, str]:
    """The versions and the processor that the figures were made with."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "numpy", "scipy", "scikit-learn")}
    return {
        "python": platform.python_version(),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        **packages,
    }
