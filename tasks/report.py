"""Stage `report`: per request a report and, once there is something to tell, the person's letter;
and the register of the batch.

The same evidence gives the same bytes, whatever the machine's clock, time zone, locale or hash
seed: every date comes from the batch's record and the requests.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.common import files, settings, stage_cli, worker_pool
from tasks.common.errors import EvidenceError
from tasks.common.language import Code, suffixes
from tasks.reporting import build_evidence, letters
from tasks.reporting.batch_register import build as build_register
from tasks.reporting.batch_register import page_contents, spreadsheet, stored
from tasks.reporting.batch_register.schema import FILE, BatchRegister, Past
from tasks.reporting.evidence_sources import Sources
from tasks.reporting.pages import environment, render
from tasks.reporting.pdf import Printer

if TYPE_CHECKING:
    import jinja2

RESERVED = re.compile(r"(index|register|summary)\..*", re.IGNORECASE)
"""Names of files beside the folders of the requests."""
REPORTS_PER_PROCESS = 2
"""So many reports take longer than to start a process that helps."""
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def main(
    batch: str,
    verdicts: Path,
    lineage: Path,
    register: Path,
    checks: Path,
    trace: Path,
    record: Path,
    templates: Path,
    params: Path,
    out: Path,
    probes: Path | None = None,
    decisions: Path | None = None,
    ladder: Path | None = None,
) -> None:
    """Write the report of every request of the batch, its index page and its register.

    Example: python -m tasks.report --batch demo --verdicts artifacts/propose/verdicts.json
    --lineage artifacts/propose/lineage.json --register artifacts/resolve/register.json --checks
    artifacts/check --trace artifacts/propose/trace.csv --record ledger/batches/demo.json
    --templates reports/templates --params params.yaml --probes artifacts/probe/probes.json
    --decisions ledger/decisions/demo.json --ladder artifacts/propose/ladder.json --out reports/demo
    """
    sources = Sources(
        batch=batch,
        verdicts=files.read_json(verdicts),
        lineage=files.read_json(lineage),
        register=files.read_json(register),
        data_checks=files.read_json(checks / "data.json"),
        request_checks=files.read_json(checks / "requests.json"),
        trace=read_trace(trace),
        record=files.read_json(record),
        settings=settings.load(params),
        probes=files.read_json(probes) if probes else {},
        decisions=files.read_json(decisions) if decisions else {},
        ladder=files.read_json(ladder) if ladder else {},
    )
    write(build_evidence.build_all(sources), templates, out, stored.earlier(sources.record))


def write(
    all_evidence: Sequence[dict[str, Any]],
    templates: Path,
    out: Path,
    earlier: Sequence[Past] = (),
) -> None:
    """Write the reports of a batch as a whole or not at all.

    Args:
        all_evidence: the evidence of every request, from `build_evidence.build_all`.
        templates: folder with `report.html.j2`, `index.html.j2`, `style.css`, `pdf.typ` and
            `fonts/`.
        out: the batch's folder, replaced at the end.
        earlier: earlier batches, for the summary.

    Raises:
        EvidenceError: a template asks for something that the evidence does not have.
        WorkspaceError: a template or a typeface is missing.
    """
    codes = sorted({code for item in all_evidence for code in item["languages"]})
    press = functools.cache(lambda: Press(templates, codes))
    folders = folder_names(all_evidence)
    with files.whole_folder(out) as draft:
        jobs = [(item, draft / folder) for item, folder in zip(all_evidence, folders, strict=True)]
        done = worker_pool.each(
            write_one,
            jobs,
            press,
            functools.partial(Press, templates, codes),
            worth=REPORTS_PER_PROCESS,
        )
        for count, (item, folder) in enumerate(done, start=1):
            stage_cli.say(
                f"report {count}/{len(all_evidence)}: {folder.name}, "
                f"{item['outcome'].replace('_', ' ')}"
            )
        listed = build_register.of(all_evidence, folders, draft)
        files.write_json(draft / FILE, listed.model_dump(mode="json", by_alias=True))
        files.write_text(draft / spreadsheet.TABLE, spreadsheet.table([listed]))
        for code, suffix in suffixes(listed.languages).items():
            write_overview(listed, earlier, draft, press().pages[code], press().printer, suffix)


def write_overview(
    listed: BatchRegister,
    earlier: Sequence[Past],
    folder: Path,
    pages: jinja2.Environment,
    printer: Printer,
    suffix: str = "",
) -> None:
    """Write a batch's pages in one language: the table of its requests, and the summary as page and
    PDF."""
    files.write_text(folder / f"index{suffix}.html", index_page(listed, pages, suffix))
    html = render(
        pages, "summary.html.j2", {**page_contents.summary(listed, earlier), "suffix": suffix}
    )
    files.write_text(folder / f"summary{suffix}.html", html)
    files.write_bytes(
        folder / f"summary{suffix}.pdf", printer.pdf(html, folder / FILE, listed.started)
    )


def index_page(listed: BatchRegister, pages: jinja2.Environment, suffix: str = "") -> str:
    """The table of a batch's requests."""
    return render(
        pages, "index.html.j2", {**page_contents.page([listed]), "r": listed, "suffix": suffix}
    )


