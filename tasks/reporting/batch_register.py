"""The register of deletion requests: a line per request, the worst first, of one batch or of all.

`register.json` holds a batch's lines. The pages, the table for spreadsheets and the summary show
nothing else.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError

from tasks.common import files
from tasks.common.errors import AuditError, EvidenceError
from tasks.common.language import SENTENCES, Code
from tasks.reporting import evidence, migrations

SCHEMA_VERSION = 2
FILE = "register.json"
TABLE = "register.csv"
Outcome = Literal["fail", "inconclusive", "below_detection", "rejected", "pass"]
OUTCOMES: tuple[Outcome, ...] = ("fail", "inconclusive", "below_detection", "rejected", "pass")
"""The worst first."""
SOON = 7
"""A deadline is near when so many days are left, or fewer."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet may take for a formula (OWASP, CSV injection)."""
CHUNK = 50
"""Rows of one body of a page's table: the browser leaves those out of sight unpainted."""
MOST_EARLIER = 6
"""A summary shows so many earlier batches at most, to stay on its page."""
Progress = Literal["awaiting_signoff", "refused", "set_aside", "released", "erased"]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float | None, Field(ge=0)]


class Influence(evidence.Part):
    """The residual influence with its interval; null where none was measured."""

    estimate: float | None
    low: float | None
    high: float | None


class Line(evidence.Part):
    """One request."""

    request_id: str
    position: Count
    folder: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    status: Literal["audited", "rejected"]
    progress: Progress
    test: Literal["references", "screening", "none"] | None
    verdict: evidence.Verdict
    outcome: Outcome
    register_: evidence.Register | None = Field(alias="register")
    reason: str
    regulation: str | None
    received: str | None
    subject_pseudonym: str | None
    records: Count
    deadline: date | None = Field(strict=False)
    days_left: int | None
    residual_influence: Influence
    sha256: dict[str, evidence.Hash]


class Cost(evidence.Part):
    """Wall-clock time, s; null where nobody knows."""

    train: Seconds
    unlearn: Seconds
    retrain: Seconds
    references: Seconds = Field(description="of all reference models together")


class Register(evidence.Part):
    """A batch and its requests, the worst first."""

    schema_version: Literal[2]
    batch: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    started: str = Field(pattern=r"^\d{4}-\d\d-\d\dT")
    tool_version: str
    controller: str
    system: str
    mode: Literal["references", "screening"]
    alpha: evidence.Share
    method: str | None = Field(description="null where no request was carried out")
    cost: Cost
    passes: Count
    passes_that_hold: Count = Field(
        description="false discoveries among all passes of the batch controlled"
    )
    languages: list[Code] = Field(
        ["en"], min_length=1, description="of the pages, the main one first"
    )
    requests: list[Line]
    sentences: dict[str, Any] = Field(
        {}, description="what the reasons were made of, see tasks/common/language.py"
    )

    @property
    def counts(self) -> dict[Outcome, int]:
        """Requests by outcome, the worst first."""
        return counts(self.requests)

    @property
    def deadlines(self) -> Deadlines:
        """How the batch stands with the law's deadlines."""
        return deadlines(self.requests)

    def as_of(self, day: date) -> Register:
        """The same with the days left counted from `day`."""
        lines = [
            line.model_copy(
                update={"days_left": None if line.deadline is None else (line.deadline - day).days}
            )
            for line in self.requests
        ]
        return self.model_copy(update={"requests": lines})


class Deadlines(evidence.Part):
    """Requests by what is left of their deadline."""

    overdue: Count
    soon: Count = Field(description=f"at most {SOON} days are left")
    later: Count
    none: Count = Field(description="the law names no figure, or it cannot be counted")
    next: date | None = Field(strict=False, description="the nearest deadline that is not over")


class Past(evidence.Part):
    """What a later batch's summary says of this one."""

    batch: str
    started: str
    requests: Count
    counts: dict[str, Count]
    overdue: Count
    dated: Count = Field(description="requests with a deadline")
    method: str | None
    cost: Cost


Earlier: TypeAdapter[list[Past]] = TypeAdapter(list[Past])


