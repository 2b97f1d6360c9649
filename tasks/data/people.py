"""Selects the records of a request: from its identities to rows of the manifest.

Labels, splits and roles play no part here. The stage `resolve` decides whether the records can be
forgotten; a release and an erasure remove them from the data set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.data import records
from tasks.requests.directory import Directory
from tasks.requests.opendsr import RefusedEntry, Request

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Selection:
    """The records that a request selects.

    Attributes:
        rows: (k,) rows of the manifest, in the order of the request where it names single records;
            none where there is a `fault`.
        subject_id: of their person; None if the request does not mean exactly one data subject.
        whole_subject: whether they are all records of that subject.
        fault: the reason why nothing is selected: `unknown_subject`, `similar_subject` (an identity
            is nearly one on record), `ambiguous_subject`, `unknown_record`,
            `record_of_another_subject`; None where something is.
        named: the record ids, or the types of similar identities, that the fault is about.
    """

    rows: NDArray[np.intp]
    subject_id: str | None = None
    whole_subject: bool = False
    fault: str | None = None
    named: tuple[str, ...] = ()


class People:
    """The data subjects of a data set and their records."""

    def __init__(self, manifest: pd.DataFrame, directory: Directory) -> None:
        """Args:
        manifest: n records, as `records.read_manifest` returns it; only `record_id` and
            `subject_id` are read.
        directory: whose identity is whose.
        """
        import pandas as pd

        self._directory = directory
        self._ids = pd.Index(manifest["record_id"])
        self._own = records.rows_by_subject(manifest)

    def select(self, request: Request) -> Selection:
        """Select the records of a request.

        Raises:
            PseudonymError: it holds pseudonyms, and the key at hand is missing or another one.
        """
        import pandas as pd

        none = np.empty(0, np.intp)
        subjects = self._directory.subjects(request.identities)
        if not subjects:
            similar = self._directory.near_misses(request.identities)
            fault = "similar_subject" if similar else "unknown_subject"
            return Selection(none, fault=fault, named=similar)
        if len(subjects) > 1:
            return Selection(none, fault="ambiguous_subject")
        (subject_id,) = subjects
        own_rows = self._own[subject_id]
        if not request.record_ids:
            return Selection(own_rows, subject_id, whole_subject=True)
        names = self._directory.record_ids(request)
        rows = self._ids.get_indexer(pd.Index(names))
        for fault, faulty in (
            ("unknown_record", rows < 0),
            ("record_of_another_subject", ~np.isin(rows, own_rows)),
        ):
            if faulty.any():
                at_fault = tuple(names[number] for number in np.flatnonzero(faulty))
                return Selection(none, subject_id, fault=fault, named=at_fault)
        return Selection(rows, subject_id, whole_subject=len(rows) == len(own_rows))


def requests_by_record(
    entries: Iterable[Request | RefusedEntry], manifest: pd.DataFrame, directory: Directory
) -> NDArray[np.str_]:
    """The request that asks for each record; the first one, if several do.

    Args:
        entries: requests, as `opendsr.read_batch` gives them; those that are refusals, or that
            select nothing, ask for no record.
        manifest: n records.
        directory: whose identity is whose.

    Returns:
        (n,) id of the request that asks for the record, "" where none does.

    Raises:
        PseudonymError: as `People.select`.
    """
    people = People(manifest, directory)
    requests = [entry for entry in entries if isinstance(entry, Request)]
    numbers = np.zeros(len(manifest), np.intp)
    for number, request in enumerate(requests, start=1):
        rows = people.select(request).rows
        numbers[rows] = np.where(numbers[rows] == 0, number, numbers[rows])
    return np.array(["", *(request.request_id for request in requests)], dtype=np.str_)[numbers]
