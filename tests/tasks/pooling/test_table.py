"""The table of a pool on disk: what is refused, and what survives an erasure."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.common import files, settings
from tasks.common.errors import EvidenceError
from tasks.pooling import table
from tasks.training import release_lineage

SETTINGS = settings.Settings()


def manifest(people: int = 10, own: int = 2) -> pd.DataFrame:
    rows = [
        {
            "record_id": f"r{person}-{number}",
            "subject_id": f"p{person}",
            "label": number,
            "sha256": hashlib.sha256(f"{person} {number}".encode()).hexdigest(),
        }
        for person in range(people)
        for number in range(own)
    ]
    return pd.DataFrame(rows)


def training(data: pd.DataFrame) -> Any:
    return np.ones(len(data), bool)


def write(folder: Path, data: pd.DataFrame, **changes: Any) -> Path:
    random = np.random.default_rng(0)
    count = len(data)
    seen = random.random((4, count)) < 0.7
    seen[0] = True
    pool = table.PoolTable(
        table.keys(data),
        random.normal(size=(4, count)).astype(np.float32),
        np.zeros((4, count), np.int16),
        seen,
        np.array([-1, 0, 1, 2], np.int64),
    )
    lineage = {
        "recipe": release_lineage.recipe(SETTINGS),
        "seed": 0,
        "folds": 3,
        "models": [{"name": f"pool-{n}"} for n in range(4)],
        "erased": [],
    }
    table.save(folder, replace(pool, **changes), lineage)
    return folder


def test_a_pool_is_read_as_it_was_written(tmp_path: Path) -> None:
    data = manifest()
    folder = write(tmp_path / "pool", data)
    pool, _ = table.load(folder)
    aligned = table.align(folder, data, training(data), SETTINGS)
    assert np.array_equal(aligned.phi, pool.phi.astype(np.float64))
    assert np.array_equal(aligned.seen, pool.seen)


def test_a_pool_follows_the_order_of_the_manifest(tmp_path: Path) -> None:
    data = manifest()
    folder = write(tmp_path / "pool", data)
    turned = data.iloc[::-1].reset_index(drop=True)
    first, second = (table.align(folder, one, training(one), SETTINGS) for one in (data, turned))
    assert np.array_equal(first.phi[:, ::-1], second.phi)


def test_the_same_pool_has_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, manifest()) for name in ("a", "b"))
    assert (first / table.SCORES).read_bytes() == (second / table.SCORES).read_bytes()


def test_no_name_of_a_record_or_person_stands_in_a_pool(tmp_path: Path) -> None:
    folder = write(tmp_path / "pool", manifest())
    for path in folder.iterdir():
        assert b"p3" not in path.read_bytes()
        assert b"r3-1" not in path.read_bytes()


def test_records_that_came_or_changed_since_are_unknown(tmp_path: Path) -> None:
    data = manifest()
    folder = write(tmp_path / "pool", data)
    later = pd.concat([data, manifest(11).iloc[-2:]], ignore_index=True)
    aligned = table.align(folder, later, training(later), SETTINGS)
    assert np.isnan(aligned.phi[:, -2:]).all()
    assert np.isfinite(aligned.phi[:, :-2]).all()
    assert not aligned.seen[:, -2:].any()


def test_edited_scores_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "pool", manifest())
    content = bytearray((folder / table.SCORES).read_bytes())
    content[len(content) // 2] ^= 1
    files.write_bytes(folder / table.SCORES, bytes(content))
    with pytest.raises(EvidenceError, match="not what its lineage says"):
        table.load(folder)


def test_a_missing_pool_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="holds no pool"):
        table.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"train": {"epochs": 3}}, "train"),
        ({"model": {"name": "resnet18"}}, "model"),
        ({"data": {"image_size": 32}}, "data"),
        ({"compute": {"precision": "bf16"}}, "precision"),
    ],
)
def test_a_pool_of_another_recipe_is_refused(
    tmp_path: Path, change: dict[str, Any], key: str
) -> None:
    data = manifest()
    folder = write(tmp_path / "pool", data)
    with pytest.raises(EvidenceError, match=rf"another recipe \({key} differ\)"):
        table.align(folder, data, training(data), settings.parse(change))


def test_rows_of_erased_people_are_refused_and_can_be_taken_out(tmp_path: Path) -> None:
    data = manifest()
    folder = write(tmp_path / "pool", data)
    gone = data["subject_id"] == "p3"
    left = data[~gone].reset_index(drop=True)
    with pytest.raises(EvidenceError, match="holds 2 rows of records that are not in the data now"):
        table.align(folder, left, training(left), SETTINGS)
    assert table.keep_only(folder, left, "2026-11-27T12:00:00Z") == 2
    aligned = table.align(folder, left, training(left), SETTINGS)
    assert np.isfinite(aligned.phi).all()
    assert aligned.facts["erased"] == [{"records": 2, "at": "2026-11-27T12:00:00Z"}]
    erased = {key.tobytes() for key in table.keys(data[gone])}
    assert not erased & {key.tobytes() for key in table.load(folder)[0].keys}


def test_where_nobody_left_no_byte_changes(tmp_path: Path) -> None:
    folder = write(tmp_path / "pool", manifest())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert table.keep_only(folder, manifest(12), "2026-11-27T12:00:00Z") == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_pool_of_another_version_of_the_data_is_refused(tmp_path: Path) -> None:
    data = manifest()
    folder = write(tmp_path / "pool", data)
    more = manifest(20)
    with pytest.raises(EvidenceError, match="trained on 50% of the training records of now"):
        table.align(folder, more, training(more), SETTINGS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    data = manifest()
    phi = np.zeros((4, len(data)), np.float32)
    phi[2, 1] = value
    with pytest.raises(EvidenceError, match="scores of 1 models are NaN or infinite"):
        write(tmp_path / "pool", data, phi=phi)
    assert not (tmp_path / "pool").exists()


def test_blocks_become_one_pool(tmp_path: Path) -> None:
    data = manifest()
    blocks = [write(tmp_path / name, data) for name in "01"]
    lineage = table.merge(blocks, tmp_path / "pool")
    pool, _ = table.load(tmp_path / "pool")
    assert pool.phi.shape == (8, len(data))
    assert len(lineage["models"]) == 8


def test_blocks_of_different_records_are_not_merged(tmp_path: Path) -> None:
    blocks = [write(tmp_path / "0", manifest()), write(tmp_path / "1", manifest(9))]
    with pytest.raises(EvidenceError, match="is of other records than"):
        table.merge(blocks, tmp_path / "pool")
