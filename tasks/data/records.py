"""The data set: `manifest.csv`, one line per record, and the lists that stages make of records.

A data set is a folder with `manifest.csv` (`record_id, subject_id, label, path, sha256`, optionally
`split` and any attribute) and the files that `path` names, relative to the folder. Errors name
records, never data subjects.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.common import files
from tasks.common.errors import DataError
from tasks.data import rules

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("record_id", "subject_id", "label", "path", "sha256")
"""Columns that every manifest has."""


def read_manifest(folder: Path) -> pd.DataFrame:
    """Read and check the manifest of a data set; the image files are not opened.

    Returns:
        One row per record in the file's order: `label` int64, all other columns strings.

    Raises:
        DataError: the manifest is missing, is no CSV in UTF-8, lacks a column, or breaks one of
            `rules.MANIFEST`.
    """
    table = read_table(folder)
    for rule, faulty in rules.faults(table, folder).items():
        if faulty.any():
            raise DataError(
                f"manifest.csv: {name_records(table, faulty)}: expected that {rule.sentence}. "
                "Correct the manifest"
            )
    return with_integer_labels(table)


def read_table(folder: Path) -> pd.DataFrame:
    """Read the manifest as strings. Checks its columns, not its values.

    Raises:
        DataError: the manifest is missing, empty, no CSV in UTF-8, or lacks a column.
    """
    table = files.read_csv(folder / "manifest.csv", COLUMNS)
    if not len(table):
        raise DataError(
            "manifest.csv: got no records, expected one line per record below the column names"
        )
    return table


def with_integer_labels(table: pd.DataFrame) -> pd.DataFrame:
    """The manifest with `label` as int64; the table must obey `rules.MANIFEST`."""
    return table.assign(label=table["label"].astype(np.int64))


def rows_by_subject(manifest: pd.DataFrame) -> dict[str, NDArray[np.intp]]:
    """Rows of each subject's records, in order, by subject id."""
    grouped = manifest.groupby("subject_id").indices
    return {str(subject): np.asarray(rows, np.intp) for subject, rows in grouped.items()}


def name_records(table: pd.DataFrame, faulty: NDArray[np.bool_], limit: int = 5) -> str:
    """Name the first faulty records and count the rest; a malformed id is replaced by its row."""
    rows = np.flatnonzero(faulty)
    ids = table["record_id"].iloc[rows[:limit]].tolist()
    names = [
        text if re.fullmatch(rules.IDENTIFIER, text) else f"in row {row + 1}"
        for text, row in zip(ids, rows, strict=False)
    ]
    more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
    return f"record{'s' if len(rows) > 1 else ''} {', '.join(names)}{more}"


def read_roles(path: Path, manifest: pd.DataFrame) -> NDArray[np.str_]:
    """Read `split.csv` (`record_id, role`).

    Returns:
        (n,) role of each record of the manifest, one of `rules.ROLES`.

    Raises:
        DataError: the file is not a split of exactly the manifest's records.
    """
    table = files.read_csv(path, ("record_id", "role"))
    _refuse(
        table,
        ~table["role"].isin(rules.ROLES).to_numpy(bool),
        path,
        f"a role of {', '.join(rules.ROLES)}",
    )
    roles = _aligned(table, "role", manifest, path)
    _refuse(manifest, roles == "", path, "a role for every record of the manifest")
    return roles


def read_forget(path: Path, manifest: pd.DataFrame) -> NDArray[np.str_]:
    """Read `forget.csv` (`record_id, request_id`).

    Returns:
        (n,) id of the request that each record of the manifest is forgotten for; "" where it is
        retained.

    Raises:
        DataError: the file names a record twice or one that the manifest has not.
    """
    table = files.read_csv(path, ("record_id", "request_id"))
    _refuse(table, (table["request_id"] == "").to_numpy(bool), path, "a request id")
    return _aligned(table, "request_id", manifest, path)


def _aligned(
    table: pd.DataFrame, column: str, manifest: pd.DataFrame, path: Path
) -> NDArray[np.str_]:
    import pandas as pd

    _refuse(table, table["record_id"].duplicated().to_numpy(bool), path, "each record once")
    rows = pd.Index(manifest["record_id"]).get_indexer(pd.Index(table["record_id"]))
    _refuse(table, rows < 0, path, "records of manifest.csv only")
    values = table[column].to_numpy(np.str_)
    aligned = np.full(len(manifest), "", dtype=values.dtype if len(values) else "<U1")
    aligned[rows] = values
    return aligned


def _refuse(table: pd.DataFrame, faulty: NDArray[np.bool_], path: Path, expected: str) -> None:
    if faulty.any():
        raise DataError(
            f"{path.name}: {name_records(table, faulty)}: expected {expected}; run the stage that "
            "makes it"
        )
