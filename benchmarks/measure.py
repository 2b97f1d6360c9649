"""Measure alternatives in turns within one run, and the ratio of their medians.

Times on a shared machine are noise. What is claimed is a ratio: the ways are measured in turns, so
that what else the machine does meets all of them, a ratio is taken within each round, and its
median over the rounds is told with the least and the greatest. A benchmark writes its figures to
`benchmarks/results/<name>.json` and a table between two marks of `docs/performance.md`.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.common import files, stage_cli
from tasks.common.errors import WorkspaceError

RESULTS = Path("benchmarks/results")
PAGE = Path("docs/performance.md")
PACKAGES = ("torch", "numpy", "prefect", "dvc", "great-expectations", "typst")


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing: their median, the least and the greatest."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of some values, at least one."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    def plain(self) -> dict[str, float]:
        """As JSON values, to four digits."""
        return {key: float(f"{value:.4g}") for key, value in asdict(self).items()}

    def __format__(self, spec: str) -> str:
        """`1.23 (1.11 to 1.40)`, each number by the format given."""
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def in_turns(ways: Mapping[str, Callable[[], float]], rounds: int = 5) -> dict[str, list[float]]:
    """Measure each way once a round, in an order that changes from round to round.

    Args:
        ways: by name, a function that does the thing and returns what was measured, such as
            seconds.
        rounds: how often, at least 1.

    Returns:
        By name, one value a round.
    """
    timings: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            timings[name].append(ways[name]())
            stage_cli.say(f"round {number + 1}/{rounds}, {name}: {timings[name][-1]:.4g}")
    return timings


def ratio(of: Sequence[float], to: Sequence[float]) -> Spread:
    """How many times as much `of` is as `to`, compared within each round."""
    return Spread.of([one / other for one, other in zip(of, to, strict=True)])


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of a function, s."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@dataclass(frozen=True)
class Spent:
    """The cost of a command: wall-clock time and processor time, s, and peak memory, MiB."""

    seconds: float
    cpu: float
    peak: float


def command(
    words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Spent:
    """Run a command and measure it, with all processes that it started and waited for.

    The memory is that of the largest of its processes.

    Raises:
        WorkspaceError: it failed; the text is the end of what it said.
    """
    with subprocess.Popen(  # a process in between, so that other children of this one do not count
        [sys.executable, "-c", _MEASURED, *words],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output, _ = process.communicate()
    *lines, last = output.splitlines() or [""]
    if process.returncode != 0 or not last.startswith("spent "):
        raise WorkspaceError(f"{' '.join(words[:4])} failed: {' / '.join(lines[-3:] or [last])}")
    wall, cpu, peak = map(float, last.split()[1:])
    return Spent(wall, cpu, peak)


_MEASURED = """
import resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.call(sys.argv[1:])
spent = resource.getrusage(resource.RUSAGE_CHILDREN)
sys.stdout.flush()
seconds, processor = time.perf_counter() - began, spent.ru_utime + spent.ru_stime
print("spent", seconds, processor, spent.ru_maxrss / 1024, flush=True)
sys.exit(code)
"""


def machine() -> dict[str, Any]:
    """The machine and the versions that the figures were measured with."""
    from importlib.metadata import version

    about = Path("/proc/cpuinfo")
    text = about.read_text(encoding="utf-8", errors="replace") if about.exists() else ""
    named = re.search(r"model name\s*:\s*(.+)", text)
    flags = set(text.split())
    return {
        "processor": named[1].strip() if named else platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "amx": "amx_bf16" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def told_of(facts: Mapping[str, Any]) -> str:
    """The facts of `machine` as a line for below a table."""
    kind = (
        "AMX"
        if facts["amx"]
        else "AVX-512 with bf16"
        if facts["avx512_bf16"]
        else "no bf16 in hardware"
    )
    versions = ", ".join(f"{name} {facts[name]}" for name in ("python", *PACKAGES) if name in facts)
    return f"{facts['processor']}, {facts['cores']} cores, {kind}; {versions}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def write(
    name: str,
    command_line: str,
    results: dict[str, Any],
    text: str,
    page: Path = PAGE,
    out: Path = RESULTS,
) -> None:
    """Keep the figures as JSON, and put the table into the page, with the command and the machine.

    Args:
        name: of the JSON file, and of the marks in the page.
        command_line: how it was measured.
        results: the figures.
        text: Markdown.
        page: has `<!-- name -->` and `<!-- end of name -->`.
        out: folder for the JSON file.

    Raises:
        WorkspaceError: the page has no such marks; the figures are kept all the same.
    """
    facts = machine()
    path = out / f"{name.replace(' ', '-')}.json"
    files.write_json(path, {"command": command_line, "machine": facts, **results})
    insert(page, name, f"{text}\n\n`{command_line}`. {told_of(facts)}.")


def insert(page: Path, mark: str, text: str) -> None:
    """Replace the text between `<!-- mark -->` and `<!-- end of mark -->` in a Markdown page.

    Raises:
        WorkspaceError: the page has no such marks.
    """
    first, last = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, opened, rest = page.read_text(encoding="utf-8").partition(first)
    _, closed, after = rest.partition(last)
    if not opened or not closed:
        raise WorkspaceError(
            f"{page} lacks the marks {first} and {last}, between which the table belongs"
        )
    files.write_text(page, f"{before}{first}\n{text}\n{last}{after}")
