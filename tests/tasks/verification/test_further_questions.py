"""Further views and figures beside the verdict can keep a model from passing, and never make it
pass or fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tasks.common.errors import EvidenceError
from tasks.verification import alikeness, batch_verdicts, contrast, verdicts
from tasks.verification.scoring import Scores
from tests.tasks.verification.test_verdicts import RULES, world

VIEWED = replace(RULES, views=("copies",))
ALIKE = replace(RULES, alike=True)
BOTH = replace(RULES, views=("copies",), alike=True)


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


def test_views_and_figures_take_hardly_any_pass_from_exact_retrains() -> None:
    alone, both = (
        {seed for seed in range(40) if verdicts.judge(seen_otherwise(0.0, 0.0, seed), "r", rules)}
        for rules in (RULES, BOTH)
    )
    assert both <= alone
    assert len(alone) - len(both) <= 7  # 40 draws at 5 %: more with probability 0.001


def test_a_retrained_model_is_above_the_band_of_a_view_as_often_as_stated() -> None:
    above = 0
    for seed in range(100):
        (gate,) = alikeness.likeness_gates(seen_otherwise(0.0, 0.0, seed), "r", VIEWED)
        above += gate.state != "good"
    assert above <= stats.binom.ppf(0.999, 100, VIEWED.unlike)


def test_views_and_figures_share_one_error_rate() -> None:
    scores = seen_otherwise(0.0, 0.0, 1)
    alone, *_ = alikeness.likeness_gates(scores, "r", VIEWED)
    beside_figures, *_ = alikeness.likeness_gates(scores, "r", BOTH)
    wider = replace(VIEWED, unlike=alikeness.VIEWS_SHARE * VIEWED.unlike)
    assert beside_figures.threshold == alikeness.likeness_gates(scores, "r", wider)[0].threshold
    assert beside_figures.threshold > alone.threshold


def test_a_band_reaches_as_far_as_references_that_are_not_normal() -> None:
    values = np.r_[np.linspace(-0.1, 0.1, 15), 3.0]
    heavy = contrast.Contrast(values + 10, values, 0.0, equal_p=1.0, normal_p=0.001)
    normal = replace(heavy, normal_p=1.0)
    assert heavy.most_retrained(0.05) > 3.0 > normal.most_retrained(0.05)


def test_a_view_passes_nobody_who_fails_without_it() -> None:
    assert shares(1.0, 0.0)["fail"] == 1.0


def test_a_view_that_looks_over_forgotten_takes_no_pass() -> None:
    assert shares(0.0, -1.0)["pass"] >= 0.7


def test_the_reason_names_the_view() -> None:
    verdict = verdicts.judge(seen_otherwise(0.0, 1.0, 1), "r", VIEWED)
    gate = verdict.finding.gates[-1]
    assert (gate.name, gate.state) == ("view_copies", "open")
    assert gate.observed == pytest.approx(1.0, abs=0.5)
    assert gate.threshold < 0.5
    assert "more influence is left on changed copies of the records" in verdict.reason


def test_scores_without_the_view_give_no_verdict() -> None:
    scores = world(0.0, np.random.default_rng(1))
    with pytest.raises(EvidenceError, match="lack the view copies"):
        verdicts.judge(scores, "r", VIEWED)


def test_a_view_that_is_nan_gives_no_verdict() -> None:
    scores = seen_otherwise(0.0, 0.0, 1)
    scores.views["copies"][-1, 3] = np.nan  # a reference
    with pytest.raises(EvidenceError, match="NaN"):
        verdicts.judge(scores, "r", VIEWED)


def test_a_model_that_cannot_be_scored_in_a_view_passes_no_more_and_fails_as_before() -> None:
    for influence, name in ((0.0, "inconclusive"), (1.0, "fail")):
        scores = seen_otherwise(influence, 0.0, 1)
        scores.views["copies"][scores.model_roles == "unlearned"] = np.nan
        verdict = verdicts.judge(scores, "r", VIEWED)
        assert verdict.verdict == name
    assert verdicts.judge(seen_otherwise(0.0, 0.0, 1), "r", RULES).verdict == "pass"


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
        asked = alikeness.likeness_gates(scores, "r", ALIKE)
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
    states = {gate.name: gate.state for gate in alikeness.likeness_gates(scores, "r", ALIKE)}
    assert states["alike_retained"] == "open"


def test_a_model_that_fails_fails_whatever_else_lies_outside() -> None:
    scores = world(1.0, np.random.default_rng(2))
    assert verdicts.judge(scores, "r", ALIKE).verdict == "fail"


def test_the_range_is_that_of_a_new_observation() -> None:
    figure = alikeness.Figure("rmia", 0.5, np.array([0.4, 0.5, 0.6]), 0.0)
    low, high = figure.range(0.05)
    half = 4.302652729911275 * 0.1 * np.sqrt(1 + 1 / 3)  # t(0.975, 2 degrees)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))


def test_the_range_reaches_as_far_as_figures_that_are_not_normal() -> None:
    values = np.r_[np.zeros(15), 1.0]
    low, high = alikeness.Figure("retained", 0.5, values, 1e-3).range(0.3)
    assert (low, high) == pytest.approx((1 / 16 - 15 / 16, 1.0))


@pytest.mark.parametrize(("lost", "state"), [(0.009, "good"), (0.011, "open")])
def test_accuracy_within_the_resolution_is_alike_however_little_retrained_models_differ(
    lost: float, state: str
) -> None:
    figure = alikeness.Figure("retained", 1 - lost, np.ones(16), 1e-4, resolution=0.01)
    low, _ = figure.range(0.01)
    assert ("good" if low <= figure.value else "open") == state


def test_without_a_resolution_a_tiny_loss_is_unlike() -> None:
    figure = alikeness.Figure("retained", 0.991, np.ones(16), 1e-4)
    assert figure.range(0.01)[0] > figure.value


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("influence", [0.0, 0.3, 1.0])
def test_the_range_beside_an_attack_is_the_one_that_decides(influence: float, seed: int) -> None:
    scores = world(influence, np.random.default_rng(seed))
    gates = {gate.name: gate for gate in alikeness.likeness_gates(scores, "r", ALIKE)}
    for attack in batch_verdicts.attacks(scores, "r", ALIKE, {}):
        gate, band = gates[f"{alikeness.ALIKE}{attack['name']}"], attack["auc_band"]
        assert attack["outside_band"] == (gate.state != "good")
        assert min(max(gate.threshold, 0.0), 1.0) in band
        assert 0 <= band[0] <= band[1] <= 1