def write_one(press: Press, job: tuple[dict[str, Any], Path]) -> None:
    """Write the evidence of one request into its folder, and its report in each of its
    languages."""
    item, folder = job
    evidence_file = folder / "evidence.json"
    files.write_json(evidence_file, item)
    for code, suffix in suffixes(item["languages"]).items():
        html = render(press.pages[code], "report.html.j2", {"e": item})
        pdf = press.printer.pdf(html, evidence_file, item["provenance"]["started"])
        files.write_text(folder / f"report{suffix}.html", html)
        files.write_bytes(folder / f"report{suffix}.pdf", pdf)
    letter = letters.of_evidence(item)
    if letter is not None:
        writer = press.writer(letters.language_of(item), letters.folder_of(item))
        writer.write(letter, press.printer, folder)


def folder_names(all_evidence: Sequence[dict[str, Any]]) -> list[str]:
    """A folder for each request: its id, or its place in the file where the id is no safe or no
    unique name.

    An accepted request keeps its id when a rejected one claims the same.
    """
    taken: set[str] = set()
    names = [""] * len(all_evidence)
    for index in sorted(
        range(len(all_evidence)),
        key=lambda index: (all_evidence[index]["status"] == "rejected", index),
    ):
        name = str(all_evidence[index]["request"]["id"])
        if not FOLDER.fullmatch(name) or RESERVED.fullmatch(name) or name.casefold() in taken:
            name = spare_name(all_evidence[index]["request"]["position"], taken)
        taken.add(name.casefold())
        names[index] = name
    return names


def spare_name(position: int, taken: set[str]) -> str:
    """A name from the request's place in the file that nobody has yet."""
    name = f"request-{position}"
    while name in taken:
        name += "-again"
    return name


def read_trace(path: Path) -> list[dict[str, str]]:
    """The rows of `trace.csv`. Raises `EvidenceError` where the file is missing or no text."""
    try:
        return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise EvidenceError(
            f"{path}: expected the trace of unlearning as CSV; run the stage unlearn"
        ) from error


class Press:
    """What reports are made with: the pages of each language, and the printer."""

    def __init__(self, templates: Path, codes: Iterable[Code]) -> None:
        """Set up for pages in these languages.

        Raises:
            WorkspaceError: a template, a catalogue or a typeface is missing.
        """
        self.pages = {code: environment(templates, code) for code in codes}
        self.printer = Printer(templates)
        self.writer = functools.cache(functools.partial(letters.LetterWriter, templates))


if __name__ == "__main__":
    stage_cli.run(main)
