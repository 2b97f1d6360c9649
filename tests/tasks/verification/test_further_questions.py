"""Further views and figures beside the verdict can keep a model from passing, and never make it
pass or fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.common.errors import EvidenceError
from tasks.verification import alikeness, verdicts
from tasks.verification.scoring import Scores
from tests.tasks.verification.test_verdicts import RULES, world

VIEWED = replace(RULES, views=("copies",))
ALIKE = replace(RULES, alike=True)


def seen_otherwise(answers: float, otherwise: float, seed: int) -> Scores:
    """A model with so much influence left in its answers, and so much in the view `copies`."""
    scores = world(answers, np.random.default_rng(seed))
    other = world(otherwise, np.random.default_rng(1000 + seed))
    return replace(scores, views={"copies": other.phi})


def shares(answers: float, otherwise: float, count: int = 40) -> dict[str, float]:
    names = [
        verdicts.judge(seen_otherwise(answers, otherwise, seed), "r", VIEWED).verdict
        for seed in range(count)
    ]
    return {name: names.count(name) / count for name in ("pass", "fail", "inconclusive")}


def test_answers_that_were_made_to_look_right_do_not_pass_where_the_view_remembers() -> None:
    found = shares(0.0, 1.0)
    assert found["pass"] == 0
    assert found["fail"] <= 0.05


def test_a_retrained_model_passes_with_a_view_as_well() -> None:
    assert shares(0.0, 0.0)["pass"] >= 0.7


def test_a_view_passes_nobody_who_fails_without_it() -> None:
    assert shares(1.0, 0.0)["fail"] == 1.0


def test_a_view_that_looks_over_forgotten_keeps_from_passing() -> None:
    assert shares(0.0, -1.0)["pass"] == 0


def test_the_reason_names_the_view() -> None:
    verdict = verdicts.judge(seen_otherwise(0.0, 1.0, 1), "r", VIEWED)
    gate = verdict.finding.gates[-1]
    assert (gate.name, gate.state) == ("view_copies", "open")
    assert gate.observed == pytest.approx(1.0, abs=0.5)
    assert "on changed copies of the records" in verdict.reason


def test_scores_without_the_view_give_no_verdict() -> None:
    scores = world(0.0, np.random.default_rng(1))
    with pytest.raises(EvidenceError, match="lack the view copies"):
        verdicts.judge(scores, "r", VIEWED)


def test_a_view_that_is_nan_gives_no_verdict() -> None:
    scores = seen_otherwise(0.0, 0.0, 1)
    scores.views["copies"][1, 3] = np.nan
    with pytest.raises(EvidenceError, match="NaN"):
        verdicts.judge(scores, "r", VIEWED)


def test_views_are_kept_with_the_scores(tmp_path: Path) -> None:
    scores = seen_otherwise(0.0, 0.0, 1)
    scores.save(tmp_path / "scores.npz")
    kept = Scores.load(tmp_path / "scores.npz")
    assert set(kept.views) == {"copies"}
    np.testing.assert_array_equal(kept.views["copies"], scores.views["copies"])


# -- alike ----------------------------------------------------------------------------------------


def test_an_exact_retrain_lies_outside_in_some_figure_hardly_more_often_than_alpha() -> None:
    outside = 0
    for seed in range(60):
        scores = world(0.0, np.random.default_rng(seed))
        asked = alikeness.gates(scores, "r", 0.05)
        assert [gate.name for gate in asked] == [f"alike_{name}" for name in alikeness.FIGURES]
        outside += any(gate.state != "good" for gate in asked)
    assert outside <= 9  # 60 draws at 5 %: more with probability 0.001


def test_a_model_that_is_surer_of_everything_is_not_like_retrained_models() -> None:
    scores = world(0.0, np.random.default_rng(5), shift=5.0)
    assert verdicts.judge(scores, "r", RULES).verdict == "pass"
    verdict = verdicts.judge(scores, "r", ALIKE)
    assert verdict.verdict == "inconclusive"
    assert "confidence on control subjects' records" in verdict.reason
    figure = next(g for g in verdict.finding.gates if g.name == "alike_control_confidence")
    assert figure.observed is not None
    assert figure.observed > figure.threshold


def test_better_accuracy_than_any_retrained_model_is_unlike_them_too() -> None:
    scores = world(0.0, np.random.default_rng(4), accuracy=1.0)
    states = {gate.name: gate.state for gate in alikeness.gates(scores, "r", 0.05)}
    assert states["alike_retained"] == "open"


def test_a_model_that_fails_fails_whatever_else_lies_outside() -> None:
    scores = world(1.0, np.random.default_rng(2))
    assert verdicts.judge(scores, "r", ALIKE).verdict == "fail"


def test_the_range_is_that_of_a_new_observation() -> None:
    figure = alikeness.Figure("rmia", 0.5, np.array([0.4, 0.5, 0.6]), 0.0)
    low, high = figure.range(0.05)
    half = 4.302652729911275 * 0.1 * np.sqrt(1 + 1 / 3)  # t(0.975, 2 degrees)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))
