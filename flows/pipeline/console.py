"""Output for people: the stages as they run, and the table of verdicts. Progress goes to stderr,
results to stdout."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.common import files
from tasks.common.errors import AuditError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from flows.pipeline.reproduce import Comparison
    from flows.pipeline.results import Result
    from flows.pipeline.stage_runner import Listener, StageEvent

COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
STATES = {
    "planned": "",
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
"""Beginnings of lines that DVC prints about itself."""


FINISHED = ("ran", "restored", "unchanged", "failed")
SECONDS = Path(".dvc/tmp/stage-seconds.json")
"""The last duration of each stage, s, by name; the remaining time is estimated from it."""


@dataclass
class Row:
    """The state of one stage; `since` is the start on the monotonic clock, s."""

    state: str = ""
    text: str = ""
    since: float | None = None
    seconds: float | None = None


class Progress:
    """Collects events of stages into rows, counts finished stages and estimates the remaining time.

    As a rich renderable it is the table of the rows with the total below.
    """

    def __init__(self, earlier_seconds: Mapping[str, float]) -> None:
        """Args:
        earlier_seconds: earlier durations of stages, s.
        """
        self._rows: dict[str, Row] = {}
        self._seconds = dict(earlier_seconds)
        self._lock = threading.Lock()

    def take(self, event: StageEvent) -> None:
        """Update a stage's row."""
        if event.kind == "line" and noise(event.text):
            return
        with self._lock:
            row = self._rows.setdefault(event.stage, Row())
            row.state = STATES[event.kind]
            row.text = event.text if event.kind in ("line", "failed", "waiting") else ""
            if event.kind == "started":
                row.since = time.monotonic()
            row.seconds = event.seconds if event.kind in FINISHED else None
            if event.kind == "ran":
                self._seconds[event.stage] = event.seconds

    @property
    def total(self) -> int:
        """How many stages there are."""
        return len(self._rows)

    @property
    def finished(self) -> int:
        """How many of them have ended."""
        return sum(row.seconds is not None for row in self._rows.values())

    @property
    def seconds_left(self) -> float | None:
        """Estimated time of the remaining stages, one after the other, s; None: a stage was never
        timed."""
        with self._lock:
            times = [self._seconds_left_of(name, row) for name, row in self._rows.items()]
        timed = [seconds for seconds in times if seconds is not None]
        return sum(timed) if len(timed) == len(times) else None

    @property
    def summary(self) -> str:
        """The total, as a person reads it."""
        seconds_left = self.seconds_left
        remaining = (
            ""
            if seconds_left is None or self.finished == self.total
            else f", {duration(seconds_left)} left"
        )
        return f"{self.finished} of {counted(self.total, 'stage')}{remaining}"

    def seconds(self) -> dict[str, float]:
        """The last duration of each stage, s."""
        return dict(self._seconds)

    def _seconds_left_of(self, name: str, row: Row) -> float | None:
        if row.seconds is not None:
            return 0.0
        expected = self._seconds.get(name)
        if expected is None:  # the mean of its family: train@1 is like train@0
            family = name.partition("@")[0]
            alike = [
                seconds
                for name_of_other, seconds in self._seconds.items()
                if name_of_other.partition("@")[0] == family
            ]
            expected = sum(alike) / len(alike) if alike else None
        if expected is None or row.since is None:
            return expected
        return max(expected - (time.monotonic() - row.since), 0.0)

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        with self._lock:
            rows = list(self._rows.items())
        for name, row in rows:
            table.add_row(
                Text(name),
                Text(row.state, _style(row.state)),
                _elapsed(row),
                Text(row.text, "dim"),
            )
        table.add_row(Text(self.summary, "bold"))
        return table


@contextlib.contextmanager
def progress(workspace: Path, as_json: bool = False) -> Iterator[Listener]:
    """Show the progress of the stages on stderr: a live table on a terminal, elsewhere one line per
    finished stage.

    Args:
        workspace: the folder that keeps the durations of stages.
        as_json: for programs, one JSON object per event and line.
    """
    progress = Progress(_known_seconds(workspace))
    screen = stderr()
    try:
        if as_json:
            yield partial(_print_json, progress)
        elif not screen.is_terminal:
            yield partial(_print_line, progress)
        else:
            from rich.live import Live

            with Live(progress, console=screen, refresh_per_second=4):
                yield progress.take
    finally:
        with contextlib.suppress(OSError):
            files.write_json(workspace / SECONDS, progress.seconds())


