"""Labels keep their numbers; names have the order of ImageFolder, unless one is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import ImageFolder

from tasks.common.errors import DataError
from tasks.data.importers import classes

FLOATS = [f"{number}.0" for number in range(12)]


@pytest.mark.parametrize(
    ("labels", "codes", "names"),
    [
        (FLOATS, list(range(12)), [str(number) for number in range(12)]),
        (["10", "2", "2"], [10, 2, 2], [str(number) for number in range(11)]),
        ([0, 1, 3], [0, 1, 3], ["0", "1", "2", "3"]),
        ([0.0, 1.0, 1e1], [0, 1, 10], [str(number) for number in range(11)]),
        ([b"b", b"a"], [1, 0], ["a", "b"]),
        ([True, False], [1, 0], ["False", "True"]),
        ([" cat", "dog ", "Ape"], [1, 2, 0], ["Ape", "cat", "dog"]),
    ],
)
def test_numbers_stay_and_names_are_sorted(
    labels: list[Any], codes: list[int], names: list[str]
) -> None:
    numbered = classes.number_classes(labels, "t.csv")
    assert (numbered.codes, list(numbered.names)) == (codes, names)
    assert numbered.absent == tuple(sorted(set(range(len(names))) - set(codes)))


def test_names_have_the_order_of_torchvisions_image_folder(tmp_path: Path) -> None:
    names = ["zebra", "10a", "9a", "Äpfel", "_x", "ape", "Zoo"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    theirs = ImageFolder(str(tmp_path), is_valid_file=lambda path: True).classes
    assert list(classes.number_classes(names, "t.csv").names) == theirs


def test_numbers_that_folders_would_sort_otherwise_are_told() -> None:
    assert "1, 10, 11, 12, 2, 3" in str(
        classes.number_classes([str(n) for n in range(1, 13)], "t.csv").note
    )
    assert classes.number_classes([str(n) for n in range(10)], "t.csv").note is None
    assert classes.number_classes([f"{n:02d}" for n in range(12)], "t.csv").note is None
    assert "are 01, 03: import" in str(classes.number_classes(["03", "01"], "t.csv").note)


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (["0", "", "1"], "row 2: its label is blank"),
        (["0", "  ", "1"], "row 2: its label is blank"),
        ([0.0, float("nan")], "row 2: its label is blank, NaN or None"),
        (["0", "-1"], "row 2: its label -1 is negative"),
        (["0", "0.5"], "row 2: its label 0.5 is no whole number"),
        (["0", "cat"], "row 2: its label 'cat' is a name, and that of row 1 is a number"),
        (["0", "nan"], "row 2: its label is blank, NaN or None"),
        (["cat", "None"], "row 2: its label is blank, NaN or None"),
        (["cafe\u0301", "caf\u00e9"], r"row 2: its label 'café' is written in two ways \(Unicode"),
        (["7", "07"], "row 2: its label 07 and 7 are the same number"),
        (["0", "1e999"], "row 2: .*1e999"),
        (["0", "999999999"], "row 2: its label 999999999 is beyond"),
    ],
)
def test_a_label_that_is_no_class_is_an_error_that_names_the_row(
    labels: list[Any], fault: str
) -> None:
    with pytest.raises(DataError, match=rf"t\.csv: {fault}"):
        classes.number_classes(labels, "t.csv")


@pytest.mark.parametrize(
    ("given", "labels", "codes"),
    [
        (["1", "10", "11", "2"], ["10", "2", "1"], [1, 3, 0]),
        (["1", "10", "11", "2"], ["10.0", 2.0, "1"], [1, 3, 0]),
        (["dog", "cat"], ["cat", "dog"], [1, 0]),
        (["dog", "cat", "ape"], ["2", "0"], [2, 0]),
        (["cafe\u0301", "bar"], ["caf\u00e9", "bar"], [0, 1]),
        (["None", "Mass"], ["Mass", "None"], [1, 0]),
    ],
)
def test_an_order_that_is_given_is_kept(
    given: list[str], labels: list[Any], codes: list[int]
) -> None:
    numbered = classes.number_classes(labels, "t.csv", class_names=given)
    assert (numbered.codes, list(numbered.names)) == (codes, given)


def test_a_label_outside_the_classes_given_is_an_error_that_names_the_row() -> None:
    for labels in (["cat", "bird"], ["cat", "1"], ["1", "5"]):
        with pytest.raises(DataError, match=r"t\.csv: row 2: its label"):
            classes.number_classes(labels, "t.csv", class_names=["dog", "cat"])


@pytest.mark.parametrize(
    "content",
    [
        "dog\ncat\n",
        "\ufeffdog \r\ncat\r\n",
        json.dumps(["dog", "cat"]),
        json.dumps({"cat": 1, "dog": 0}),
        json.dumps({"1": "cat", "0": "dog"}),
    ],
)
def test_a_file_of_classes_is_text_or_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "classes").write_text(content)
    assert classes.read(tmp_path / "classes") == ("dog", "cat")


@pytest.mark.parametrize(
    "content", ["", "dog\n\ncat", "dog\ndog", '{"dog": 0, "cat": 2}', "[1, 2]", '{"a"', '{"a": []}']
)
def test_a_faulty_file_of_classes_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "classes").write_text(content)
    with pytest.raises(DataError, match="classes: "):
        classes.read(tmp_path / "classes")
