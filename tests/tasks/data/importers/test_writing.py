"""A data folder is written whole or not at all; the embedded digits are always the same."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.common.errors import DataError
from tasks.common.settings import Data
from tasks.data import records
from tasks.data.importers import classes, digits, folder, idx, writing
from tests.tasks.data.importers.test_idx import make_idx
from tests.worlds import packing

DIGITS_MANIFEST = "3f299918cc5217d694e28dfb0f4670b0a83b6a86eab5d534c346c2155a15e2d5"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    summary = digits.import_data(folder)
    assert (summary.records, summary.subjects, summary.classes) == (1797, 45, 10)
    assert (summary.channels, summary.image_size) == (1, 16)
    return folder


def test_the_embedded_digits_are_the_same_bytes_on_every_machine(embedded: Path) -> None:
    assert hashlib.sha256((embedded / "manifest.csv").read_bytes()).hexdigest() == DIGITS_MANIFEST


def test_the_embedded_digits_load_and_say_that_their_writers_are_synthetic(embedded: Path) -> None:
    manifest = records.read_manifest(embedded)
    images = packing.images(embedded, Data(classes=10, channels=1, image_size=16))
    assert images.shape == (1797, 1, 16, 16)
    assert "synthetic" in json.loads((embedded / "dataset.json").read_text())["note"]
    assert manifest["subject_id"].str.fullmatch(r"writer-\d\d").all()


def test_a_record_id_that_is_a_path_is_refused_before_a_file_is_written(tmp_path: Path) -> None:
    picture = writing.encode(np.zeros((8, 8), np.uint8))
    columns: dict[str, list[Any]] = {
        "record_id": ["../../escaped"],
        "subject_id": ["a"],
    }
    with pytest.raises(DataError, match="record_id"):
        writing.write(
            tmp_path / "in/data",
            writing.Source("n", "s", "", classes.from_codes([0], ("a", "b")), columns, [picture]),
        )
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


@pytest.mark.parametrize(
    ("names", "subjects", "warned"),
    [
        (("ada", "grace"), ["ada", "grace", "ada", "grace"], True),
        (("Ada L.", "Grace H."), ["p1", "p2", "p1", "p2"], True),
        (("cat", "dog"), ["p1", "p2", "p2", "p1"], False),
        (("cat", "dog"), ["p1", "p2", "p3", "p4"], False),
        (("0", "1"), ["p1", "p2", "p1", "p2"], False),
    ],
)
def test_classes_that_seem_to_be_people_are_warned_of_without_a_name(
    names: tuple[str, str], subjects: list[str], warned: bool, tmp_path: Path
) -> None:
    columns: dict[str, list[Any]] = {
        "record_id": ["r1", "r2", "r3", "r4"],
        "subject_id": subjects,
    }
    pictures = [writing.encode(np.full((8, 8), 60 * n, np.uint8)) for n in range(4)]
    given = classes.from_codes([0, 1, 0, 1], names)
    summary = writing.write(
        tmp_path / "data", writing.Source("n", "s", "", given, columns, pictures)
    )
    warnings = [note for note in summary.notes if "classes seem to be people" in note]
    assert len(warnings) == warned
    assert not any(name in note for note in warnings for name in names)


def test_a_failed_import_leaves_the_former_data_set_as_it_was(tmp_path: Path) -> None:
    idx.import_data(tmp_path / "data", *make_idx(tmp_path))
    before = (tmp_path / "data/manifest.csv").read_bytes()
    with pytest.raises(DataError):
        folder.import_data(tmp_path / "data", tmp_path, tmp_path / "absent.csv")
    assert (tmp_path / "data/manifest.csv").read_bytes() == before


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="no data set"):
        idx.import_data(tmp_path / "data", *make_idx(tmp_path))
    assert (tmp_path / "data/thesis.txt").exists()


def test_a_png_is_written_without_compression_so_that_no_library_changes_its_bytes() -> None:
    picture = writing.encode(np.zeros((16, 16), np.uint8))
    assert len(picture.content) > 16 * 16
    assert Image.open(io.BytesIO(picture.content)).size == (16, 16)


def test_a_data_set_of_one_class_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {"record_id": ["a"], "subject_id": ["a"]}
    picture = writing.encode(np.zeros((8, 8), np.uint8))
    source = writing.Source("n", "s", "", classes.from_codes([0], ("a",)), columns, [picture])
    with pytest.raises(DataError, match="one class"):
        writing.write(tmp_path / "data", source)
    assert list(tmp_path.iterdir()) == []