def _known_seconds(workspace: Path) -> dict[str, float]:
    try:
        value = files.read_json(workspace / SECONDS)
        return {str(name): float(seconds) for name, seconds in value.items()}
    except (AuditError, AttributeError, TypeError, ValueError):  # none yet; it is only an estimate
        return {}


def _print_line(progress: Progress, event: StageEvent) -> None:
    progress.take(event)
    if event.kind in FINISHED:
        text = f" {event.text}" if event.text else ""
        say(
            f"{event.stage}: {STATES[event.kind]}{text} ({event.seconds:.1f} s); {progress.summary}"
        )
    elif event.kind == "waiting":
        say(f"{event.stage}: {event.text}")


def _print_json(progress: Progress, event: StageEvent) -> None:
    progress.take(event)
    if event.kind == "line" and noise(event.text):
        return
    seconds_left = progress.seconds_left
    value = {
        "event": event.kind,
        "stage": event.stage,
        "text": event.text,
        "seconds": round(event.seconds, 3),
        "done": progress.finished,
        "total": progress.total,
        "seconds_left": None if seconds_left is None else round(seconds_left, 1),
    }
    say(json.dumps(value, ensure_ascii=False))


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun: "1 file", "2 files"."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def duration(seconds: float) -> str:
    """A length of time as a person says it."""
    if seconds < 90:
        return f"about {round(seconds)} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"


def noise(line: str) -> bool:
    """Whether a line is DVC's housekeeping."""
    return line.startswith(NOISE) or line.strip().startswith(("git add", "dvc config"))


def say(message: str, as_json: bool = False) -> None:
    """A line on stderr, as it is, or as an event for programs."""
    if as_json:
        message = json.dumps({"event": "message", "text": message}, ensure_ascii=False)
    stderr().print(message, markup=False, highlight=False, soft_wrap=True)


def stderr() -> Console:
    """Where progress and messages go."""
    from rich.console import Console

    return Console(stderr=True)


def verdicts(results: list[Result]) -> None:
    """The table of a batch on stdout: request, verdict, residual influence with its interval,
    report."""
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
        shown = Text(result.ending, COLOURS.get(result.ending, "dim"))
        table.add_row(result.request, shown, result.interval, result.report)
    _print_table(table)


def originals(results: list[Result]) -> None:
    """The same test on the original model, which has forgotten nobody, as a table on stdout."""
    from rich.table import Table
    from rich.text import Text

    title = "original model, not unlearned"
    table = Table(title, "verdict", "residual influence ρ", box=None, header_style="bold")
    table.pad_edge = False
    for result in results:
        if result.original:
            verdict = str(result.original.get("verdict", "inconclusive"))
            shown = Text(verdict, COLOURS.get(verdict, "dim"))
            table.add_row(result.request, shown, result.original_interval)
    if table.row_count:
        _print_table(table)


def _print_table(table: Table) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 200  # a pipe has no width
    console.print(table)


def advice(lines: Iterable[str]) -> None:
    """Print the reasons for a full retrain on stdout, one per line."""
    from rich.console import Console

    for line in lines:
        Console().print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


def comparison(result: Comparison) -> None:
    """Print the result of `reproduce` on stdout."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    lists = {
        "identical": result.identical,
        "different": result.different,
        "erased": result.erased,
        "missing": result.missing,
        "note": result.notes,
    }
    for title, lines in lists.items():
        for line in lines:
            console.print(f"{title:>10}  {line}", markup=False)
    console.print(f"{result.tag}, level {result.level}: {_conclusion(result)}", markup=False)


def _conclusion(result: Comparison) -> str:
    ran = f"{counted(len(result.ran), 'stage')} ran; " if result.ran else ""
    erased = f", {len(result.erased)} erased with receipts" if result.erased else ""
    if not result:
        faults = [f"{len(result.different)} differ"] if result.different else []
        if result.missing:
            faults.append(f"{len(result.missing)} on record are missing, without a receipt")
        return f"DOES NOT HOLD. {ran}{', '.join(faults) or 'nothing was compared'}{erased}"
    if result.different:
        return (
            f"holds. {ran}files differ, but every verdict is the same and every estimate inside "
            "its interval"
        )
    return f"holds. {ran}all {len(result.identical)} compared are identical{erased}"


def _elapsed(row: Row) -> str:
    seconds = row.seconds
    if seconds is None and row.since is not None:
        seconds = time.monotonic() - row.since
    return "" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _style(state: str) -> str:
    return {"done": "green", "from cache": "green", "running": "cyan", "failed": "red"}.get(
        state, "dim"
    )
