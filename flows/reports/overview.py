"""The register of all batches, `reports/index.html` and `reports/register.csv`.

Its days left are counted from the day it is made. So it is not reproducible, belongs to no stage
and stays out of git; every run makes it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from flows.workspace import checkouts, layout
from tasks import __version__
from tasks.common import files, language, settings
from tasks.common.errors import AuditError
from tasks.reporting.batch_register import page_contents, schema, spreadsheet, stored
from tasks.reporting.pages import environment, render

REPORTS = Path("reports")
IGNORED = (
    "# Made anew every day, see `erasure-audit "
    "register`.\n/.gitignore\n/index*.html\n/register.csv\n"
)
MOST_SHOWN = 1000
"""Prefect shows so many requests of a batch at most, the worst; the pages show all."""


@dataclass(frozen=True)
class Overview:
    """What was made: requests by outcome, those overdue, and batches that could not be read, with
    why."""

    page: Path
    table: Path
    batches: int
    counts: dict[str, int]
    overdue: int
    unreadable: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "page": self.page.as_posix(),
            "table": self.table.as_posix(),
            "batches": self.batches,
            "counts": self.counts,
            "overdue": self.overdue,
            "unreadable": self.unreadable,
        }


def write(
    workspace: Path, day: date | None = None, closed: Container[tuple[str, str]] = frozenset()
) -> Overview:
    """Make the pages of the register of all batches.

    Args:
        workspace: the workspace; the paths of the result are relative to it.
        day: from which days left are counted; None: today.
        closed: batch and id of the requests that the register of requests says are closed.

    Raises:
        AuditError: the templates or the settings cannot be used.
    """
    counted_from = day or datetime.now().astimezone().date()
    batches, unreadable = stored.read_all(workspace / REPORTS)
    waiting, places = _in_checkouts(workspace, {batch.batch for batch in batches})
    batches = [batch.as_of(counted_from).with_closed(closed) for batch in (*waiting, *batches)]
    view = {
        **page_contents.page(batches),
        "places": places,
        "made_on": counted_from.isoformat(),
        "unreadable": unreadable,
        "version": __version__,
    }
    files.write_text(workspace / REPORTS / ".gitignore", IGNORED)
    codes = settings.load(workspace / "params.yaml").report.languages
    for code, suffix in language.suffixes(codes).items():
        pages = environment(workspace / REPORTS / "templates", code)
        html = render(pages, "register.html.j2", {**view, "suffix": suffix, "codes": codes})
        files.write_text(workspace / REPORTS / f"index{suffix}.html", html)
    files.write_text(workspace / REPORTS / spreadsheet.TABLE, spreadsheet.table(batches))
    lines = [line for batch in batches for line in batch.requests]
    return Overview(
        REPORTS / "index.html",
        REPORTS / spreadsheet.TABLE,
        len(batches),
        {str(outcome): count for outcome, count in schema.counts(lines).items()},
        schema.deadlines(lines).overdue,
        unreadable,
    )


def _in_checkouts(
    workspace: Path, reported: set[str]
) -> tuple[list[schema.BatchRegister], dict[str, str]]:
    """Batches whose reports still lie in their checkouts, for they wait for their approval, and
    where from the pages of the register; those in `kept` are left out."""
    waiting, places = [], {}
    for name, checkout in checkouts.workspaces(workspace).items():
        folder = checkout / REPORTS / name
        if name not in reported and (folder / schema.FILE).exists():
            with contextlib.suppress(AuditError):  # a night may be writing it right now
                waiting.append(stored.read(folder))
                places[name] = f"../{folder.relative_to(workspace).as_posix()}/"
    return waiting, places


def earlier(workspace: Path, batch: str) -> list[dict[str, Any]]:
    """What the summary of a batch says of the others that have reports; one that cannot be read is
    left out."""
    batches, _ = stored.read_all(workspace / REPORTS)
    return [
        stored.past(other).model_dump(mode="json")
        for other in reversed(batches)
        if other.batch != batch
    ]


def artifact(workspace: Path, batch: str) -> tuple[list[dict[str, Any]], str]:
    """A batch's register for Prefect in the words of the reports, the worst first, and a sentence
    about it.

    Neither holds personal data: no reason, no pseudonym, and of a request only an id that is a
    UUID, since a bad request may have anything in its place.

    Raises:
        AuditError: the register cannot be read.
    """
    listed = stored.read(workspace / REPORTS / batch)
    pages = environment(layout.shipped_files() / REPORTS / "templates")
    wording: Any = pages.get_template("wording.html.j2").module
    table: Any = pages.get_template("register_table.html.j2").module
    rows = [
        {
            "request": _id(line),
            "outcome": str(wording.name(line.outcome)),
            "deadline": None if line.deadline is None else line.deadline.isoformat(),
            "days left": line.days_left,
            "status": str(table.progress_name(line.progress)),
        }
        for line in listed.requests
    ]
    counted = ", ".join(
        f"{wording.name(outcome)} {count}" for outcome, count in listed.counts.items() if count
    )
    cut = f" The worst {MOST_SHOWN} are shown." if len(rows) > MOST_SHOWN else ""
    return rows[:MOST_SHOWN], f"Batch {batch}: {counted}. Days left when the audit started.{cut}"


def _id(line: schema.Line) -> str:
    try:
        return str(UUID(line.request_id))
    except ValueError:
        return f"request {line.position}"
