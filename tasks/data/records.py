"""The data set: `manifest.csv`, one line per record, and the lists that stages make of records.

A data set is a folder with `manifest.csv` (`record_id, subject_id, label, path, sha256`, optionally
`split` and any attribute) and the files that `path` names, relative to the folder. Errors name
records, never data subjects.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.common import files
from tasks.common.errors import DataError
from tasks.common.language import say

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("record_id", "subject_id", "label", "path", "sha256")
"""Columns that every manifest has."""

ROLES = ("training", "calibration", "control", "test")
"""What a data subject is for."""

SPLIT_VALUES = (*ROLES, "unseen")
"""Values of the manifest's optional column `split`; `unseen` subjects are shared out by the split
stage."""

IDENTIFIER = r"[A-Za-z0-9._-]{1,64}"
"""Form of a record id and of a subject id."""

RULES = {
    "record_id_form": say("record_id is 1-64 of A-Z a-z 0-9 . _ -"),
    "record_id_unique": say("record_id is unique"),
    "subject_id_form": say(
        "subject_id is 1-64 of A-Z a-z 0-9 . _ - (e-mail addresses and names belong in "
        "identities.csv)"
    ),
    "label_form": say("label is a whole number, 0 or more"),
    "path_inside": say(
        "path is relative, has no `..` or `\\`, and leads to a file inside the data folder, not "
        "by a link out of it "
        "(with DVC: `dvc config cache.type copy`)"
    ),
    "path_unique": say("path is unique, one file per record"),
    "sha256_form": say("sha256 is 64 of 0-9 a-f"),
    "split_known": say("split is one of {values}", values=", ".join(SPLIT_VALUES)),
    "one_split": say("all records of a subject have the same split value"),
}
"""What the manifest has to be, by the name of the rule."""


def read_manifest(folder: Path) -> pd.DataFrame:
    """Read and check the manifest of a data set; the image files are not opened.

    Returns:
        One row per record in the file's order: `label` int64, all other columns strings.

    Raises:
        DataError: the manifest is missing, is no CSV in UTF-8, lacks a column, or breaks one of
            `RULES`.
    """
    table = read_table(folder)
    for rule, bad in faults(table, folder).items():
        if bad.any():
            raise DataError(
                f"manifest.csv: {name_records(table, bad)}: expected that {RULES[rule]}. Correct "
                "the manifest"
            )
    return typed(table)


def read_table(folder: Path) -> pd.DataFrame:
    """Read the manifest as strings, with its columns checked and its values not.

    Raises:
        DataError: the manifest is missing, empty, no CSV in UTF-8, or lacks a column.
    """
    table = files.read_csv(folder / "manifest.csv", COLUMNS)
    if not len(table):
        raise DataError(
            "manifest.csv: got no records, expected one line per record below the column names"
        )
    return table


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """The manifest with `label` as int64; the table must obey `RULES`."""
    return table.assign(label=table["label"].astype(np.int64))


def faults(table: pd.DataFrame, folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Which rows of a manifest break which of `RULES`.

    Returns:
        By rule, (n,) bool, true where the record is at fault. Rules on `split` only where there is
        such a column.
    """
    found = {
        "record_id_form": ~_matches(table["record_id"], IDENTIFIER),
        "record_id_unique": table["record_id"].duplicated(keep=False).to_numpy(bool),
        "subject_id_form": ~_matches(table["subject_id"], IDENTIFIER),
        "label_form": ~_matches(table["label"], r"[0-9]{1,9}"),
        "path_inside": ~inside(table["path"], folder),
        "path_unique": table["path"].duplicated(keep=False).to_numpy(bool),
        "sha256_form": ~_matches(table["sha256"], r"[0-9a-f]{64}"),
    }
    if "split" in table:
        found["split_known"] = ~table["split"].isin(SPLIT_VALUES).to_numpy(bool)
        found["one_split"] = in_two_groups(table["subject_id"], table["split"])
    return found


def in_two_groups(members: pd.Series[Any], groups: pd.Series[Any]) -> NDArray[np.bool_]:
    """(n,) bool: true where the same member also occurs with another group; linear in n."""
    pairs = members.to_frame("member").assign(group=groups).drop_duplicates()
    twice = pairs.loc[pairs["member"].duplicated(), "member"]
    return members.isin(twice).to_numpy(bool)


