"""Data sets of torchvision come in from their own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
    summary = torchvision.bring_in(tmp_path / "data", "FashionMNIST", tmp_path / "root")
    assert (summary.records, summary.subjects, summary.classes) == (20, 20, 10)
    assert summary.class_names[0] == "T-shirt/top"


@pytest.mark.parametrize("name", ["NoSuchThing", "os", "__file__", "FashionMNIST"])
def test_an_unknown_or_absent_data_set_of_torchvision_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=name):
        torchvision.bring_in(tmp_path / "data", name, tmp_path)