def of(found: Sequence[dict[str, Any]], folders: Sequence[str], place: Path) -> Register:
    """The register of a batch.

    Args:
        found: the evidence of every request.
        folders: the folder of each, in the same order.
        place: where the folders lie; the lines carry the hashes of their files.

    Raises:
        EvidenceError: there is no request, or one's evidence is of another shape.
    """
    if not found:
        raise EvidenceError(
            f"{place.name}: got no request, expected at least one; run `erasure-audit run` again"
        )
    first = found[0]
    lines = [line(item, folder, place) for item, folder in zip(found, folders, strict=True)]
    passed = [entry for entry in lines if entry["verdict"] == "pass"]
    register = checked(
        {
            "schema_version": SCHEMA_VERSION,
            "batch": first["batch"],
            "started": first["provenance"]["started"],
            "tool_version": first["provenance"]["tool_version"],
            **first["organisation"],
            "mode": first["thresholds"]["mode"],
            "alpha": first["thresholds"]["alpha"],
            **spent(found),
            "passes": len(passed),
            "passes_that_hold": sum(entry["register"]["holds"] for entry in passed),
            "languages": first["provenance"]["settings"].get("report", {}).get("languages", ["en"]),
            "requests": lines,
            SENTENCES: {
                text: made
                for item in found
                for text, made in item.get(SENTENCES, {}).items()
                if text == item["reason"]
            },
        },
        place.name,
    )
    return register.model_copy(update={"requests": sorted(register.requests, key=urgency)})


def line(item: dict[str, Any], folder: str, place: Path) -> dict[str, Any]:
    """A request's line, with the hashes of its files."""
    return {
        "request_id": item["request"]["id"],
        "position": item["request"]["position"],
        "folder": folder,
        "status": item["status"],
        "progress": item["progress"],
        "test": item["test"],
        "verdict": item["verdict"],
        "outcome": item["outcome"],
        "register": item["register"],
        "reason": item["reason"],
        "regulation": item["request"]["regulation"],
        "received": item["request"]["received"],
        "subject_pseudonym": item["request"]["subject_pseudonym"],
        "records": item["request"]["records"],
        "deadline": item["deadline"]["date"],
        "days_left": item["deadline"]["days_left"],
        "residual_influence": item["residual_influence"],
        "sha256": {path.name: files.sha256(path) for path in sorted((place / folder).iterdir())},
    }


def urgency(entry: Line) -> tuple[int, date, int]:
    """Sorting key: the worst outcome first, then the nearest deadline."""
    return OUTCOMES.index(entry.outcome), entry.deadline or date.max, entry.position


def spent(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The batch's method and what it cost; every request that was carried out tells the same."""
    for item in found:
        if item["status"] == "audited":
            known = [
                model["seconds"]
                for model in item["models"]
                if model["role"] in ("with", "without") and model["seconds"] is not None
            ]
            cost = {key: item["seconds"][key] for key in ("train", "unlearn", "retrain")}
            return {
                "method": item["unlearn"]["method"],
                "cost": {**cost, "references": sum(known) if known else None},
            }
    return {"method": None, "cost": dict.fromkeys(Cost.model_fields)}


def checked(found: Any, where: str) -> Register:
    """The register, checked. Raises `EvidenceError` that names the first places at fault."""
    try:
        return Register.model_validate(found)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:3]
        ]
        raise EvidenceError(
            f"{where}: the register is not what it has to be: " + "; ".join(faults)
        ) from None


def read(folder: Path) -> Register:
    """The register of a batch as it lies in its folder of reports; one of an earlier version from
    its evidence.

    Raises:
        AuditError: there is none, or it cannot be read.
    """
    found = files.read_json(folder / FILE)
    if not isinstance(found, dict) or found.get("schema_version") not in (1, SCHEMA_VERSION):
        raise EvidenceError(
            f"{folder.name}/{FILE}: got an unknown version, expected 1 or {SCHEMA_VERSION}"
        )
    if found["schema_version"] == SCHEMA_VERSION:
        register = checked(found, f"{folder.name}/{FILE}")
    else:
        paths = sorted(folder.glob("*/evidence.json"))
        items = [
            migrations.upgrade(files.read_json(path), f"{folder.name}/{path.parent.name}")
            for path in paths
        ]
        register = of(items, [path.parent.name for path in paths], folder)
    if register.batch != folder.name:
        raise EvidenceError(
            f"{folder.name}/{FILE}: it is of batch {register.batch}; restore it with git"
        )
    return register


def read_all(reports: Path) -> tuple[list[Register], dict[str, str]]:
    """The registers of all batches, the latest first, and why others cannot be read, by the name of
    their folder."""
    found, unreadable = [], {}
    for folder in sorted(path.parent for path in reports.glob(f"*/{FILE}")):
        try:
            found.append(read(folder))
        except AuditError as error:
            unreadable[folder.name] = str(error)
    return sorted(
        found, key=lambda register: (register.started, register.batch), reverse=True
    ), unreadable


def counts(lines: Iterable[Line]) -> dict[Outcome, int]:
    """Requests by outcome, the worst first."""
    found = Counter(entry.outcome for entry in lines)
    return {outcome: found[outcome] for outcome in OUTCOMES}


