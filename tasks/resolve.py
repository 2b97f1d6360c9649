"""Stage `resolve`: find the records that each request wants forgotten, and set aside requests that
cannot be acted on."""

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
from tasks.data.people import People, Selection
from tasks.requests.directory import Directory, read_directory
from tasks.requests.opendsr import RefusedEntry, Request, read_batch

if TYPE_CHECKING:
    import pandas as pd

REASONS = {
    "unknown_subject": mark(
        "no data subject of the data set has one of these identities; check the identity and its "
        "type, and the table of identities where the identity is not a customer id"
    ),
    "similar_subject": mark(
        "no data subject of the data set has exactly one of these identities, but one on record is "
        "nearly the same ({types}): another case, accent, sign, leading zero, country code or "
        "type; check whose it is, and send the request again with the identity as it is on record"
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
        "from the data set, that is all"
    ),
    "whole_class": mark(
        "with it no training record of class {classes} would be left and the model could not keep "
        "that class; retire the class, or add records of other subjects to it"
    ),
    "whole_data_set": mark(
        "with it no training record at all would be left; retire the model instead"
    ),
}
"""Why a well-formed request is set aside, by code."""


@dataclass(frozen=True)
class Resolution:
    """The result for a batch: (n,) request id per record, "" if retained, and one register entry
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
    """Write the records to forget (forget.csv) and the outcome of each request (register.json)."""
    files.read_json(checked)  # the check was made; what it says of requests is decided here anew
    manifest = records.read_manifest(data)
    roles = records.read_roles(split, manifest)
    resolution = decide(read_batch(requests), manifest, roles, read_directory(data, manifest))
    # written first: a batch without any accepted request stops below, and its reasons are kept
    files.write_json(out / "register.json", with_sentences({"batch_requests": resolution.register}))
    refuse_nothing_left(resolution.register, requests.name)
    forgotten = resolution.forget != ""
    table = manifest.loc[forgotten, ["record_id"]].assign(request_id=resolution.forget[forgotten])
    files.write_text(
        out / "forget.csv", table.sort_values("record_id").to_csv(index=False, lineterminator="\n")
    )
    for entry in resolution.register:
        outcome = _why_set_aside(entry) or f"{entry['records']} records"
        stage_cli.say(f"request {entry['request_id']}: {entry['status']}, {outcome}")


def decide(
    entries: list[Request | RefusedEntry],
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
    claims = _Claims(manifest, roles, directory)
    return Resolution(
        register=[claims.enter(entry) for entry in entries], forget=claims.request_ids()
    )


def pseudonym(request_id: str, subject_id: str) -> str:
    """12 hexadecimal digits that stand for a subject in the documents of one request only."""
    return hashlib.sha256(f"erasure-audit/{request_id}/{subject_id}".encode()).hexdigest()[:12]


def refuse_nothing_left(register: list[dict[str, Any]], name: str) -> None:
    """Raise `RequestError` with every request's reason if none was accepted."""
    if not any(entry["status"] == "accepted" for entry in register):
        reasons = "; ".join(f"{entry['request_id']}: {_why_set_aside(entry)}" for entry in register)
        raise RequestError(f"{name}: no request of the batch can be acted on. {reasons}")


def _why_set_aside(entry: dict[str, Any]) -> str | None:
    """Why a request is set aside, without record ids, for logs."""
    names_records = entry["code"] in ("unknown_record", "record_of_another_subject")
    return (
        f"{entry['code']}; its report names them"
        if names_records
        else entry["reason"] and str(entry["reason"])
    )


class _Claims:
    """The records that earlier requests of the batch claimed, and how many of each class are
    left."""

    def __init__(
        self, manifest: pd.DataFrame, roles: NDArray[np.str_], directory: Directory
    ) -> None:
        self._people = People(manifest, directory)
        self._labels = manifest["label"].to_numpy()
        self._training = roles == "training"
        self._retained = Counter(self._labels[self._training].tolist())
        self._accepted: list[str] = []
        # number of the accepted request that claims the record, from 1; 0: none
        self._claims = np.zeros(len(manifest), np.intp)

    def enter(self, entry: Request | RefusedEntry) -> dict[str, Any]:
        """Decide on one entry; returns its line in the register."""
        if isinstance(entry, RefusedEntry):
            return _line(entry, code=entry.code, reason=entry.reason)
        selection = self._people.select(entry)
        rows, facts = selection.rows, self._facts(entry, selection)
        code = selection.fault or self._objection(rows, facts)
        if code:
            return _set_aside(entry, code, **facts)
        forgotten = rows[self._training[rows]]
        labels = Counter(self._labels[forgotten].tolist())
        self._retained -= labels
        self._accepted.append(entry.request_id)
        self._claims[rows] = len(self._accepted)
        facts.pop("named")
        counts = {str(label): labels[label] for label in sorted(labels)}
        return _line(entry, records=len(forgotten), labels=counts, **facts)

    def request_ids(self) -> NDArray[np.str_]:
        """(n,) id of the request that each training record is forgotten for, else ""."""
        names = np.array(["", *self._accepted], dtype=np.str_)
        return names[np.where(self._training, self._claims, 0)]

    def _facts(self, entry: Request, selection: Selection) -> dict[str, Any]:
        """The selection's fields in the register."""
        if selection.subject_id is None:
            return {"types": ", ".join(selection.named)}
        return {
            "named": _some(selection.named),
            "subject_pseudonym": pseudonym(entry.request_id, selection.subject_id),
            "whole_subject": selection.whole_subject,
        }

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


def _some(record_ids: tuple[str, ...]) -> Sentence | None:
    if not record_ids:
        return None
    if len(record_ids) > 5:
        return say(
            "records {names} and {more} more",
            names=", ".join(record_ids[:5]),
            more=len(record_ids) - 5,
        )
    if len(record_ids) > 1:
        return say("records {names}", names=", ".join(record_ids))
    return say("record {name}", name=record_ids[0])


def _set_aside(entry: Request, code: str, **facts: Any) -> dict[str, Any]:
    texts = {
        "records": facts.pop("named", None),
        "classes": facts.pop("emptied", None),
        "types": facts.pop("types", None),
    }
    values = {name: text for name, text in texts.items() if text}
    return _line(entry, code=code, reason=Sentence(REASONS[code], values), **facts)


def _line(entry: Request | RefusedEntry, **facts: Any) -> dict[str, Any]:
    """A line of the register; `facts` override the defaults below."""
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
