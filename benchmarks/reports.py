"""What one more report costs, beside the loop of the tutorials, and what its parts take.

The loop makes template engine, font configuration and style sheets anew for each report and works
on one core, as examples on the web do. Models are played (`benchmarks.stand_in`), the reports are
real.

Example: python -m benchmarks.reports --rounds 5
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks import growth_requests, measure
from tasks import report
from tasks.common import files, stage_cli, worker_pool
from tasks.reporting import pages, pdf

TEMPLATES = Path("reports/templates")
OURS, ALONE, LOOP = (
    "the stage, on all cores",
    "the stage, on one core",
    "all set up anew for each report, on one core",
)
STEPS = ("the page, by Jinja", "parsing it", "style and layout", "drawing, and writing the PDF")
Evidence = list[dict[str, Any]]


def main(
    requests: int = 17,
    few: int = 3,
    rounds: int = 5,
    page: Path = measure.PAGE,
    out: Path = measure.RESULTS,
) -> None:
    """Measure, and write the table.

    Args:
        requests: of the batch that all cores write; the start of the processes that help counts.
        few: reports that one core writes, set up before.
        rounds: how often each is measured.
        page: has the marks `reports`.
        out: folder for the figures.
    """
    with tempfile.TemporaryDirectory() as folder:
        place, people = growth_requests.world(Path(folder) / "world", requests)
        growth_requests.audited(place, people[:requests])
        found = [
            files.read_json(path) for path in sorted((place / "reports").glob("*/*/evidence.json"))
        ]
        target = Path(folder) / "reports"
        press = report.Press(TEMPLATES, ["en"])
        shares = [parts(press, found[0], target) for _ in range(rounds + 1)][1:]
        ways: dict[str, tuple[int, Callable[[], object]]] = {
            OURS: (requests, lambda: report.write(found, TEMPLATES, target)),
            ALONE: (few, lambda: alone(press, found[:few], target / "alone")),
            LOOP: (few, lambda: anew(found[:few], target / "anew")),
        }
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        taken = {
            name: partial(timed, work, count, cpu[name]) for name, (count, work) in ways.items()
        }
        seconds = measure.in_turns(taken, rounds)
    figures: dict[str, Any] = {
        "requests": requests,
        "cores": worker_pool.cores(),
        "seconds": {name: measure.Spread.of(values).plain() for name, values in seconds.items()},
        "cpu": {name: measure.Spread.of(values).plain() for name, values in cpu.items()},
        "loop_to": {
            name: {
                "seconds": measure.ratio(seconds[LOOP], seconds[name]).plain(),
                "cpu": measure.ratio(cpu[LOOP], cpu[name]).plain(),
            }
            for name in (OURS, ALONE)
        },
        "shares": {
            name: measure.Spread.of([one[name] for one in shares]).plain() for name in STEPS
        },
    }
    line = f"python -m benchmarks.reports --requests {requests} --few {few} --rounds {rounds}"
    measure.write("reports", line, figures, table(figures), page, out)


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
    """Reports as the stage makes them, by this process."""
    for item in found:
        report.write_one(press, (item, folder))


def anew(found: Evidence, folder: Path) -> None:
    """Reports as examples on the web make them."""
    from weasyprint import CSS, HTML, Attachment
    from weasyprint.text.fonts import FontConfiguration

    for item in found:
        files.write_json(folder / "evidence.json", item)
        html = pages.render(pages.environment(TEMPLATES), "report.html.j2", {"e": item})
        files.write_text(folder / "report.html", html)
        fonts = FontConfiguration()
        HTML(string=html).write_pdf(
            folder / "report.pdf",
            stylesheets=[CSS(filename=TEMPLATES / "fonts.css", font_config=fonts)],
            font_config=fonts,
            attachments=[Attachment(filename=folder / "evidence.json")],
            pdf_variant="pdf/a-3a",
        )


def parts(press: report.Press, item: dict[str, Any], folder: Path) -> dict[str, float]:
    """The share of the time that each step of one report takes."""
    from weasyprint import HTML

    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "evidence.json", item)
    printer, done = press.printer, list[Any]()
    html = pages.render(press.pages["en"], "report.html.j2", {"e": item})
    text, styles = printer.parted(html)
    steps: list[Callable[[], object]] = [
        lambda: pages.render(press.pages["en"], "report.html.j2", {"e": item}),
        lambda: done.append(HTML(string=text)),
        lambda: done.append(done[0].render(font_config=printer.fonts, stylesheets=styles)),
        lambda: done[1].write_pdf(BytesIO(), pdf_variant="pdf/a-3a"),
    ]
    with pdf.no_collection():
        taken = [measure.seconds(step) for step in steps]
    return {name: one / sum(taken) for name, one in zip(STEPS, taken, strict=True)}


def table(figures: dict[str, Any]) -> str:
    """Seconds per report of each way, and the shares of the steps."""

    def spread(found: dict[str, float], form: str) -> str:
        return f"{found['median']:{form}} ({found['low']:{form}} to {found['high']:{form}})"

    ratios = {**figures["loop_to"], LOOP: None}
    rows = [
        (
            name,
            spread(figures["seconds"][name], ".2f"),
            spread(figures["cpu"][name], ".2f"),
            spread(ratio["seconds"], ".2f") if ratio else "1",
            spread(ratio["cpu"], ".2f") if ratio else "1",
        )
        for name, ratio in ratios.items()
    ]
    head = ("one report", "s", "s of processors", "times as fast", "by processor time")
    shares = [(name, f"{100 * one['median']:.0f} %") for name, one in figures["shares"].items()]
    return (
        measure.table(head, rows)
        + "\n\n"
        + measure.table(("of one report", "share of the time"), shares)
    )


if __name__ == "__main__":
    stage_cli.run(main)
