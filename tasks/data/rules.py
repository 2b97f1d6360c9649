"""The rules of the data set's tables, each written once.

A rule gives an expectation of Great Expectations, which the stage `check` reports, and from the
same values a fast test that finds the rows that break it. Importers and every stage that reads the
manifest use the fast test. No result holds a value, because values may be personal.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.common.language import Sentence, say

if TYPE_CHECKING:
    import pandas as pd

ROLES = ("training", "calibration", "control", "test")
"""The roles of data subjects."""

SPLIT_VALUES = (*ROLES, "unseen")
"""Values of the manifest's optional column `split`; `unseen` subjects are shared out by the split
stage."""

IDENTIFIER = r"[A-Za-z0-9._-]{1,64}"
"""Form of a record id and of a subject id."""


@dataclass(frozen=True)
class Rule:
    """An expectation about a column of a table, given by one of the fields after `severity`.

    Attributes:
        name: short machine word.
        sentence: what is expected, as a statement.
        column: of the table or of the facts about its rows.
        severity: an error stops the audit (data) or sets the request aside; a warning is only
            shown.
        pattern: regular expression that every value matches whole.
        unique: every value occurs once.
        values: every value is one of these.
        between: every value is in this range, both ends included; None: no end.
        covers: each of these occurs. It concerns the whole table, so no single row breaks it.
    """

    name: str
    sentence: Sentence
    column: str
    severity: Literal["error", "warning"] = "error"
    pattern: str | None = None
    unique: bool = False
    values: tuple[str | bool, ...] = ()
    between: tuple[float | None, float | None] | None = None
    covers: tuple[int, ...] = ()

    def expectation(self) -> tuple[str, dict[str, Any]]:
        """The name of the expectation of Great Expectations, and its arguments."""
        column = {"column": self.column}
        if self.pattern is not None:
            regex = rf"^{self.pattern}\Z"
            return "ExpectColumnValuesToMatchRegex", column | {"regex": regex}
        if self.unique:
            return "ExpectColumnValuesToBeUnique", column
        if self.between is not None:
            ends = {"min_value": self.between[0], "max_value": self.between[1]}
            return "ExpectColumnValuesToBeBetween", column | ends
        if self.covers:
            values = {"value_set": list(self.covers)}
            return "ExpectColumnDistinctValuesToContainSet", column | values
        return "ExpectColumnValuesToBeInSet", column | {"value_set": list(self.values)}

    def broken(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """(n,) which of n rows break the rule."""
        values = table[self.column]
        if self.pattern is not None:
            return ~_matches(values, self.pattern)
        if self.unique:
            return values.duplicated(keep=False).to_numpy(bool)
        if self.between is not None:
            lowest, highest = self.between
            fits = np.ones(len(values), bool)
            if lowest is not None:
                fits &= (values >= lowest).to_numpy(bool)
            if highest is not None:
                fits &= (values <= highest).to_numpy(bool)
            return ~fits
        if self.covers:
            return np.zeros(len(values), bool)
        return ~values.isin(self.values).to_numpy(bool)


ONE_SPLIT = say("all records of a subject have the same split value")

MANIFEST = (
    Rule(
        "record_id_form",
        say("record_id is 1-64 of A-Z a-z 0-9 . _ -"),
        "record_id",
        pattern=IDENTIFIER,
    ),
    Rule("record_id_unique", say("record_id is unique"), "record_id", unique=True),
    Rule(
        "subject_id_form",
        say(
            "subject_id is 1-64 of A-Z a-z 0-9 . _ - (e-mail addresses and names belong in "
            "identities.csv)"
        ),
        "subject_id",
        pattern=IDENTIFIER,
    ),
    Rule("label_form", say("label is a whole number, 0 or more"), "label", pattern=r"[0-9]{1,9}"),
    Rule(
        "path_inside",
        say(
            "path is relative, has no `..` or `\\`, and leads to a file inside the data folder, "
            "not by a link out of it (with DVC: `dvc config cache.type copy`)"
        ),
        "path_inside",
        values=(True,),
    ),
    Rule("path_unique", say("path is unique, one file per record"), "path", unique=True),
    Rule("sha256_form", say("sha256 is 64 of 0-9 a-f"), "sha256", pattern=r"[0-9a-f]{64}"),
    Rule(
        "split_known",
        say("split is one of {values}", values=", ".join(SPLIT_VALUES)),
        "split",
        values=SPLIT_VALUES,
    ),
    Rule("one_split", ONE_SPLIT, "one_split", values=(True,)),
)
"""The rules of the manifest; the last two apply only if it has a column `split`."""


def of_manifest(table: pd.DataFrame) -> tuple[Rule, ...]:
    """The rules that hold for a manifest with these columns."""
    return MANIFEST if "split" in table else MANIFEST[:-2]


def facts(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The manifest with further columns that the rules need."""
    derived = {"path_inside": inside(table["path"], folder)}
    if "split" in table:
        derived["one_split"] = ~in_two_groups(table["subject_id"], table["split"])
    return table.assign(**derived)


def faults(table: pd.DataFrame, folder: Path) -> dict[Rule, NDArray[np.bool_]]:
    """The rows of a manifest that break each rule; all values are strings.

    Returns:
        By rule, (n,) bool, true where the record is at fault.
    """
    known_facts = facts(table, folder)
    return {rule: rule.broken(known_facts) for rule in of_manifest(table)}


def in_two_groups(members: pd.Series[Any], groups: pd.Series[Any]) -> NDArray[np.bool_]:
    """(n,) bool: true where the same member also occurs with another group; linear in n."""
    pairs = members.to_frame("member").assign(group=groups).drop_duplicates()
    twice = pairs.loc[pairs["member"].duplicated(), "member"]
    return members.isin(twice).to_numpy(bool)


def _matches(values: pd.Series[Any], pattern: str) -> NDArray[np.bool_]:
    lines = values.tolist()
    text = _lines(lines)
    # usually all match, and one search in the joined text is ten times as fast as one per value
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
"""Characters and parts that a plain path does not contain, in a text with one path per line."""


def _links(root: Path, parent: str) -> tuple[bool, frozenset[str]]:
    """Whether a directory lies inside the root, and which of its entries are links; an absent one
    has none."""
    folder = root / parent
    try:
        if not folder.resolve().is_relative_to(root):
            return False, frozenset()
        with os.scandir(folder) as entries:
            return True, frozenset(entry.name for entry in entries if entry.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return True, frozenset()
    except (OSError, RuntimeError):  # a loop of links, a name too long, no permission
        return False, frozenset()
