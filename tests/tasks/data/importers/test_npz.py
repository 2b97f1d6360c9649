"""Named arrays come in with their ids, labels and whites as they are."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks.common.errors import DataError
from tasks.data import records
from tasks.data.importers import npz
from tests.tasks.data.importers.test_idx import needs


def test_named_arrays_are_imported_with_their_whites_names_and_attributes(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        X=np.arange(4 * 6 * 8, dtype=np.uint8).reshape(4, 6, 8) % 16,
        maxval=np.array([15, 15, 30, 15]),
        pose=np.array([0, 1, 2, 1]),
        pose_names=np.array(["up", "down", "aside"]),
        who=np.array([0, 0, 1, 1]),
        glasses=np.array([0, 1, 0, 1]),
        glasses_names=np.array(["no", "yes"]),
    )
    summary = npz.import_data(
        tmp_path / "d",
        tmp_path / "a.npz",
        "X",
        "pose",
        "who",
        maxval="maxval",
        attributes=["glasses"],
    )
    assert summary.class_names == ("up", "down", "aside")
    manifest = records.read_manifest(tmp_path / "d")
    assert manifest["label"].tolist() == [0, 1, 2, 1]
    assert manifest["glasses"].tolist() == ["no", "yes", "no", "yes"]
    white = [np.asarray(Image.open(tmp_path / "d" / path)).max() for path in manifest["path"]]
    assert white == [255, 255, 128, 255]


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((2, 8, 8), 1.5),
        np.full((2, 8, 8), -1),
        np.full((2, 8, 8), np.nan),
        np.zeros((2, 8)),
        np.zeros((2, 8, 8, 5)),
        np.zeros((2, 8, 8), "U3"),
    ],
)
def test_arrays_that_are_no_images_are_refused_and_nothing_is_left(
    tmp_path: Path, pixels: NDArray[Any]
) -> None:
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(2))
    with pytest.raises(DataError, match=r"a\.npz"):
        npz.import_data(tmp_path / "data", tmp_path / "a.npz", subjects=None)
    assert not (tmp_path / "data").exists()


def test_arrays_of_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.array([{}, {}], dtype=object), labels=np.arange(2))
    with pytest.raises(DataError, match="images is an array of Python objects"):
        npz.import_data(tmp_path / "data", tmp_path / "a.npz", subjects=None)


def test_labels_in_one_column_are_labels_too(tmp_path: Path) -> None:
    images, labels = np.full((4, 8, 8), 200, np.uint8), np.array([[1], [0], [2], [1]])
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    npz.import_data(tmp_path / "data", tmp_path / "a.npz", subjects=None)
    assert records.read_manifest(tmp_path / "data")["label"].tolist() == [1, 0, 2, 1]


def test_a_missing_array_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pictures=np.zeros((2, 8, 8)), labels=np.arange(2))
    with pytest.raises(DataError, match=r"'images'.*pictures"):
        npz.import_data(tmp_path / "data", tmp_path / "a.npz")


def make_folder(folder: Path) -> Path:
    """Three photos of two people in three formats, and their table."""


def test_the_real_faces_are_imported_with_their_people(tmp_path: Path) -> None:
    source = needs("cmu_faces") / "cmu_faces.npz"
    summary = npz.import_data(
        tmp_path / "d",
        source,
        "X_64x60",
        "pose",
        "subject",
        maxval="maxval",
        attributes=["expression"],
    )
    assert (summary.records, summary.subjects, summary.classes, summary.image_size) == (
        624,
        20,
        4,
        64,
    )
    with np.load(source) as arrays:
        people = arrays["subject"].tolist()
    manifest = records.read_manifest(tmp_path / "d")
    assert manifest["subject_id"].tolist() == [str(number) for number in people]


def archive(folder: Path, **arrays: Any) -> Path:
    """Six grey images with labels 0, 1, 2 of three subjects, but for what is given."""
    images = np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8)
    known = {"images": images, "labels": np.arange(6) % 3, "subjects": np.arange(6) // 2 + 1}
    np.savez(folder / "a.npz", **(known | arrays))
    return folder / "a.npz"


@pytest.mark.parametrize(
    ("subjects", "ids"),
    [
        (np.array([1, 1, 2, 2, 3, 3]), ["1", "1", "2", "2", "3", "3"]),
        (np.array([1.0, 1, 2.5, 2, 3, 3]), ["1.0", "1.0", "2.5", "2.0", "3.0", "3.0"]),
        (np.array(["ada", "ada ", "bob"] * 2), ["ada", "ada", "bob"] * 2),
        (np.array([b"ada", b"bob", b"eve"] * 2), ["ada", "bob", "eve"] * 2),
    ],
)
def test_ids_stay_as_the_source_has_them(
    tmp_path: Path, subjects: NDArray[Any], ids: list[str]
) -> None:
    npz.import_data(tmp_path / "d", archive(tmp_path, subjects=subjects))
    assert records.read_manifest(tmp_path / "d")["subject_id"].tolist() == ids


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_id_that_is_no_number_is_an_error(tmp_path: Path, value: float) -> None:
    with pytest.raises(DataError, match=r"a\.npz: subjects: index 2: .*NaN"):
        npz.import_data(
            tmp_path / "d", archive(tmp_path, subjects=np.array([1, 1, value, 2, 3, 3]))
        )
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ([0, 1, -1, 0, 1, 2], "index 2: its label -1 is negative"),
        ([0, 1, np.nan, 0, 1, 2], "index 2: its label is blank, NaN or None"),
        ([0, 1, 2, 0, 1.5, 2], "index 4: its label 1.5 is no whole number"),
        (["a", "b", "", "a", "b", "a"], "index 2: its label is blank"),
    ],
)
def test_a_label_that_is_no_class_is_an_error(
    tmp_path: Path, labels: list[Any], fault: str
) -> None:
    with pytest.raises(DataError, match=rf"a\.npz: labels: {fault}"):
        npz.import_data(tmp_path / "d", archive(tmp_path, labels=np.array(labels)))


def test_a_class_that_does_not_occur_keeps_its_number(tmp_path: Path) -> None:
    labels = np.array([0, 1, 3, 0, 1, 3])
    summary = npz.import_data(tmp_path / "d", archive(tmp_path, labels=labels))
    assert (summary.classes, summary.absent) == (4, (2,))
    assert records.read_manifest(tmp_path / "d")["label"].tolist() == labels.tolist()


@pytest.mark.parametrize(("kind", "most"), [("u2", 4080), ("i8", 255), ("f4", 0.2), ("u1", 16)])
def test_images_that_would_be_read_nearly_black_are_told(
    tmp_path: Path, kind: str, most: float
) -> None:
    images = np.linspace(0, most, 6 * 64).reshape(6, 8, 8).astype(kind)
    path = archive(tmp_path, images=images)
    with pytest.raises(DataError, match=r"nearly black; set the value of white"):
        npz.import_data(tmp_path / "d", path)
    npz.import_data(tmp_path / "d", path, white=images.max())
    last = records.read_manifest(tmp_path / "d")["path"].tolist()[-1]
    assert np.asarray(Image.open(tmp_path / "d" / last)).max() == 255


def test_an_array_is_judged_by_its_header_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.npz"
    for shape, named in (((10**6, 10**3, 10**3), "bytes unpacked"), ((6, 8, 9), "damaged")):
        with (
            zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as held,
            held.open("images.npy", "w") as stream,
        ):
            head = {"shape": shape, "fortran_order": False, "descr": "|u1"}
            np.lib.format.write_array_header_1_0(stream, head)
            stream.write(bytes(30_000_000))
        with pytest.raises(DataError, match=rf"bomb\.npz: .*{named}"):
            npz.import_data(tmp_path / "d", bomb)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz: .*pipe"):
        npz.import_data(tmp_path / "d", tmp_path / "a.npz")
