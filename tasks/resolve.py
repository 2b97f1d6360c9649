"""Stage: which records have to be forgotten, and for which request; what cannot be acted on is set
aside."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.common import files, stage_cli
from tasks.common.errors import RequestError
from tasks.common.language import Sentence, mark, say, with_sentences
from tasks.data import records
from tasks.requests.opendsr import Directory, Refusal, Request, read_batch, read_directory

if TYPE_CHECKING:
    import pandas as pd

REASONS = {
    "unknown_subject": mark(
        "no data subject of the data set has one of these identities; check the identity and its "
        "type, and "
        "identities.csv where the identity is not a customer id"
    ),
    "ambiguous_subject": mark(
        "its identities are those of several data subjects; send one request per subject"
    ),
    "duplicate_subject": mark(
        "an earlier request of this batch already asks for these records; that one is acted on"
    ),
    "unknown_record": mark(
        "the data set has no such record as {records}; correct extensions.erasure_audit.record_ids"
    ),
    "record_of_another_subject": mark(
        "{records} belong to another data subject; a request can name its own subject's records "
        "only"
    ),
    "not_in_training": mark(
        "no model was trained on these records, so there is nothing to unlearn; erase the records "
        "from the data set, "
        "that is all"
    ),
    "whole_class": mark(
        "with it no training record of class {classes} would be left and the model could not keep "
        "that class; retire "
        "the class, or add records of other subjects to it"
    ),
    "whole_data_set": mark(
        "with it no training record at all would be left; retire the model instead"
    ),
}
"""Why a well-formed request is set aside, by code."""


@dataclass(frozen=True)
class Resolution:
    """What a batch comes to: (n,) request id per record, "" where retained, and one register entry
    per request."""

    forget: NDArray[np.str_]
    register: list[dict[str, Any]]


def resolve(
    data: Path = Path("data"),
    split: Path = Path("artifacts/split.csv"),
    requests: Path = Path("requests/demo.json"),
    checked: Path = Path("artifacts/check/requests.json"),
    out: Path = Path("artifacts/resolve"),
) -> None:
    """Write which records are to be forgotten (forget.csv) and what became of each request
    (register.json)."""
    files.read_json(
        checked
    )  # only that the check was made: what it found about requests is decided here again
    manifest = records.read_manifest(data)
    roles = records.read_roles(split, manifest)
    resolution = decide(read_batch(requests), manifest, roles, read_directory(data, manifest))
    # first, so that whoever handles a batch of which nothing is left knows what became of each
    # request
    files.write_json(out / "register.json", with_sentences({"batch_requests": resolution.register}))
    refuse_nothing_left(resolution.register, requests.name)
    forgotten = resolution.forget != ""
    table = manifest.loc[forgotten, ["record_id"]].assign(request_id=resolution.forget[forgotten])
    files.write_text(
        out / "forget.csv", table.sort_values("record_id").to_csv(index=False, lineterminator="\n")
    )
    for entry in resolution.register:
        outcome = _told(entry) or f"{entry['records']} records"
        stage_cli.say(f"request {entry['request_id']}: {entry['status']}, {outcome}")


def decide(
    entries: list[Request | Refusal],
    manifest: pd.DataFrame,
    roles: NDArray[np.str_],
    directory: Directory,
) -> Resolution:
    """Accept or set aside each request, in the order of the file.

    Args:
        entries: the batch as parsed.
        manifest: n records, as `records.read_manifest` returns it.
        roles: (n,) role of each record.
        directory: whose identity is whose.

    Returns:
        The forget set and the register. Only training records are forgotten: no model saw the
        others.
    """
    book = _Book(manifest, roles, directory)
    return Resolution(register=[book.enter(entry) for entry in entries], forget=book.request_ids())


def pseudonym(request_id: str, subject_id: str) -> str:
    """12 hexadecimal digits that stand for a subject in the papers of one request, and in no
    other."""
    return hashlib.sha256(f"erasure-audit/{request_id}/{subject_id}".encode()).hexdigest()[:12]


def refuse_nothing_left(register: list[dict[str, Any]], name: str) -> None:
    """Raise `RequestError` with every request's reason if none was accepted."""
    if not any(entry["status"] == "accepted" for entry in register):
        reasons = "; ".join(f"{entry['request_id']}: {_told(entry)}" for entry in register)
        raise RequestError(f"{name}: no request of the batch can be acted on. {reasons}")


def _told(entry: dict[str, Any]) -> str | None:
    """Why a request is set aside, as logs may hold it: they name no record."""
    named = entry["code"] in ("unknown_record", "record_of_another_subject")
    return (
        f"{entry['code']}; its report names them"
        if named
        else entry["reason"] and str(entry["reason"])
    )