def rows_by_subject(manifest: pd.DataFrame) -> dict[str, NDArray[np.intp]]:
    """Rows of each subject's records, in order, by subject id."""
    grouped = manifest.groupby("subject_id").indices
    return {str(subject): np.asarray(rows, np.intp) for subject, rows in grouped.items()}


def name_records(table: pd.DataFrame, bad: NDArray[np.bool_], first: int = 5) -> str:
    """Name the first records at fault and count the rest; a record whose id is malformed is named
    by its row."""
    rows = np.flatnonzero(bad)
    ids = table["record_id"].iloc[rows[:first]].tolist()
    names = [
        text if re.fullmatch(IDENTIFIER, text) else f"in row {row + 1}"
        for text, row in zip(ids, rows, strict=False)
    ]
    more = f" and {len(rows) - first} more" if len(rows) > first else ""
    return f"record{'s' if len(rows) > 1 else ''} {', '.join(names)}{more}"


def _matches(values: pd.Series[Any], pattern: str) -> NDArray[np.bool_]:
    lines = values.tolist()
    text = _lines(lines)
    # nearly always all do, and one search in all of the text is ten times as fast as one in each
    # value
    if text is not None and re.fullmatch(f"(?:{pattern}\n)*+", text):
        return np.ones(len(lines), bool)
    fits = re.compile(pattern).fullmatch
    return np.fromiter((fits(value) is not None for value in lines), bool, len(lines))


def _lines(values: list[str]) -> str | None:
    """The values as a text with one on each line; None if one of them holds the end of a line."""
    text = "\n".join([*values, ""])
    return text if text.count("\n") == len(values) else None


def inside(paths: pd.Series[Any], folder: Path) -> NDArray[np.bool_]:
    """Whether each path stays in the folder: by its text, and by where its symbolic links lead."""
    root, lines = folder.resolve(), paths.tolist()
    text = _lines(lines)
    if text is not None and not any(part in f"\n{text}" for part in _ODD_IN_PATHS):
        parents = {path.rpartition("/")[0] for path in lines}
        if all(_links(root, parent) == (True, frozenset()) for parent in parents):
            return np.ones(len(lines), bool)
    directories: dict[str, tuple[bool, frozenset[str]]] = {}

    def contained(path: str) -> bool:
        parent, _, name = path.rpartition("/")
        if not name or "\\" in path or "\0" in path or ":" in path or path[0] == "/":
            return False
        if ".." in path and ".." in path.split("/"):
            return False
        if parent not in directories:
            directories[parent] = _links(root, parent)
        within, links = directories[parent]
        return within and (name not in links or _leads_inside(root / path, root))

    return np.fromiter((contained(path) for path in lines), bool, len(lines))


def _leads_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a loop of links
        return False


_ODD_IN_PATHS = ("\\", "\0", ":", "..", "\n/", "/\n", "\n\n")
"""What no plain path has, where each is a line of its own."""


def _links(root: Path, parent: str) -> tuple[bool, frozenset[str]]:
    """Whether a directory lies inside the root, and which of its entries are links; an absent one
    has none."""
    place = root / parent
    try:
        if not place.resolve().is_relative_to(root):
            return False, frozenset()
        with os.scandir(place) as entries:
            return True, frozenset(entry.name for entry in entries if entry.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return True, frozenset()
    except (OSError, RuntimeError):  # a loop of links, a name too long, no permission
        return False, frozenset()


def read_roles(path: Path, manifest: pd.DataFrame) -> NDArray[np.str_]:
    """Read `split.csv` (`record_id, role`).

    Returns:
        (n,) role of each record of the manifest, one of `ROLES`.

    Raises:
        DataError: the file is not a split of exactly the manifest's records.
    """
    table = files.read_csv(path, ("record_id", "role"))
    _refuse(table, ~table["role"].isin(ROLES).to_numpy(bool), path, f"a role of {', '.join(ROLES)}")
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


def _refuse(table: pd.DataFrame, bad: NDArray[np.bool_], path: Path, expected: str) -> None:
    if bad.any():
        raise DataError(
            f"{path.name}: {name_records(table, bad)}: expected {expected}; run the stage that "
            "makes it"
        )
