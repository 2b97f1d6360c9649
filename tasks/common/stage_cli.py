"""Runs a stage module as a command: `python -m tasks.<stage> --help`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from tasks.common import portable, settings
from tasks.common.errors import AuditError


def say(message: str) -> None:
    """Print a line of progress at once. The flow streams it, so it must name no data subject."""
    print(message, flush=True)


def run(stage: Callable[..., Any]) -> None:
    """Run a stage function as a command: its parameters become options; an `AuditError` becomes one
    line and exit code 1."""
    import typer

    kinds = inspect.get_annotations(stage, eval_str=True)
    # parameters without a default are options, too: `dvc.yaml` names every path
    stage.__annotations__ = {
        name: kind if name == "return" else Annotated[kind, typer.Option()]
        for name, kind in kinds.items()
    }
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(stage)
    try:
        if "params" in kinds and "--params" in sys.argv[1:-1]:
            params = Path(sys.argv[sys.argv.index("--params") + 1])
            if settings.load(params).compute.environment():
                portable.start_again()
        app()
    except AuditError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
