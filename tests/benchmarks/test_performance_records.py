"""The benchmark of growth with records runs; how long anything takes is no test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import growth_records, worlds
from tasks.common import files
from tasks.data.importers import idx

MARKS = "<!-- growth records -->\n<!-- end of growth records -->\n"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    files.write_text(tmp_path / "page.md", MARKS)
    return tmp_path / "page.md"


def test_each_stage_is_measured_for_each_number_of_records(page: Path, tmp_path: Path) -> None:
    growth_records.main([1000], [], rounds=1, page=page, out=tmp_path)
    figures = files.read_json(tmp_path / "growth-records.json")
    assert set(figures["stages"]["1000"]) == {"check", "split", "resolve"}
    assert all(one["peak"]["median"] > 0 for one in figures["stages"]["1000"].values())
    assert "| 1 000 |" in page.read_text()


def test_a_block_from_the_pack_is_what_the_files_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "images": random.integers(0, 256, (60, 28, 28), np.uint8),
        "labels": np.arange(60) % 10,
    }
    monkeypatch.setattr(
        idx, "read_idx", lambda path: arrays["images" if "images" in path.name else "labels"]
    )
    monkeypatch.setattr(worlds, "DATASETS", tmp_path)
    (tmp_path / "fashion_mnist").mkdir()
    found = growth_records.loading(tmp_path / "work", 50, rounds=1)
    assert found["ratio"]["median"] > 0
    saved = growth_records.pipeline(tmp_path / "work", rounds=1)
    assert (saved["records"], saved["loads"] > 3) == (50, True)
    assert growth_records.of_images({"50": found}).count("\n") == 2
    assert "times as fast" in growth_records.of_pipeline(saved)
