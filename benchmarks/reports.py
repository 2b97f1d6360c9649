"""Measure what one more request costs: its page, its PDF and the person's letter.

The evidence is of a request on which all was done, so that there is a letter. Models are played
(`benchmarks.stand_in`), the reports are real.

Example: python -m benchmarks.reports --rounds 5
"""

from __future__ import annotations

import json
import resource
import tempfile
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import growth_requests, measure
from tasks import report
from tasks.common import files, stage_cli, worker_pool
from tasks.reporting import letters, page_tree, pages

TEMPLATES = Path("reports/templates")
OURS, ALONE = "the stage, on all cores", "the stage, on one core"
STEPS = ("the page, by Jinja", "reading it", "the PDF, by Typst", "the letter, all three files")
AUDITED = 17
"""Requests that are audited; a larger batch has their evidence again under other ids."""
DONE = {"progress": "erased", "completed": "2026-11-24T10:00:00Z"}
Evidence = list[dict[str, Any]]


def main(
    requests: int = 100,
    few: int = 10,
    rounds: int = 5,
    page: Path = measure.PAGE,
    out: Path = measure.RESULTS,
) -> None:
    """Measure, and write the table.

    Args:
        requests: of the batch that all cores write; the start of the processes that help counts.
        few: requests whose files one core writes, set up before.
        rounds: how often each is measured.
        page: has the marks `reports`.
        out: folder for the figures.
    """
    with tempfile.TemporaryDirectory() as folder:
        workspace, people = growth_requests.world(Path(folder) / "world", AUDITED)
        growth_requests.audited(workspace, people[:AUDITED])
        evidence = sorted((workspace / "reports").glob("*/*/evidence.json"))
        results = batch([files.read_json(path) for path in evidence], requests)
        target = Path(folder) / "reports"
        press = report.Press(TEMPLATES, ["en"])
        shares = [parts(press, results[0], target) for _ in range(rounds + 1)][1:]
        ways: dict[str, tuple[int, Callable[[], object]]] = {
            OURS: (requests, lambda: report.write(results, TEMPLATES, target)),
            ALONE: (few, lambda: alone(press, results[:few], target / "alone")),
        }
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        timings = {
            name: partial(timed, work, count, cpu[name]) for name, (count, work) in ways.items()
        }
        seconds = measure.in_turns(timings, rounds)
    figures: dict[str, Any] = {
        "requests": requests,
        "cores": worker_pool.cores(),
        "seconds": {name: measure.Spread.of(values).plain() for name, values in seconds.items()},
        "cpu": {name: measure.Spread.of(values).plain() for name, values in cpu.items()},
        "shares": {
            name: measure.Spread.of([one[name] for one in shares]).plain() for name in STEPS
        },
    }
    line = f"python -m benchmarks.reports --requests {requests} --few {few} --rounds {rounds}"
    measure.write("reports", line, figures, table(figures), page, out)


def batch(audited: Evidence, requests: int) -> Evidence:
    """Evidence of as many requests, on all of which everything was done, so that each has its
    letter."""
    evidence = []
    for number in range(requests):
        item = json.loads(json.dumps(audited[number % len(audited)]))
        if number >= len(audited):
            item["request"]["id"] = str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
        item["request"]["position"] = number + 1
        evidence.append({**item, **DONE})
    return evidence


def timed(work: Callable[[], object], count: int, cpu: list[float]) -> float:
    """Wall-clock time per report, s; the processor time of this process and of those that helped is
    added to `cpu`."""
    before = processor()
    seconds = measure.seconds(work)
    cpu.append((processor() - before) / count)
    return seconds / count


def processor() -> float:
    """Processor time of this process and its children that ended, s."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def alone(press: report.Press, found: Evidence, folder: Path) -> None:
    """Reports and letters as the stage makes them, by this process."""
    for item in found:
        report.write_one(press, (item, folder))


def parts(press: report.Press, item: dict[str, Any], folder: Path) -> dict[str, float]:
    """The share of the time that each step of one request takes; reading the page is a part of its
    PDF, too."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "evidence.json", item)
    html = pages.render(press.pages["en"], "report.html.j2", {"e": item})
    letter, started = letters.of_evidence(item), item["provenance"]["started"]
    if letter is None:
        raise SystemExit("the request has no letter; look at DONE")
    writer = press.writer(letters.language_of(item), letters.folder_of(item))
    steps: Sequence[Callable[[], object]] = (
        lambda: pages.render(press.pages["en"], "report.html.j2", {"e": item}),
        lambda: page_tree.read(html),
        lambda: press.printer.pdf(html, folder / "evidence.json", started),
        lambda: writer.write(letter, press.printer, folder),
    )
    timings = [measure.seconds(step) for step in steps]
    timings[2] -= timings[1]
    return {name: one / sum(timings) for name, one in zip(STEPS, timings, strict=True)}


def table(figures: dict[str, Any]) -> str:
    """Seconds per request of each way, and the shares of the steps."""

    def spread(timings: dict[str, float]) -> str:
        return f"{timings['median']:.3f} ({timings['low']:.3f} to {timings['high']:.3f})"

    rows = [
        (name, spread(figures["seconds"][name]), spread(figures["cpu"][name]))
        for name in (OURS, ALONE)
    ]
    shares = [(name, f"{100 * one['median']:.0f} %") for name, one in figures["shares"].items()]
    return (
        measure.table(("one request: page, PDF, letter", "s", "s of processors"), rows)
        + "\n\n"
        + measure.table(("of one request", "share of the time"), shares)
    )


if __name__ == "__main__":
    stage_cli.run(main)
