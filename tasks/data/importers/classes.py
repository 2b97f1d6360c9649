"""Number the classes: from a label to the number of the model's output for it.

Numbers stay numbers: `2`, `2.0` and 2 are class 2, and a class without records keeps its number.
Names are sorted as text, as torchvision's ImageFolder sorts its folders. A model with another order
needs a file of names (`read`).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tasks.common import files
from tasks.common.errors import DataError

MOST = 100_000
"""Most classes if labels are numbers."""

SHOWN = 12
"""Most classes that a note names."""

NO_VALUE = ("", "nan", "NaN", "None", "<NA>", "NaT")
"""Texts that programs write for a missing value."""

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        codes: (n,) class of each record, 0 or more.
        names: of class 0, 1, …
        absent: classes without records.
        note: what the user should check, if anything.
    """

    codes: list[int]
    names: tuple[str, ...]
    absent: tuple[int, ...] = ()
    note: str | None = None


def read(path: Path) -> tuple[str, ...]:
    """Names of the classes in the order of the model's outputs.

    Args:
        path: a text file with one name per line, the first for output 0, or JSON: a list of names,
            an object `{name: number}` as torchvision's `class_to_idx`, or `{number: name}`.

    Raises:
        DataError: the file cannot be read, a name is blank or occurs twice, or a number is missing.
    """
    content = files.read_regular(path, limit=16 * 2**20)
    try:
        text = content.decode("utf-8-sig").strip()
        names = _from_json(json.loads(text)) if text[:1] in ("{", "[") else text.splitlines()
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path.name}: expected one class name per line in UTF-8, or JSON: a list of names, or "
            "an object of names and the numbers 0, 1, … without a gap"
        ) from error
    names = [name.strip() for name in names]
    if not names:
        raise DataError(f"{path.name}: got no names, expected one per class")
    for line, name in enumerate(names, start=1):
        if not name or name in names[: line - 1]:
            fault = "a blank" if not name else f"{name!r} for the second time"
            raise DataError(f"{path.name}: name {line}: got {fault}; expected one name per class")
    return tuple(names)


def _from_json(value: Any) -> list[str]:
    if isinstance(value, dict):
        pairs = list(value.items())
        if not all(isinstance(number, int) for number in value.values()):
            pairs = [(name, int(number)) for number, name in pairs]
        by_number = {number: name for name, number in pairs}
        value = [by_number.get(number) for number in range(len(pairs))]
    if not all(isinstance(name, str) for name in value):
        raise ValueError("a number is missing")
    return list(value)


