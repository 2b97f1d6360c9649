from __future__ import annotations

from pathlib import Path

import pytest

from tasks.common import cost_ledger, files, seeds
from tasks.common.errors import AuditError


def test_a_folder_whose_making_fails_leaves_the_old_one_untouched(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with files.whole_folder(target) as draft:
        (draft / "a").write_text("first")
    with pytest.raises(RuntimeError, match="midway"), files.whole_folder(target) as draft:
        (draft / "a").write_text("second")
        raise RuntimeError("midway")
    assert (target / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_process_left_of_a_folder_goes_and_drafts_of_others_stay(
    tmp_path: Path,
) -> None:
    for name in (".out-ab_9xy0z", ".out-2-ab_9xy0z", ".out-old", "out-ab_9xy0z"):
        (tmp_path / name).mkdir()
    with files.whole_folder(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {
        "out",
        ".out-2-ab_9xy0z",
        ".out-old",
        "out-ab_9xy0z",
    }


def test_json_that_is_not_finite_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="not finite"):
        files.write_json(tmp_path / "x.json", {"p": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_broken_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(AuditError, match=r"x\.json"):
        files.read_json(tmp_path / "x.json")


def test_the_first_cost_on_file_stands(tmp_path: Path) -> None:
    first = cost_ledger.keep("train", "a" * 64, {"seconds": 1.0}, tmp_path)
    again = cost_ledger.keep("train", "a" * 64, {"seconds": 2.0}, tmp_path)
    other = cost_ledger.keep("unlearn", "a" * 64, {"seconds": 0.0}, tmp_path)
    assert first == again == {"seconds": 1.0, "weights_sha256": "a" * 64}
    assert other["seconds"] == 0.0


def test_random_streams_differ_by_name_and_not_by_call() -> None:
    names = [("train", 0), ("train", 1), ("retrain", 0), ("train", 0, "weights")]
    drawn = [seeds.derive(0, *name) for name in names]
    assert len(set(drawn)) == len(names)
    assert drawn == [seeds.derive(0, *name) for name in names]
    assert all(0 <= seed < 2**63 for seed in drawn)
