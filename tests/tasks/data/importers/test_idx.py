"""IDX files and the tables of QMNIST come in as they are published, and nothing else does."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks.common.errors import DataError
from tasks.common.settings import Data
from tasks.data import records
from tasks.data.importers import idx
from tests.worlds import packing

SHARED = Path(__file__).resolve().parents[5] / "shared" / "datasets"


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
    summary = idx.import_data(tmp_path / "data", images, labels, writers)
    assert (summary.records, summary.subjects, summary.classes, summary.image_size) == (
        30,
        7,
        3,
        12,
    )
    manifest = records.read_manifest(tmp_path / "data")
    assert manifest["subject_id"][8] == "1"
    stored = np.asarray(Image.open(tmp_path / "data" / manifest["path"][4]))
    assert (stored == idx.read_idx(images)[4]).all()


def test_idx_without_writers_makes_each_record_its_own_subject(tmp_path: Path) -> None:
    images, labels, _ = make_idx(tmp_path)
    assert idx.import_data(tmp_path / "data", images, labels).subjects == 30


def test_a_draw_of_subjects_depends_on_the_seed_only_and_keeps_the_minimum(tmp_path: Path) -> None:
    paths = make_idx(tmp_path)
    idx.import_data(tmp_path / "a", *paths, subjects=2, min_records=5, seed=3)
    idx.import_data(tmp_path / "b", *paths, subjects=2, min_records=5, seed=3)
    assert (tmp_path / "a/manifest.csv").read_bytes() == (tmp_path / "b/manifest.csv").read_bytes()
    counts = records.read_manifest(tmp_path / "a")["subject_id"].value_counts()
    assert len(counts) == 2
    assert counts.min() >= 5
    assert idx.import_data(tmp_path / "c", *paths, subjects=99, min_records=5).subjects == 2
    with pytest.raises(DataError, match="lower the number"):
        idx.import_data(tmp_path / "d", *paths, subjects=5, min_records=9)


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
        idx.import_data(tmp_path / "data", images, labels, writers)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


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
    summary = idx.import_data(tmp_path / "d", images, labels, writers, subjects=5, min_records=100)
    assert (summary.subjects, summary.classes, summary.image_size) == (5, 10, 28)
    manifest = records.read_manifest(tmp_path / "d")
    pixels = idx.read_idx(images)
    rows = [int(record_id[1:]) - 1 for record_id in manifest["record_id"]]
    loaded = packing.images(tmp_path / "d", Data(classes=10, channels=1, image_size=28))
    assert (loaded[:, 0] == pixels[rows]).all()


def test_a_longer_table_of_qmnist_begins_with_the_images_own_rows(tmp_path: Path) -> None:
    images, labels, writers = make_idx(tmp_path)
    table = idx.read_idx(writers)
    longer = np.concatenate([table, table[::-1]]).astype(np.int32)
    writers.write_bytes(idx_bytes(longer))
    for label_file in (labels, writers):
        summary = idx.import_data(tmp_path / "data", images, label_file, writers)
        manifest = records.read_manifest(tmp_path / "data")
        assert manifest["label"].tolist() == table[:, 0].tolist()
        assert manifest["subject_id"].tolist() == [str(writer) for writer in table[:, 2]]
        assert summary.notes == (
            "writers.idx has 60 rows; its first 30 are taken for images.idx.gz, as QMNIST's tables "
            "begin with MNIST's own images",
        )


@pytest.mark.parametrize(("labelled", "written"), [(29, 30), (31, 30), (30, 29)])
def test_a_message_has_the_count_of_each_file(tmp_path: Path, labelled: int, written: int) -> None:
    images, labels, writers = make_idx(tmp_path)
    labels.write_bytes(idx_bytes((np.arange(labelled) % 3).astype(np.uint8)))
    writers.write_bytes(idx_bytes(idx.read_idx(writers)[:written].astype(np.int32)))
    name, count = ("labels.idx", labelled) if labelled != 30 else ("writers.idx", written)
    with pytest.raises(DataError, match=f"{name} has {count} rows and images.idx.gz 30 images"):
        idx.import_data(tmp_path / "data", images, labels, writers)


@pytest.mark.parametrize(
    ("shape", "named"),
    [((60_000, 65_000, 65_000), "announces"), ((2, 2, 2), "more bytes"), ((1,) * 9, "dimensions")],
)
def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(
    tmp_path: Path, shape: tuple[int, ...], named: str
) -> None:
    head = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(head + bytes(50_000_000)))
    with pytest.raises(DataError, match=rf"bomb\.gz: .*{named}"):
        idx.read_idx(bomb)


@pytest.mark.parametrize("kind", ["pipe", "loop", "folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "images.idx"
    if kind == "pipe":
        os.mkfifo(folder)
    elif kind == "loop":
        folder.symlink_to(folder)
    else:
        folder.mkdir()
    with pytest.raises(DataError, match=r"images\.idx: "):
        idx.read_idx(folder)
