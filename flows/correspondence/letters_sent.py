"""Letters to data subjects: which are due, those that no report carries, and that they were sent.

The reports of a batch carry its letters. What is told before there is a report, an extension or a
refusal, is written from the register alone. That a letter was sent is a note in the register, by
whom, when and how.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

from flows.register import recorded
from flows.register.chain import Step
from flows.register.register import (
    CORRECTED,
    EXTENDED,
    OPEN,
    Case,
    Event,
    Register,
    State,
)
from tasks.common import language, settings
from tasks.common.errors import AuditError
from tasks.reporting import letters
from tasks.reporting.batch_register import stored
from tasks.reporting.pdf import Printer

TEMPLATES = Path("reports/templates")


class LetterError(AuditError):
    """A letter or a notice that cannot be written or recorded."""


@dataclass(frozen=True)
class DueLetter:
    """A letter that was not sent yet.

    Attributes:
        request_id: to whose request.
        letter: answer, refusal or extension.
        due: the last day for it; None where the law names none.
        file: where it lies, from the workspace; empty: it is written with `letters write`.
    """

    request_id: str
    letter: letters.Kind
    due: date | None
    file: str

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"due": self.due and self.due.isoformat()}


@dataclass(frozen=True)
class DueNotice:
    """A recipient who was not told yet of an erasure that was carried out (Art. 19 GDPR).

    Attributes:
        batch: whose records were erased.
        recipient: his name, as `report.recipients` lists him.
        requests: ids of the requests that he has to be told of.
    """

    batch: str
    recipient: str
    requests: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"letter": "notice", **asdict(self), "requests": list(self.requests)}


def notices_due(home: Path, register: Register) -> list[DueNotice]:
    """The notices to recipients that are due, by batch: those that reports name as open, without
    those that were recorded since."""
    recorded_notices = {
        (event.batch, event.request_id, event.details["to"])
        for event in register.history(kind=recorded.NOTICE)
    }
    open_: dict[tuple[str, str], list[str]] = defaultdict(list)
    for batch in stored.read_all(home / "reports")[0]:
        for line in batch.requests:
            for name in line.not_told:
                if not recorded_notices & {
                    (batch.batch, request, name) for request in (None, line.request_id)
                }:
                    open_[batch.batch, name].append(line.request_id)
    return [DueNotice(*key, tuple(sorted(requests))) for key, requests in sorted(open_.items())]


def due(home: Path, register: Register) -> list[DueLetter]:
    """The letters that are due and were not sent, the nearest deadline first."""
    notes = {
        kind: register.history(kind=kind)
        for kind in (recorded.LETTER, EXTENDED, State.REJECTED, CORRECTED)
    }
    events: dict[str, list[Event]] = defaultdict(list)
    for event in chain.from_iterable(notes.values()):
        events[str(event.request_id)].append(event)
    letters_due = (_due(home, case, events[case.request_id]) for case in register.cases())
    return sorted(
        (letter for letter in letters_due if letter is not None),
        key=lambda letter: (letter.due or date.max, letter.request_id),
    )


def _due(home: Path, case: Case, history: Sequence[Event]) -> DueLetter | None:
    """The letter that one request waits for, from its events of the kinds above. A request that
    was corrected is answered anew, whatever it was told before."""
    ordered = sorted(history, key=lambda event: event.seq)
    corrected = max((event.seq for event in ordered if event.kind == CORRECTED), default=0)
    since = [event for event in ordered if event.seq > corrected]
    sent = {event.details["letter"] for event in since if event.kind == recorded.LETTER}
    if case.state in OPEN:
        longer = [event for event in ordered if event.kind == EXTENDED]
        if not longer or "extension" in sent:
            return None
        first = longer[-1].details["from"]
        last = date.fromisoformat(first) if first else None
        return DueLetter(case.request_id, "extension", last, "")
    if sent & {"answer", "refusal"}:
        return None
    rejected = any(event.kind == State.REJECTED for event in since)
    file = f"reports/{case.batch}/{case.request_id}/letter.pdf"
    beside_report = file if case.batch and (home / file).exists() else ""
    return DueLetter(case.request_id, "refusal" if rejected else "answer", case.due, beside_report)


def sent(
    home: Path,
    register: Register,
    request_ids: Sequence[str],
    by: str,
    how: str,
) -> list[DueLetter]:
    """Record that the due letters of requests were sent; all of them or none.

    Args:
        home: the workspace.
        register: its register.
        request_ids: whose letters.
        by: who sent them.
        how: by which way; no address and no name of a data subject.

    Raises:
        LetterError: of one of them no letter is due.
    """
    listed = [
        (name, _due(home, register.case(name), register.history(name))) for name in request_ids
    ]
    if lacking := [name for name, letter in listed if letter is None]:
        raise LetterError(
            f"request {lacking[0]}: no letter is due; `erasure-audit letters due` lists those that "
            "are"
        )
    due_letters = [letter for _, letter in listed if letter is not None]
    register.note_all(
        [
            Step(
                by,
                letter.request_id,
                register.case(letter.request_id).batch,
                recorded.LETTER,
                {"letter": letter.letter, "how": how},
            )
            for letter in due_letters
        ]
    )
    return due_letters


def write(home: Path, register: Register, request_ids: Sequence[str], out: Path) -> list[Path]:
    """Write the notices of extension and the refusals of requests, each as page, PDF and text.

    Args:
        home: the workspace.
        register: its register.
        request_ids: whose letters.
        out: folder, in which each request gets a folder of its own.

    Raises:
        LetterError: of one of them neither is on record; an answer lies beside its report.
    """
    chosen = settings.load(home / "params.yaml").report
    pairs = [(name, _letter(register, name, chosen)) for name in request_ids]
    printer = Printer(home / TEMPLATES)
    folders = []
    for name, letter in pairs:
        languages = register.case(name).wishes.get("languages", [])
        code = next(iter(language.of_report([], languages)), chosen.languages[0])
        writer = letters.LetterWriter(home / TEMPLATES, code, chosen.letters)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        writer.write(letter, printer, folder)
        folders.append(folder)
    return folders


def _letter(register: Register, request_id: str, chosen: settings.Report) -> letters.Letter:
    case = register.case(request_id)
    recorded_facts = recorded.of_request(register.history(request_id))
    common: dict[str, Any] = {
        "reference": letters.reference(case.request_id),
        "regulation": case.regulation,
        "controller": chosen.controller,
        "contact": chosen.contact,
        "authority": chosen.authority,
        "received": case.submitted,
    }
    if refusal := recorded_facts.get("refusal"):
        facts = {"reason": refusal["reason"], "ground": refusal.get("ground", "")}
        return letters.Letter("refusal", at=refusal["at"], **facts, **common)
    if case.state in OPEN and (longer := recorded_facts.get("extension")):
        facts = {"reason": longer["reason"], "until": longer["to"]}
        return letters.Letter("extension", at=longer["at"], **facts, **common)
    raise LetterError(
        f"request {request_id} is {case.shown}: neither a refusal nor an extension is on record; "
        "an answer lies beside its report, in reports/<batch>/<request>/"
    )