def deadlines(lines: Sequence[Line]) -> Deadlines:
    """How requests stand with their deadlines."""
    left = [entry.days_left for entry in lines if entry.days_left is not None]
    ahead = [
        entry.deadline for entry in lines if entry.days_left is not None and entry.days_left >= 0
    ]
    return Deadlines(
        overdue=sum(days < 0 for days in left),
        soon=sum(0 <= days <= SOON for days in left),
        later=sum(days > SOON for days in left),
        none=len(lines) - len(left),
        next=min((day for day in ahead if day is not None), default=None),
    )


def past(register: Register) -> Past:
    """What a later batch's record keeps of this one."""
    due = register.deadlines
    return Past(
        batch=register.batch,
        started=register.started,
        requests=len(register.requests),
        counts={str(outcome): count for outcome, count in register.counts.items()},
        overdue=due.overdue,
        dated=due.overdue + due.soon + due.later,
        method=register.method,
        cost=register.cost,
    )


def earlier(record: Mapping[str, Any]) -> list[Past]:
    """The earlier batches that a batch's record names, the oldest first; a record of an earlier
    version names none.

    Raises:
        EvidenceError: they are not what they have to be.
    """
    try:
        found = Earlier.validate_python(record.get("earlier", []))
    except ValidationError as error:
        raise EvidenceError(
            f"the batch record, earlier: {error.errors()[0]['msg']}; run again"
        ) from None
    return sorted(found, key=lambda batch: (batch.started, batch.batch))


def table(registers: Sequence[Register]) -> str:
    """All lines as CSV for a spreadsheet (RFC 4180): a byte-order mark, and no cell of text that
    starts a formula."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        [
            *(
                "batch",
                "request",
                "outcome",
                "reason",
                "residual_influence",
                "low",
                "high",
                "records",
                "regulation",
            ),
            *(
                "received",
                "deadline",
                "days_left",
                "status",
                "test",
                "q_pass",
                "holds_in_batch",
                "folder",
            ),
        ]
    )
    for register in registers:
        for entry in register.requests:
            influence = entry.residual_influence
            judged = entry.register_
            row = [
                *(register.batch, entry.request_id, entry.outcome, entry.reason),
                *(
                    influence.estimate,
                    influence.low,
                    influence.high,
                    entry.records,
                    entry.regulation,
                ),
                *(entry.received, entry.deadline, entry.days_left, entry.progress, entry.test),
                *(judged and judged.q_pass, judged and judged.holds, entry.folder),
            ]
            writer.writerow([inert(cell) if isinstance(cell, str) else cell for cell in row])
    return "\ufeff" + text.getvalue()


def inert(cell: str) -> str:
    """The text with an apostrophe before it where a spreadsheet could take it for a formula."""
    return (
        f"'{cell}"
        if cell.lstrip(" \u00a0\u3000").startswith(FORMULA) or cell.startswith(FORMULA)
        else cell
    )


def page(registers: Sequence[Register]) -> dict[str, Any]:
    """What a page with the requests of these batches shows, the worst first; `chunks` are table
    bodies."""
    entries = [(register, line) for register in registers for line in register.requests]
    entries.sort(key=lambda entry: urgency(entry[1]))
    lines = [line for _, line in entries]
    return {
        "registers": registers,
        "counts": counts(lines),
        "rank": {outcome: place for place, outcome in enumerate(OUTCOMES)},
        "progresses": [
            name for name in get_args(Progress) if any(line.progress == name for line in lines)
        ],
        "soon": SOON,
        "chunks": [entries[first : first + CHUNK] for first in range(0, len(entries), CHUNK)],
        SENTENCES: {
            text: made for register in registers for text, made in register.sentences.items()
        },
        "hash": source_hash,
    }


def summary(register: Register, before: Sequence[Past]) -> dict[str, Any]:
    """What the summary of a batch shows; of the earlier batches the last ones."""
    laws = Counter((line.regulation or "–").upper() for line in register.requests)
    progress = Counter(line.progress for line in register.requests)
    own = past(register)
    shown = before[-MOST_EARLIER:]
    return {
        "r": register,
        "records": sum(line.records for line in register.requests),
        "laws": laws.most_common(),
        "due": register.deadlines,
        "soon": SOON,
        "progress": {name: progress[name] for name in get_args(Progress)},
        "earlier": shown,
        "left_out": len(before) - len(shown),
        "own": own,
        "outcomes": [
            name for name in OUTCOMES if any(batch.counts.get(name) for batch in (*shown, own))
        ],
        "hash": source_hash,
    }


def source_hash(text: str) -> str:
    """A style sheet or script as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
