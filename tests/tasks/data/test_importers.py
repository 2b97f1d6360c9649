"""Importers make a whole data folder or none; real data sets come out as they are."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks.common.errors import DataError
from tasks.common.settings import Data
from tasks.data import importers, records
from tests.worlds import packing

SHARED = Path(__file__).resolve().parents[4] / "shared" / "datasets"
DIGITS_MANIFEST = "3f299918cc5217d694e28dfb0f4670b0a83b6a86eab5d534c346c2155a15e2d5"


def needs(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"the real data set {name} is not on this machine (../shared/datasets)")
    return SHARED / name


def idx_bytes(values: NDArray[Any]) -> bytes:
    code = {np.dtype(np.uint8): 8, np.dtype(np.int32): 12}[values.dtype]
    head = bytes([0, 0, code, values.ndim]) + b"".join(
        size.to_bytes(4, "big") for size in values.shape
    )
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    summary = importers.digits(folder)
    assert (summary.records, summary.subjects, summary.classes) == (1797, 45, 10)
    assert (summary.channels, summary.image_size) == (1, 16)
    return folder


def test_the_embedded_digits_are_the_same_bytes_on_every_machine(digits: Path) -> None:
    assert hashlib.sha256((digits / "manifest.csv").read_bytes()).hexdigest() == DIGITS_MANIFEST


def test_the_embedded_digits_load_and_say_that_their_writers_are_synthetic(digits: Path) -> None:
    manifest = records.read_manifest(digits)
    images = packing.images(digits, Data(classes=10, channels=1, image_size=16))
    assert images.shape == (1797, 1, 16, 16)
    assert "synthetic" in json.loads((digits / "dataset.json").read_text())["note"]
    assert manifest["subject_id"].str.fullmatch(r"writer-\d\d").all()


def make_idx(folder: Path, count: int = 30) -> tuple[Path, Path, Path]:
    random = np.random.default_rng(0)
    images, labels, writers = (
        folder / "images.idx.gz",
        folder / "labels.idx",
        folder / "writers.idx",
    )
    images.write_bytes(gzip.compress(idx_bytes(random.integers(0, 256, (count, 9, 7), np.uint8))))
    label = np.arange(count) % 3
    labels.write_bytes(idx_bytes(label.astype(np.uint8)))
    table = np.zeros((count, 8), np.int32)
    table[:, 0], table[:, 2] = label, np.arange(count) % 7
    writers.write_bytes(idx_bytes(table))
    return images, labels, writers


def test_idx_files_plain_or_gzip_are_imported_pixel_by_pixel(tmp_path: Path) -> None:
    images, labels, writers = make_idx(tmp_path)
    summary = importers.idx(tmp_path / "data", images, labels, writers)
    assert (summary.records, summary.subjects, summary.classes, summary.image_size) == (
        30,
        7,
        3,
        12,
    )
    manifest = records.read_manifest(tmp_path / "data")
    assert manifest["subject_id"][8] == "writer-0001"
    stored = np.asarray(Image.open(tmp_path / "data" / manifest["path"][4]))
    assert (stored == importers.read_idx(images)[4]).all()


def test_idx_without_writers_makes_each_record_its_own_subject(tmp_path: Path) -> None:
    images, labels, _ = make_idx(tmp_path)
    assert importers.idx(tmp_path / "data", images, labels).subjects == 30


def test_a_draw_of_subjects_depends_on_the_seed_only_and_keeps_the_minimum(tmp_path: Path) -> None:
    paths = make_idx(tmp_path)
    importers.idx(tmp_path / "a", *paths, subjects=2, min_records=5, seed=3)
    importers.idx(tmp_path / "b", *paths, subjects=2, min_records=5, seed=3)
    assert (tmp_path / "a/manifest.csv").read_bytes() == (tmp_path / "b/manifest.csv").read_bytes()
    counts = records.read_manifest(tmp_path / "a")["subject_id"].value_counts()
    assert len(counts) == 2
    assert counts.min() >= 5
    with pytest.raises(DataError, match="fewer"):
        importers.idx(tmp_path / "c", *paths, subjects=5, min_records=5)


@pytest.mark.parametrize(
    "damage", ["truncated", "not gzip", "no idx", "other labels", "fewer labels"]
)
def test_damaged_idx_files_are_refused_and_nothing_is_left(tmp_path: Path, damage: str) -> None:
    images, labels, writers = make_idx(tmp_path)
    if damage == "truncated":
        images.write_bytes(gzip.compress(gzip.decompress(images.read_bytes())[:-9]))
    elif damage == "not gzip":
        images.write_bytes(images.read_bytes()[:40])
    elif damage == "no idx":
        labels.write_bytes(b"hello")
    elif damage == "other labels":
        labels.write_bytes(idx_bytes(np.zeros(30, np.uint8)))
    else:
        labels.write_bytes(idx_bytes(np.zeros(29, np.uint8)))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(DataError):
        importers.idx(tmp_path / "data", images, labels, writers)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


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
    summary = importers.npz(
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
        importers.npz(tmp_path / "data", tmp_path / "a.npz", subjects=None)
    assert not (tmp_path / "data").exists()


def test_arrays_of_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.array([{}, {}], dtype=object), labels=np.arange(2))
    with pytest.raises(DataError, match="objects"):
        importers.npz(tmp_path / "data", tmp_path / "a.npz", subjects=None)


def test_a_missing_array_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pictures=np.zeros((2, 8, 8)), labels=np.arange(2))
    with pytest.raises(DataError, match=r"'images'.*pictures"):
        importers.npz(tmp_path / "data", tmp_path / "a.npz")


def make_folder(folder: Path) -> Path:
    """Three photos of two people in three formats, and their table."""
    (folder / "photos/ada lovelace").mkdir(parents=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
    picture.save(folder / "photos/ada lovelace/1.JPG")
    picture.convert("L").save(folder / "photos/ada lovelace/2.webp")
    picture.resize((40, 40)).save(folder / "photos/3.bmp")
    table = folder / "people.csv"
    table.write_text(
        "path,subject_id,label,site,split\nada lovelace/1.JPG,p1,dog,x,training\n"
        "ada lovelace/2.webp,p1,cat,x,training\n3.bmp,p2,dog,y,unseen\n"
    )
    return table


def test_a_folder_of_images_is_copied_byte_for_byte_under_neutral_names(tmp_path: Path) -> None:
    table = make_folder(tmp_path)
    summary = importers.image_folder(tmp_path / "data", tmp_path / "photos", table)
    assert summary.class_names == ("cat", "dog")
    assert (summary.channels, summary.image_size) == (3, 40)
    manifest = records.read_manifest(tmp_path / "data")
    assert manifest["path"].tolist() == [
        "images/r00001.jpg",
        "images/r00002.webp",
        "images/r00003.bmp",
    ]
    assert manifest["label"].tolist() == [1, 0, 1]
    assert manifest["site"].tolist() == ["x", "x", "y"]
    original = (tmp_path / "photos/ada lovelace/1.JPG").read_bytes()
    assert (tmp_path / "data/images/r00001.jpg").read_bytes() == original


def test_other_identities_are_kept_beside_the_manifest(tmp_path: Path) -> None:
    table, known = make_folder(tmp_path), tmp_path / "known.csv"
    known.write_text("identity_type,identity_value,subject_id\nemail,a@example.org,p1\n")
    importers.image_folder(tmp_path / "data", tmp_path / "photos", table, known)
    assert (tmp_path / "data/identities.csv").read_text() == known.read_text()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("3.bmp,p2", "../people.csv,p2", "r00003"),
        ("3.bmp,p2", "absent.bmp,p2", "r00003"),
        ("3.bmp,p2", "3.bmp,Ada Lovelace", "r00003"),
        ("y,unseen", "y,maybe", "r00003"),
        ("subject_id", "who", "subject_id"),
    ],
)
def test_a_faulty_table_is_refused_and_nothing_is_left(
    tmp_path: Path, old: str, new: str, named: str
) -> None:
    table = make_folder(tmp_path)
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(DataError, match=named) as caught:
        importers.image_folder(tmp_path / "data", tmp_path / "photos", table)
    assert "Ada" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "people.csv"}


def test_a_record_id_that_is_a_path_is_refused_before_a_file_is_written(tmp_path: Path) -> None:
    picture = importers.encode(np.zeros((8, 8), np.uint8))
    columns: dict[str, list[Any]] = {
        "record_id": ["../../escaped"],
        "subject_id": ["a"],
        "label": [0],
    }
    with pytest.raises(DataError, match="record_id"):
        importers.write(
            tmp_path / "in/data", importers.Source("n", "s", "", ("a",), columns, [picture])
        )
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


def test_a_truncated_image_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    table = make_folder(tmp_path)
    photo = tmp_path / "photos/3.bmp"
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(DataError, match="record r00003"):
        importers.image_folder(tmp_path / "data", tmp_path / "photos", table)
    assert not (tmp_path / "data").exists()


def test_a_failed_import_leaves_the_former_data_set_as_it_was(tmp_path: Path) -> None:
    importers.idx(tmp_path / "data", *make_idx(tmp_path))
    before = (tmp_path / "data/manifest.csv").read_bytes()
    with pytest.raises(DataError):
        importers.image_folder(tmp_path / "data", tmp_path, tmp_path / "absent.csv")
    assert (tmp_path / "data/manifest.csv").read_bytes() == before


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="no data set"):
        importers.idx(tmp_path / "data", *make_idx(tmp_path))
    assert (tmp_path / "data/thesis.txt").exists()


def test_a_data_set_of_torchvision_is_imported_from_its_own_files(tmp_path: Path) -> None:
    raw = tmp_path / "root/FashionMNIST/raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((20, 28, 28), np.uint8)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            idx_bytes(np.arange(20).astype(np.uint8) % 10)
        )
    summary = importers.torchvision_dataset(tmp_path / "data", "FashionMNIST", tmp_path / "root")
    assert (summary.records, summary.subjects, summary.classes) == (20, 20, 10)
    assert summary.class_names[0] == "T-shirt/top"


@pytest.mark.parametrize("name", ["NoSuchThing", "os", "__file__", "FashionMNIST"])
def test_an_unknown_or_absent_data_set_of_torchvision_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=name):
        importers.torchvision_dataset(tmp_path / "data", name, tmp_path)


def test_the_real_faces_are_imported_with_their_people(tmp_path: Path) -> None:
    source = needs("cmu_faces") / "cmu_faces.npz"
    summary = importers.npz(
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
    assert manifest["subject_id"].tolist() == [f"subject-{number:02d}" for number in people]


def test_real_digits_are_imported_with_some_of_their_writers(tmp_path: Path) -> None:
    source = needs("mnist_with_writers")
    images, labels, writers = (
        source / name
        for name in (
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            "qmnist-train-labels-idx2-int.gz",
        )
    )
    summary = importers.idx(tmp_path / "d", images, labels, writers, subjects=5, min_records=100)
    assert (summary.subjects, summary.classes, summary.image_size) == (5, 10, 28)
    manifest = records.read_manifest(tmp_path / "d")
    pixels = importers.read_idx(images)
    rows = [int(record_id[1:]) - 1 for record_id in manifest["record_id"]]
    loaded = packing.images(tmp_path / "d", Data(classes=10, channels=1, image_size=28))
    assert (loaded[:, 0] == pixels[rows]).all()


def test_a_table_of_subjects_may_hold_numbers_in_any_spelling() -> None:
    assert importers._classes(["10", "2", "2"]) == ([1, 0, 0], ("2", "10"))
    assert importers._classes(["b", "a"]) == ([1, 0], ("a", "b"))
    assert pd.Series(importers._record_ids(3)).tolist() == ["r00001", "r00002", "r00003"]


def test_a_png_is_written_without_compression_so_that_no_library_changes_its_bytes() -> None:
    picture = importers.encode(np.zeros((16, 16), np.uint8))
    assert len(picture.content) > 16 * 16
    assert Image.open(io.BytesIO(picture.content)).size == (16, 16)