class _Book:
    """The records not yet claimed, as the requests come in one by one."""

    def __init__(
        self, manifest: pd.DataFrame, roles: NDArray[np.str_], directory: Directory
    ) -> None:
        import pandas as pd

        self._directory = directory
        self._labels = manifest["label"].to_numpy()
        self._training = roles == "training"
        self._retained = Counter(self._labels[self._training].tolist())
        self._claims = np.zeros(
            len(manifest), np.int64
        )  # position of the request that asked for the record, 0: none
        self._accepted: dict[int, str] = {}
        self._ids = pd.Index(manifest["record_id"])
        self._own = records.rows_by_subject(manifest)

    def enter(self, entry: Request | Refusal) -> dict[str, Any]:
        """Decide on one entry; returns its line in the register."""
        if isinstance(entry, Refusal):
            return _line(entry, code=entry.code, reason=entry.reason)
        found = self._directory.subjects(entry.identities)
        if len(found) != 1:
            return _set_aside(entry, "ambiguous_subject" if found else "unknown_subject")
        (subject_id,) = found
        own = self._own[subject_id]
        rows, code, facts = self._asked_for(entry, own)
        facts["subject_pseudonym"] = pseudonym(entry.request_id, subject_id)
        facts["whole_subject"] = not entry.record_ids or len(rows) == len(own)
        code = code or self._objection(rows, facts)
        if code:
            return _set_aside(entry, code, **facts)
        forgotten = rows[self._training[rows]]
        labels = Counter(self._labels[forgotten].tolist())
        self._retained -= labels
        self._claims[rows] = entry.position
        self._accepted[entry.position] = entry.request_id
        counts = {str(label): labels[label] for label in sorted(labels)}
        return _line(entry, records=len(forgotten), labels=counts, **facts)

    def request_ids(self) -> NDArray[np.str_]:
        """(n,) id of the request that each training record is forgotten for, else ""."""
        names = np.array(["", *self._accepted.values()], dtype=np.str_)
        place = {position: number for number, position in enumerate((0, *self._accepted))}
        claims = np.where(self._training, self._claims, 0)
        known, inverse = np.unique(claims, return_inverse=True)
        ids: NDArray[np.str_] = names[
            np.array([place[int(position)] for position in known])[inverse]
        ]
        return ids

    def _asked_for(
        self, entry: Request, own: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], str | None, dict[str, Any]]:
        """Rows that a request means, and why they cannot be taken."""
        if not entry.record_ids:
            return own, None, {}
        import pandas as pd

        names = self._directory.record_ids(entry)
        rows = self._ids.get_indexer(pd.Index(names))
        if (rows < 0).any():
            return own[:0], "unknown_record", {"named": _some(names, rows < 0)}
        foreign = ~np.isin(rows, own)
        if foreign.any():
            return own[:0], "record_of_another_subject", {"named": _some(names, foreign)}
        return rows, None, {}

    def _objection(self, rows: NDArray[np.intp], facts: dict[str, Any]) -> str | None:
        """Why the records cannot be forgotten, given what was accepted before."""
        if self._claims[rows].any():
            return "duplicate_subject"
        labels = Counter(self._labels[rows[self._training[rows]]].tolist())
        if not labels:
            return "not_in_training"
        if labels.total() == self._retained.total():
            return "whole_data_set"
        emptied = [str(label) for label in sorted(labels) if labels[label] == self._retained[label]]
        if emptied:
            facts["emptied"] = ", ".join(emptied)
            return "whole_class"
        return None


def _some(record_ids: tuple[str, ...], bad: NDArray[np.bool_]) -> Sentence:
    names = [record_ids[place] for place in np.flatnonzero(bad)]
    if len(names) > 5:
        return say(
            "records {names} and {more} more", names=", ".join(names[:5]), more=len(names) - 5
        )
    if len(names) > 1:
        return say("records {names}", names=", ".join(names))
    return say("record {name}", name=names[0])


def _set_aside(
    entry: Request, code: str, named: str = "", emptied: str = "", **facts: Any
) -> dict[str, Any]:
    values = {name: value for name, value in (("records", named), ("classes", emptied)) if value}
    return _line(entry, code=code, reason=Sentence(REASONS[code], values), **facts)


def _line(entry: Request | Refusal, **facts: Any) -> dict[str, Any]:
    """A line of the register; `facts` are what is known beyond the entry's own head."""
    blank: dict[str, Any] = {
        "code": None,
        "reason": None,
        "subject_pseudonym": None,
        "records": 0,
        "labels": {},
        "whole_subject": False,
    }
    return {
        "position": entry.position,
        "request_id": entry.request_id,
        "regulation": entry.regulation,
        "received": entry.received,
        "languages": list(entry.languages) if isinstance(entry, Request) else [],
        "status": "rejected" if facts.get("code") else "accepted",
        **blank,
        **facts,
    }


if __name__ == "__main__":
    stage_cli.run(resolve)
