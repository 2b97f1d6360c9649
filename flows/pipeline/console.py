"""What a person sees: the stages as they run, and the table of verdicts. Progress goes to stderr,
results to stdout."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from flows.pipeline.reproduce import Comparison
    from flows.pipeline.results import Result
    from flows.pipeline.stage_runner import Event, Listener
    from flows.workspace.dvc_graph import Stage

COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
STATES = {
    "waiting": "waiting",
    "started": "running",
    "line": "running",
    "ran": "done",
    "restored": "from cache",
    "unchanged": "up to date",
    "failed": "failed",
}
NOISE = (
    "Running stage",
    "> ",
    "Updating lock",
    "Generating lock",
    "Use `dvc push`",
    "To track",
    "To enable",
    "\t",
)
"""Lines of DVC's own that say nothing about the work."""


@dataclass
class Row:
    """The state of one stage on the screen; `since` is the start on the monotonic clock, s."""

    state: str = ""
    text: str = ""
    since: float | None = None
    seconds: float | None = None


class Progress:
    """Collects events of stages into rows; as a rich renderable it is the table of these rows."""

    def __init__(self, pipeline: Sequence[Stage]) -> None:
        self._rows = {stage.name: Row() for stage in pipeline}
        self._lock = threading.Lock()

    def take(self, event: Event) -> None:
        """Update a stage's row."""
        if event.kind == "line" and noise(event.text):
            return
        with self._lock:
            row = self._rows.setdefault(event.stage, Row())
            row.state = STATES[event.kind]
            row.text = event.text if event.kind in ("line", "failed", "waiting") else ""
            row.since = row.since if event.kind in ("line", "waiting") else time.monotonic()
            row.seconds = event.seconds if row.state not in ("running", "waiting") else None

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        with self._lock:
            for name, row in self._rows.items():
                table.add_row(
                    Text(name),
                    Text(row.state, _style(row.state)),
                    _elapsed(row),
                    Text(row.text, "dim"),
                )
        return table


@contextlib.contextmanager
def progress(pipeline: Sequence[Stage]) -> Iterator[Listener]:
    """Show what happens to the stages: a live table on a terminal, lines elsewhere."""
    screen = stderr()
    if not screen.is_terminal:
        yield print_event
        return
    from rich.live import Live

    rows = Progress(pipeline)
    with Live(rows, console=screen, refresh_per_second=4):
        yield rows.take


def print_event(event: Event) -> None:
    """One line on stderr per event, for logs and pipes."""
    if event.kind == "line" and noise(event.text):
        return
    told = event.text if event.kind == "line" else f"{STATES[event.kind]} {event.text}".strip()
    after = f" ({event.seconds:.1f} s)" if event.kind in ("ran", "restored", "failed") else ""
    say(f"{event.stage}: {told}{after}")


def noise(line: str) -> bool:
    """Whether a line is DVC's housekeeping."""
    return line.startswith(NOISE) or line.strip().startswith(("git add", "dvc config"))


def say(message: str) -> None:
    """A line on stderr, as it is."""
    stderr().print(message, markup=False, highlight=False, soft_wrap=True)


def stderr() -> Console:
    """Where progress and messages go."""
    from rich.console import Console

    return Console(stderr=True)


def verdicts(results: list[Result]) -> None:
    """The table of a batch on stdout: request, verdict, residual influence with its interval,
    report."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "request",
        "verdict",
        "residual influence ρ",
        "report",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    for result in results:
        shown = "set aside" if result.status == "rejected" else result.verdict
        table.add_row(
            result.request, Text(shown, COLOURS.get(shown, "dim")), result.interval, result.report
        )
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a pipe has no width to keep to
    console.print(table)


def advice(told: Iterable[str]) -> None:
    """Why a full retrain is advised, a line each on stdout."""
    from rich.console import Console

    for line in told:
        Console().print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


def comparison(found: Comparison) -> None:
    """What `reproduce` found, on stdout."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    told = {"identical": found.identical, "different": found.different, "erased": found.erased}
    for title, paths in (*told.items(), ("not kept", found.missing)):
        for path in paths:
            console.print(f"{title:>10}  {path}", markup=False)
    console.print(f"{found.tag}, level {found.level}: {_conclusion(found)}", markup=False)


def _conclusion(found: Comparison) -> str:
    ran = f"{len(found.ran)} stages ran; " if found.ran else ""
    if not found.different:
        left = f", {len(found.erased)} erased with receipts" if found.erased else ""
        left += f", {len(found.missing)} not kept and so not compared" if found.missing else ""
        return f"holds. {ran}all {len(found.identical)} compared are identical{left}"
    if found.same_verdicts:
        return f"holds. {ran}files differ, but every verdict is the same and every estimate inside its interval"
    return f"DOES NOT HOLD. {ran}{len(found.different)} differ"


def _elapsed(row: Row) -> str:
    seconds = row.seconds
    if seconds is None and row.since is not None:
        seconds = time.monotonic() - row.since
    return "" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _style(state: str) -> str:
    return {"done": "green", "from cache": "green", "running": "cyan", "failed": "red"}.get(
        state, "dim"
    )
