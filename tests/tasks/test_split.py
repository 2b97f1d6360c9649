"""Subjects are shared out whole, evenly, and the same way every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import split
from tasks.common import files
from tasks.common.errors import DataError
from tasks.common.settings import Split
from tasks.data import records, rules

SHARES = Split(calibration=0.09, control=0.15, test=0.09)


def people(subjects: int = 45, each: int = 40, classes: int = 10, **columns: Any) -> pd.DataFrame:
    number = np.arange(subjects * each)
    return pd.DataFrame(
        {
            "record_id": [f"r{row}" for row in number],
            "subject_id": [f"p{row}" for row in number // each],
            "label": number % classes,
            **columns,
        }
    )


def sizes(manifest: pd.DataFrame, roles: Any) -> dict[str, int]:
    counts = manifest.assign(role=roles).groupby("role")["subject_id"].nunique()
    return {str(role): int(number) for role, number in counts.items()}


def test_forty_five_writers_make_thirty_for_training() -> None:
    manifest = people()
    roles = split.assign(manifest, SHARES, 1)
    assert sizes(manifest, roles) == {"training": 30, "calibration": 4, "control": 7, "test": 4}


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    manifest = people()
    assert (split.assign(manifest, SHARES, 1) == split.assign(manifest, SHARES, 1)).all()
    assert (split.assign(manifest, SHARES, 1) != split.assign(manifest, SHARES, 2)).any()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 3)), min_size=4, max_size=60),
    st.integers(0, 2**63 - 1),
)
def test_no_subject_has_two_roles_and_no_role_is_empty(
    rows: list[tuple[int, int]], seed: int
) -> None:
    frame = pd.DataFrame(rows, columns=["subject", "label"])
    manifest = pd.DataFrame(
        {"subject_id": frame["subject"].map("p{}".format), "label": frame["label"]}
    )
    if manifest["subject_id"].nunique() < 4:
        with pytest.raises(DataError):
            split.assign(manifest, SHARES, seed)
        return
    roles = split.assign(manifest, SHARES, seed)
    assert manifest.assign(role=roles).groupby("subject_id")["role"].nunique().max() == 1
    assert set(roles) == set(rules.ROLES)


@given(st.integers(3, 5000), st.sets(st.sampled_from(rules.ROLES)))
def test_quotas_add_up_and_leave_no_role_empty(subjects: int, had: set[str]) -> None:
    shares = {"training": 0.67, "calibration": 0.09, "control": 0.15, "test": 0.09}
    taken = {role: int(role in had) for role in rules.ROLES}
    if subjects < 4 - len(had):
        return
    dealt = split.quotas(shares, subjects, taken)
    assert sum(dealt.values()) == subjects
    assert all(dealt[role] >= 1 for role in rules.ROLES if role not in had)
    assert all(abs(dealt[role] - subjects * share) <= 3 for role, share in shares.items())


def test_classes_stay_balanced_where_each_subject_has_one_class() -> None:
    manifest = people(subjects=200, each=3, classes=10).assign(
        label=lambda frame: np.arange(600) // 3 % 10
    )
    roles = split.assign(manifest, SHARES, 0)
    shares = pd.crosstab(roles, manifest["label"], normalize="columns")
    assert (shares.loc["control"] - 0.15).abs().max() <= 0.05
    assert (shares > 0).all(axis=None)


def test_the_deal_is_better_balanced_than_a_plain_shuffle() -> None:
    random = np.random.default_rng(0)
    counts = random.poisson(random.gamma(0.3, 10, (60, 8)))
    quota = {"training": 40, "calibration": 5, "control": 9, "test": 6}
    names = list(quota)
    dealt = np.array([names.index(role) for role in split.deal(counts, quota, 0)])
    plain = [
        split.imbalance(counts, random.permutation(np.repeat(range(4), list(quota.values()))), 4)
        for _ in range(20)
    ]
    assert split.imbalance(counts, dealt, 4) < min(plain)


def test_a_split_column_decides_and_unseen_subjects_are_shared_out() -> None:
    values = ["training"] * 30 + ["unseen"] * 13 + ["control", "test"]
    manifest = people(split=np.repeat(values, 40))
    roles = split.assign(manifest, SHARES, 0)
    given_roles = manifest["split"].to_numpy()
    fixed = given_roles != "unseen"
    assert (roles[fixed] == given_roles[fixed]).all()
    assert not (roles[~fixed] == "training").any()
    result = sizes(manifest.loc[~fixed], roles[~fixed])
    assert result == {"calibration": 4, "control": 6, "test": 3} or result == {
        "calibration": 3,
        "control": 6,
        "test": 4,
    }


def test_a_split_column_that_leaves_a_role_empty_is_refused() -> None:
    manifest = people(subjects=4, split=np.repeat(["training", "training", "control", "test"], 40))
    with pytest.raises(DataError, match="calibration"):
        split.assign(manifest, SHARES, 0)
    with pytest.raises(DataError, match="training"):
        split.assign(manifest.assign(split="unseen"), SHARES, 0)


def test_a_subject_in_two_roles_is_refused_by_record() -> None:
    manifest = people(split="training")
    manifest.loc[7, "split"] = "control"
    with pytest.raises(DataError, match="r0, r1"):
        split.assign(manifest, SHARES, 0)


def test_a_class_without_control_subject_is_told() -> None:
    manifest = people(subjects=8, each=2, classes=2)
    manifest.loc[0, "label"] = 5
    lines = split.describe(manifest, split.assign(manifest, SHARES, 0))
    assert any("warning" in line and "class 5" in line for line in lines)
    assert not any("p0" in line for line in lines)


def make(folder: Path) -> None:
    table = people(subjects=9, each=4, classes=2)
    table = table.assign(path=table["record_id"].map("images/{}.png".format), sha256="0" * 64)
    folder.joinpath("data").mkdir()
    table.to_csv(folder / "data/manifest.csv", index=False)
    files.write_text(folder / "params.yaml", "seed: 3\n")
    files.write_json(
        folder / "data.json", {"manifest_sha256": files.sha256(folder / "data/manifest.csv")}
    )


def test_the_stage_writes_one_role_per_record_and_the_same_bytes_twice(tmp_path: Path) -> None:
    make(tmp_path)
    for name in ("a.csv", "b.csv"):
        split.split(
            tmp_path / "data", tmp_path / "data.json", tmp_path / "params.yaml", tmp_path / name
        )
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    roles = records.read_roles(tmp_path / "a.csv", records.read_manifest(tmp_path / "data"))
    assert set(roles) == set(rules.ROLES)


def test_a_manifest_that_was_not_checked_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    make(tmp_path)
    files.write_json(tmp_path / "data.json", {"manifest_sha256": "0" * 64})
    with pytest.raises(DataError, match="checked"):
        split.split(
            tmp_path / "data",
            tmp_path / "data.json",
            tmp_path / "params.yaml",
            tmp_path / "out.csv",
        )
    assert not (tmp_path / "out.csv").exists()
