"""Data sets of torchvision come in from their own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from tasks.common.errors import DataError
from tasks.data.importers import torchvision
from tests.tasks.data.importers.test_idx import idx_bytes


def test_a_data_set_of_torchvision_is_imported_from_its_own_files(tmp_path: Path) -> None:
    raw = tmp_path / "root/FashionMNIST/raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((20, 28, 28), np.uint8)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            idx_bytes(np.arange(20).astype(np.uint8) % 10)
        )
    summary = torchvision.import_data(tmp_path / "data", "FashionMNIST", tmp_path / "root")
    assert (summary.records, summary.subjects, summary.classes) == (20, 20, 10)
    assert summary.class_names[0] == "T-shirt/top"


@pytest.mark.parametrize("name", ["NoSuchThing", "os", "__file__", "FashionMNIST"])
def test_an_unknown_or_absent_data_set_of_torchvision_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=name):
        torchvision.import_data(tmp_path / "data", name, tmp_path)


class Deep(datasets.VisionDataset):
    """A data set of images of 16 bits."""

    def __init__(self, root: str) -> None:
        self.targets = [0, 1]

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.full((8, 8), 4000, np.uint16)), self.targets[row]


def test_images_of_more_than_8_bits_are_refused_and_not_read_white(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "Deep", Deep, raising=False)
    with pytest.raises(DataError, match=r"more than 8 bits.*import folder"):
        torchvision.import_data(tmp_path / "data", "Deep", tmp_path)
