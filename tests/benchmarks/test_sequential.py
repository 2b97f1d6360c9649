"""The benchmark of batches one after the other: who is judged by what, and that its planted cases
come out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import sequential, worlds
from benchmarks.study import Study
from benchmarks.worlds import World
from tasks.common import files

DEFAULT = sequential.DEFAULT


@pytest.fixture(scope="module")
def tiny() -> World:
    """Two batches of two people each, and a shorter recipe."""
    whole = worlds.load("digits-sequence")
    recipe = whole.settings.train.model_copy(update={"epochs": 8})
    people = whole.batches[-1]
    settings = whole.settings.model_copy(update={"train": recipe})
    return replace(whole, batches=(people[:2], people[:4]), settings=settings)


def test_each_batch_finds_its_own_people_and_those_before_gone() -> None:
    given = worlds.load("digits-sequence")
    trained = given.roles == "training"
    seen: set[int] = set()
    for step in range(1, len(given.batches) + 1):
        result = sequential.newest(given, step)
        (asked,) = result.batches
        assert 1 <= len(asked) <= 2
        assert not seen & set(asked)
        assert (
            set(given.subjects[result.roles == "training"]) == set(given.subjects[trained]) - seen
        )
        assert set(asked) <= set(given.subjects[result.roles == "training"])
        seen |= set(asked)
        assert seen == set(given.batches[step - 1])
    assert len(seen) == 15


def test_earlier_people_are_judged_by_the_first_models_and_by_those_retrained_since(
    tiny: World,
) -> None:
    def marked(count: int, mark: float) -> sequential.Answers:
        shape = (count, len(tiny.labels))
        return np.full(shape, mark), np.zeros(shape, np.int64)

    released = [marked(1, step) for step in range(3)]
    yardsticks = []
    for step in range(3):
        phi, predicted = marked(4, 10.0 * (step + 1))
        phi[0] += 1  # the baseline, which is no reference
        yardsticks.append((phi, predicted))
    scores = sequential.scores_of(tiny, released, yardsticks, 2, 1)
    by_role = {
        role: scores.phi[scores.model_roles == role][:, 0].tolist() for role in scores.model_roles
    }
    assert by_role == {
        "unlearned": [2.0],
        "original": [0.0],  # the model before the first batch
        "retrained": [31.0],
        "with": [10.0] * 3,  # who saw everybody, as when the first batch was the newest
        "without": [30.0] * 3,  # without both batches
    }
    newest = sequential.scores_of(tiny, released, yardsticks, 2, 2)
    assert newest.phi[newest.model_roles == "original"][0, 0] == 1.0
    assert newest.phi[newest.model_roles == "with"][0, 0] == 20.0
    assert set(tiny.subjects[scores.requests != ""]) == set(tiny.batches[1])


def test_an_unchanged_model_never_passes_and_advice_that_is_followed_makes_it_a_retrain(
    tiny: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worlds, "load", lambda _: tiny)
    planted = {"exact retrain": {"method": "retrain"}, DEFAULT: {"method": "none"}}
    monkeypatch.setattr(
        sequential, "configurations", lambda _: {**planted, sequential.FOLLOWED: {"method": "none"}}
    )
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- sequential digits -->\nold\n<!-- end of sequential digits -->\n", encoding="utf-8"
    )
    keep, out = tmp_path / "keep", tmp_path / "out"

    def measure() -> None:
        study = Study(originals=1, references=7, jobs=1, keep=keep, out=out, page=page)
        sequential.main(study, figures=out)

    measure()
    written = files.read_json(out / "sequential-digits.json")["methods"]
    for part in ("newest", "earlier"):
        assert written["exact retrain"][part]["fail"] == 0
        assert written[DEFAULT][part]["pass"] == 0
        assert written[DEFAULT][part]["influence"][1] > 0.5
        assert written[sequential.FOLLOWED][part]["fail"] == 0
        assert abs(written[sequential.FOLLOWED][part]["influence"][1]) < 0.5
    assert written[DEFAULT]["steps"][0]["advised"].get("failed") == 1
    assert written[sequential.FOLLOWED]["advised"] == 2
    counts = {
        title: [step["unlearnings"] for step in one["by_chain"][0]]
        for title, one in written.items()
    }
    assert counts == {"exact retrain": [0, 0], DEFAULT: [1, 2], sequential.FOLLOWED: [1, 1]}

    made = {path: path.stat().st_mtime_ns for path in keep.rglob("*.*")}
    picture = (out / "sequential-digits.svg").read_bytes()
    measure()
    assert {path: path.stat().st_mtime_ns for path in keep.rglob("*.*")} == made
    assert (out / "sequential-digits.svg").read_bytes() == picture
    text = page.read_text(encoding="utf-8")
    assert "exact retrain" in text
    assert "old" not in text
