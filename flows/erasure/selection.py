"""The records of a batch to erase, with all their names, and the fate of each request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.erasure import containers
from flows.erasure.shelf import Shelf
from flows.workspace import shell
from tasks.common import files
from tasks.common.errors import AuditError
from tasks.data import records
from tasks.pooling import table as pool_table
from tasks.requests import decisions, pseudonyms

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from flows.register.register import Register
    from tasks.requests.directory import Directory
    from tasks.requests.opendsr import RefusedEntry, Request

NOT_IN_TRAINING = "not_in_training"
"""Code of requests that were set aside because no model was trained on their records."""
ERASED = "erased"
"""Fate of a request whose records are erased."""


class NothingToEraseError(AuditError):
    """The records of no request of the batch may be erased."""


@dataclass
class ErasureSelection:
    """The records to erase.

    Attributes:
        table: their rows of the manifest; `trained`: a model saw the record, `last`: no record of
            the same person remains.
        identities: further identities of people without remaining records.
        requests: the fate of each request, by id.
    """

    table: pd.DataFrame
    identities: list[str]
    requests: dict[str, str]

    @property
    def trained(self) -> set[str]:
        """The ids of the records that models were trained on."""
        return set(self.table["record_id"][self.table["trained"]])


def select(
    home: Path,
    batch: str,
    folder: Path,
    shelf: Shelf,
    on_record: Mapping[str, str],
    register: Register | None,
) -> ErasureSelection:
    """The records of a batch that must be erased.

    Args:
        home: the workspace.
        batch: its name.
        folder: a private folder for files with personal data.
        shelf: DVC's stores.
        on_record: the batch's state as audited, md5 by path.
        register: of the requests, if there is one.

    Raises:
        NothingToEraseError: the records of no request may be erased.
        MissingObjectError: a list of records is in no store.
    """
    import numpy as np

    from tasks.data import people as data_subjects
    from tasks.requests.directory import Directory, read_identities
    from tasks.requests.opendsr import read_batch

    manifest = shelf.data(on_record["data"], folder)
    people = read_identities(folder)
    directory = Directory(
        manifest["subject_id"].unique().tolist(),
        people,
        manifest["record_id"].tolist(),
        lambda: pseudonyms.load_key(home),
    )
    path = folder / f"{batch}.json"
    path.write_text(shell.git(home, "show", f"audit/{batch}:./requests/{batch}.json"))
    requests = read_batch(path)
    requested, entries = _resolution(requests, manifest, directory, folder, shelf, on_record)
    fates = _fates(home, batch, entries, register)
    codes = {str(entry["request_id"]): entry["code"] for entry in entries}
    untrained = [
        request
        for request in requests
        if codes[request.request_id] == NOT_IN_TRAINING and fates[request.request_id] == ERASED
    ]
    chosen = np.where(
        requested != "", requested, data_subjects.requests_by_record(untrained, manifest, directory)
    )
    is_going = np.array([fates.get(str(request)) == ERASED for request in chosen], bool)
    if not is_going.any():
        why = "; ".join(f"{request}: {fate}" for request, fate in fates.items())
        raise NothingToEraseError(
            f"batch {batch}: no request is left whose records may be erased: {why}"
        )
    is_last = ~manifest["subject_id"].isin(set(manifest["subject_id"][~is_going]))
    table = manifest.assign(trained=requested != "", last=is_last)[is_going]
    return ErasureSelection(table, _identities(people, table), fates)


def _resolution(
    requests: list[Request | RefusedEntry],
    manifest: pd.DataFrame,
    directory: Directory,
    folder: Path,
    shelf: Shelf,
    on_record: Mapping[str, str],
) -> tuple[NDArray[np.str_], list[dict[str, Any]]]:
    """The resolution of a batch, as its audit made it.

    Returns:
        (n,) the request that the models forget each record for, or empty; and an entry for each
        request.
    """
    import numpy as np

    from tasks import resolve

    if "artifacts/resolve/forget.csv" in on_record:
        forget = folder / "forget.csv"
        forget.write_bytes(shelf.require(on_record["artifacts/resolve/forget.csv"], "forget.csv"))
        resolved = shelf.require(on_record.get("artifacts/resolve/register.json"), "register.json")
        return records.read_forget(forget, manifest), json.loads(resolved)["batch_requests"]
    # no model was trained on anybody of the batch, so its audit ended before the stage
    split = folder / "split.csv"
    split.write_bytes(shelf.require(on_record.get("artifacts/split.csv"), "split.csv"))
    roles = records.read_roles(split, manifest)
    entries = resolve.decide(requests, manifest, roles, directory).register
    return np.full(len(manifest), ""), entries


def _identities(people: pd.DataFrame | None, table: pd.DataFrame) -> list[str]:
    """Further identities of people without remaining records."""
    if people is None:
        return []
    leaving = set(table["subject_id"][table["last"]])
    return sorted(people["identity_value"][people["subject_id"].isin(leaving)])


def _fates(
    home: Path, batch: str, entries: list[dict[str, Any]], register: Register | None
) -> dict[str, str]:
    """The fate of each request: `erased`, or why its data stay."""
    path = home / decisions.FOLDER / f"{batch}.json"
    decided = decisions.parse(
        files.read_json(path) if path.exists() else {},
        [str(entry["request_id"]) for entry in entries],
        "ledger/decisions",
    )
    return {str(entry["request_id"]): _fate(batch, entry, decided, register) for entry in entries}


def _fate(
    batch: str, entry: Mapping[str, Any], decided: decisions.Decisions, register: Register | None
) -> str:
    request, code = str(entry["request_id"]), entry["code"]
    if entry["status"] != "accepted" and code != NOT_IN_TRAINING:
        return f"set aside ({code})"
    decisions_on_request = decided.of(request)
    if decisions_on_request.exceptions:
        return "an exception is claimed"
    if (
        "refuse"
        in {approval.by: approval.decision for approval in decisions_on_request.approvals}.values()
    ):
        return "refused"
    return ERASED if register is None else _fate_in_register(batch, request, register)


def _fate_in_register(batch: str, request: str, register: Register) -> str:
    from flows.register.register import State, UnknownRequestError

    try:
        case = register.case(request)
    except UnknownRequestError:  # the batch was written by hand
        return ERASED
    if case.batch not in (None, batch):
        return "asked for again in another batch"
    past = case.state in (State.RELEASED, State.ERASED, State.CLOSED)
    return ERASED if past else f"not released ({case.shown})"


@dataclass
class RecordNames:
    """All names of records, in every version of the data.

    Attributes:
        md5: of their files, as DVC names them.
        sha256: of their files, as in the manifest.
        pixels: of their decoded files; see `containers.pixels`.
        record_ids: of the records.
        subject_ids: of the people without remaining records.
        paths: of their files in the data folder.
        pool_rows: of the records in pools, as `tasks.pooling.table.keys` makes them.
    """

    md5: set[str]
    sha256: set[str]
    pixels: set[str]
    record_ids: set[str]
    subject_ids: set[str]
    paths: set[str]
    pool_rows: set[bytes]


def names_of(table: pd.DataFrame, shelf: Shelf, versions: Iterable[str]) -> RecordNames:
    """All names of records.

    Args:
        table: rows of the manifest, with `last` as in `ErasureSelection`.
        shelf: DVC's stores.
        versions: of the data.
    """
    names = RecordNames(
        set(),
        set(table["sha256"]),
        set(),
        set(table["record_id"]),
        set(table["subject_id"][table["last"]]),
        set(table["path"]),
        _pool_rows(table),
    )
    for version in sorted(versions):
        listed, rows = shelf.entries(version), shelf.table(version)
        if listed is None or rows is None:
            continue
        own_rows = rows[
            rows["record_id"].isin(names.record_ids) | rows["subject_id"].isin(names.subject_ids)
        ]
        names.record_ids |= set(own_rows["record_id"])
        names.sha256 |= set(own_rows["sha256"])
        names.paths |= set(own_rows["path"])
        names.pool_rows |= _pool_rows(own_rows)
        names.md5 |= {listed[path] for path in own_rows["path"] if path in listed}
    return names


def _pool_rows(table: pd.DataFrame) -> set[bytes]:
    return {key.tobytes() for key in pool_table.keys(table)}


def pixels_of(oids: Iterable[str], shelf: Shelf) -> set[str]:
    """Digests of the pixels of records' files, which find copies in other formats."""
    pixels: set[str] = set()
    for oid in oids:
        content = shelf.picture(oid)
        digest = containers.pixels(content) if content is not None else None
        if digest is not None:
            pixels.add(digest)
    return pixels