def number_classes(
    labels: Sequence[Any],
    source: str,
    name_row: Callable[[int], str] = lambda row: f"row {row + 1}",
    class_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> Classes:
    """The class of each label.

    Args:
        labels: (n,) texts or numbers, as the source has them.
        source: where the labels are from, for errors.
        name_row: the name of a row in errors, from 0.
        class_names: names of the classes in the user's order. Labels are these names or, if no
            label is, class numbers.
        names: the source's own names of the classes 0, 1, …, if its labels are numbers.

    Raises:
        DataError: a label is blank, NaN, negative, no whole number, not among the names given, or
            some are numbers and some are names; the row is named.
    """
    texts = [_text(label) for label in labels]

    def refuse(row: int, fault: str, remedy: str = "correct the label") -> NoReturn:
        raise DataError(f"{source}: {name_row(row)}: {fault}; {remedy}")

    for row, text in enumerate(texts):
        if text in NO_VALUE and text not in (class_names or names or ()):
            refuse(
                row,
                "its label is blank, NaN or None",
                "give the record a label or remove it; a class of that name is one with --classes",
            )
    numeric = [_NUMBER.fullmatch(text) is not None for text in texts]
    if names is not None and class_names is None and not all(numeric):
        class_names = names
    if class_names is not None:
        known_names = set(map(_normal, class_names))
        if known_names & set(map(_normal, texts)) or not all(numeric):
            return _named(texts, class_names, refuse)
    if not any(numeric):
        class_order = sorted(set(texts))
        _refuse_two_spellings(texts, refuse)
        numbers = {name: code for code, name in enumerate(class_order)}
        return from_codes([numbers[text] for text in texts], tuple(class_order))
    if not all(numeric):
        row, numeric_row = numeric.index(False), numeric.index(True)
        refuse(
            row,
            f"its label {_shown(texts[row])} is a name, and that of {name_row(numeric_row)} "
            "is a number",
            "write all labels alike, or give the order of the classes with --classes",
        )
    return _numbered(texts, class_names or names, refuse)


def _named(
    texts: list[str], class_names: Sequence[str], refuse: Callable[..., NoReturn]
) -> Classes:
    """The classes of labels that are names, in the order given."""
    numbers = {_normal(name): code for code, name in enumerate(class_names)}
    codes = [numbers.get(_normal(text), -1) for text in texts]
    if -1 in codes:
        row = codes.index(-1)
        refuse(
            row,
            f"its label {_shown(texts[row])} is no class of those given",
            "add the class to the file, or correct the label",
        )
    return from_codes(codes, tuple(class_names))


def _refuse_two_spellings(texts: list[str], refuse: Callable[..., NoReturn]) -> None:
    """Refuse names that look the same but compose their accents differently."""
    spellings: dict[str, str] = {}
    for row, text in enumerate(texts):
        if spellings.setdefault(_normal(text), text) != text:
            refuse(
                row,
                f"its label {_shown(text)} is written in two ways (Unicode NFC and NFD)",
                "write it alike in all rows",
            )


def _numbered(
    texts: list[str], class_names: Sequence[str] | None, refuse: Callable[..., NoReturn]
) -> Classes:
    codes: list[int] = []
    spellings: dict[int, str] = {}
    for row, text in enumerate(texts):
        value = float(text)
        if not value.is_integer() or value < 0:
            fault = "negative" if value < 0 else "no whole number"
            refuse(
                row, f"its label {text} is {fault}", "classes are whole numbers from 0, or names"
            )
        if value >= (MOST if class_names is None else len(class_names)):
            limit = (
                f"{MOST} classes"
                if class_names is None
                else f"the {len(class_names)} classes given"
            )
            refuse(row, f"its label {text} is beyond {limit}")
        codes.append(int(value))
        digits = text.partition(".")[0]
        if "e" not in text.lower() and spellings.setdefault(codes[-1], digits) != digits:
            refuse(
                row,
                f"its label {text} and {spellings[codes[-1]]} are the same number",
                "write them alike, or give the order of the classes with --classes",
            )
    if class_names is not None:
        return from_codes(codes, tuple(class_names))
    names = tuple(map(str, range(max(codes, default=-1) + 1)))
    as_folders = sorted({spellings.get(code, str(code)) for code in codes})
    note = None
    if [int(name) for name in as_folders] != list(range(len(as_folders))):
        note = (
            "labels are numbers and stay what they are. If the model learned from folders of these "
            f"names (torchvision's ImageFolder), its classes are {_first(as_folders)}: "
            "import with --classes FILE, one name per line in that order"
        )
    return from_codes(codes, names, note)


def from_codes(codes: list[int], names: tuple[str, ...], note: str | None = None) -> Classes:
    """Classes from the number of each record."""
    absent = tuple(sorted(set(range(len(names))) - set(codes)))
    return Classes(codes, names, absent, note)


def _text(label: Any) -> str:
    """A label as text; nothing for NaN."""
    if isinstance(label, float) and math.isnan(label):
        return ""
    return (label.decode(errors="replace") if isinstance(label, bytes) else str(label)).strip()


def _normal(text: str) -> str:
    """The form by which names are compared: a number's value, else Unicode NFC."""
    if _NUMBER.fullmatch(text) and float(text).is_integer():
        return str(int(float(text)))
    return unicodedata.normalize("NFC", text)


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _shown(text: str) -> str:
    return repr(text[:40])
