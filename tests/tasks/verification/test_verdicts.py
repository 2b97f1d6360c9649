from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tasks.common.errors import EvidenceError
from tasks.verification import contrast, gates, multiplicity, reasons, scoring, verdicts
from tasks.verification.gates import GateRules
from tasks.verification.scoring import Floats, Scores

RULES = GateRules(alpha=0.05, rho0=0.5, memorised=0.5, utility_margin=0.1, min_references=6)
ANSWERS_ALONE = ("verify.views=[]", "verify.alike=false")
"""Settings for worlds that have no weights, and so no further views."""
SEEN = 6.0
"""how much more member-like a record scores under a model that was trained on it"""


def world(
    released: float,
    rng: np.random.Generator,
    references: int = 16,
    seen: float = SEEN,
    accuracy: float = 0.9,
    shift: float = 0.0,
) -> Scores:
    """Scores of a small world: 24 forget, 200 control and 400 retained records, and models of which
    the truth is known.

    `released` is the residual influence that the unlearned model truly has, `shift` a change of its
    confidence on everything, `accuracy` its accuracy on control and retained records.
    """
    roles = np.array(["training"] * 24 + ["control"] * 200 + ["training"] * 400)
    requests = np.array(["r"] * 24 + [""] * 600)
    labels = np.arange(624) % 4
    kinds = [
        "original",
        "unlearned",
        "retrained",
        *["with"] * references,
        *["without"] * references,
    ]
    level = {"original": 1.0, "with": 1.0, "without": 0.0, "retrained": 0.0, "unlearned": released}
    phi, predicted = [], []
    for kind in kinds:
        row = rng.normal(1.0, 1.0, 624) + rng.normal(0, 0.5)
        row[:24] += level[kind] * seen
        row += shift if kind == "unlearned" else 0.0
        right = rng.random(624) < (accuracy if kind == "unlearned" else 0.9)
        phi.append(row)
        predicted.append(np.where(right, labels, (labels + 1) % 4))
    # one person asks; 10 people are controls and 20 stay, 20 records each
    subjects = np.repeat(np.arange(31), [24] + [20] * 30)
    return Scores(
        np.array(kinds),
        np.array(phi),
        np.array(predicted),
        labels,
        roles,
        requests,
        subjects,
        np.array(["sex"]),
        np.where(subjects == 0, "", np.where(subjects % 2 == 0, "f", "m"))[:, None],
    )


def shares(released: float, count: int = 60, **more: float) -> dict[str, float]:
    names = [
        verdicts.judge(world(released, np.random.default_rng(seed), **more), "r", RULES).verdict
        for seed in range(count)
    ]
    return {name: names.count(name) / count for name in ("pass", "fail", "inconclusive")}


def test_a_retrained_model_passes_and_hardly_ever_fails() -> None:
    found = shares(0.0)
    assert found["pass"] >= 0.8
    assert found["fail"] <= 0.02


def test_an_unchanged_model_always_fails() -> None:
    assert shares(1.0)["fail"] == 1.0


def test_an_over_forgotten_model_always_fails() -> None:
    assert shares(-1.0)["fail"] == 1.0


@pytest.mark.parametrize("bad", [0.5, -0.5])
def test_a_model_on_the_margin_passes_no_more_often_than_alpha(bad: float) -> None:
    passed = round(shares(bad, count=200)["pass"] * 200)
    assert passed <= stats.binom.ppf(0.999, 200, RULES.alpha)


def test_overall_confidence_is_no_influence() -> None:
    found = shares(0.0, shift=5.0)
    assert found["fail"] <= 0.02
    assert found["pass"] >= 0.8


def test_lost_accuracy_fails() -> None:
    assert shares(0.0, count=20, accuracy=0.6)["fail"] == 1.0


def test_references_that_cannot_tell_never_pass_anybody() -> None:
    for released in (0.0, 1.0):
        scores = world(released, np.random.default_rng(3), seen=0.0)
        verdict = verdicts.judge(scores, "r", RULES)
        assert not verdict
        assert verdict.verdict == "inconclusive"
        assert "detection limit" in verdict.reason


def hardly_seen(seed: int, deviations: float) -> Scores:
    """References that can hardly tell (d' about 2), all answers right, and a released model that is
    less sure of the records by so many standard deviations of retrained models."""
    scores = world(0.0, np.random.default_rng(seed), seen=1.2, accuracy=1.0)
    phi = scores.phi.copy()
    means = phi[scores.model_roles == "without", :24].mean(axis=1)
    own = scores.model_roles == "unlearned"
    phi[own, 24:] += 1.0 - phi[own, 24:].mean()  # its confidence on everybody else is usual
    phi[own, :24] += means.mean() - phi[own, :24].mean() - deviations * means.std(ddof=1)
    return replace(scores, phi=phi, predicted=np.tile(scores.labels, (len(scores.model_roles), 1)))


def test_below_the_detection_limit_a_ratio_to_a_tiny_gap_never_fails_anybody() -> None:
    seen, by_ratio = [], 0
    for seed in range(20):
        verdict = verdicts.judge(hardly_seen(seed, 3.5), "r", RULES)
        whole = verdict.measured.whole
        seen.append(whole.detectability)
        by_ratio += whole.p_below(-RULES.rho0) < RULES.alpha * gates.INFLUENCE_WEIGHT
        assert verdict.verdict == "inconclusive"
        assert "wrong" not in verdict.reason
    assert 1.5 < np.median(seen) < 2.5
    assert by_ratio >= 5  # these the ratio to the gap alone would fail


def test_a_model_far_less_sure_than_any_retrained_one_fails_in_words_that_are_true() -> None:
    verdict = verdicts.judge(hardly_seen(0, 12.0), "r", RULES)
    assert verdict.verdict == "fail"
    assert "less sure of these records than models that never saw them" in verdict.reason
    assert "standard deviations" in verdict.reason
    assert "wrong" not in verdict.reason


def test_an_original_model_that_fails_for_its_accuracy_only_is_not_caught() -> None:
    scores = world(0.0, np.random.default_rng(3), seen=0.0)
    predicted = scores.predicted.copy()
    predicted[scores.model_roles == "original"] = (scores.labels + 1) % 4
    verdict = verdicts.judge(replace(scores, predicted=predicted), "r", RULES)
    assert verdict.self_check.original.verdict == "fail"
    assert not verdict.self_check.original_caught
    assert verdict.verdict == "inconclusive"


def test_the_reason_names_the_question_that_failed_and_its_number() -> None:
    lost = verdicts.judge(world(0.0, np.random.default_rng(0), accuracy=0.6), "r", RULES)
    (first, *_) = lost.finding.bad()
    assert first.observed is not None
    assert f"{first.observed:.1%} right" in lost.reason
    assert "Residual influence" not in lost.reason  # it lies inside its limits
    left = verdicts.judge(world(1.0, np.random.default_rng(0)), "r", RULES)
    assert "The records still influence the model." in left.reason
    assert f"Residual influence {left.influence['unlearned']:.2f}" in left.reason


@given(st.integers(2, 40), st.none() | st.integers(4, 200))
def test_more_references_are_advised_only_where_they_would_help(
    references: int, needed: int | None
) -> None:
    text = reasons.more(needed, references)
    assert text.startswith("About") == (needed is not None and needed > references)
    assert text.startswith("No number") == (needed is None)


def planted(scores: Scores, role: str, influence: float) -> Scores:
    phi = scores.phi.copy()
    phi[scores.model_roles == role, :24] += influence * SEEN
    return replace(scores, phi=phi)


def test_a_model_that_hides_what_it_knows_behind_low_confidence_does_not_pass() -> None:
    for seed in range(30):
        assert shares_one(world(1.0, np.random.default_rng(seed), shift=-SEEN)) != "pass"


def test_half_of_the_records_left_in_hardly_ever_passes() -> None:
    passed = 0
    for seed in range(100):
        scores = world(0.0, np.random.default_rng(seed))
        phi = scores.phi.copy()
        phi[scores.model_roles == "unlearned", :12] += SEEN
        passed += shares_one(replace(scores, phi=phi)) == "pass"
    assert passed == 0  # the mean alone says 0.5; the records that look most remembered tell


def test_forgetting_the_wrong_person_fails() -> None:
    scores = world(1.0, np.random.default_rng(0))
    phi = scores.phi.copy()
    phi[scores.model_roles == "unlearned", 224:244] -= SEEN  # somebody who stays was forgotten
    assert shares_one(replace(scores, phi=phi)) == "fail"


def shares_one(scores: Scores) -> str:
    return verdicts.judge(scores, "r", RULES).verdict


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 1)), min_size=1, max_size=5))
def test_weighted_holm_equals_closed_testing(found: list[tuple[float, float]]) -> None:
    p, w = [a for a, _ in found], [b for _, b in found]
    indices = range(len(p))
    subsets = [s for size in range(1, len(p) + 1) for s in itertools.combinations(indices, size)]
    rejected = {s: any(p[i] < 0.05 * w[i] / sum(w[j] for j in s) for i in s) for s in subsets}
    expected = [all(rejected[s] for s in subsets if i in s) for i in indices]
    assert multiplicity.holm(p, 0.05, w) == expected


def test_a_failed_self_check_turns_a_pass_into_inconclusive() -> None:
    clean = next(
        s
        for s in (world(0.0, np.random.default_rng(i)) for i in range(20))
        if verdicts.judge(s, "r", RULES)
    )
    retrain_caught = verdicts.judge(planted(clean, "retrained", 1.0), "r", RULES)
    original_missed = verdicts.judge(planted(clean, "original", -1.0), "r", RULES)
    assert retrain_caught.verdict == original_missed.verdict == "inconclusive"
    assert not retrain_caught.self_check.retrain_cleared
    assert not original_missed.self_check.original_caught


def test_missing_evidence_is_an_error_and_never_a_pass() -> None:
    scores = world(0.0, np.random.default_rng(0))
    with pytest.raises(EvidenceError, match="no record"):
        verdicts.judge(scores, "another", RULES)
    with pytest.raises(EvidenceError, match="no record"):
        verdicts.judge(scores, "", RULES)
    with pytest.raises(EvidenceError, match="at least 6"):
        verdicts.judge(world(0.0, np.random.default_rng(0), references=5), "r", RULES)
    lone = replace(
        scores,
        roles=np.where((scores.roles == "control") & (scores.labels == 1), "test", scores.roles),
    )
    with pytest.raises(EvidenceError, match="classes 1"):
        verdicts.judge(lone, "r", RULES)
    constant = replace(scores, phi=np.ones_like(scores.phi))
    with pytest.raises(EvidenceError, match="alike"):
        verdicts.judge(constant, "r", RULES)
    with pytest.raises(EvidenceError, match="without any test"):
        gates.conclude([], contrast.InfluenceInterval(0.0, -0.1, 0.1, 0.9), 0.05)


def test_scores_that_are_nan_are_refused_with_the_model_named() -> None:
    scores = world(0.0, np.random.default_rng(0))
    scores.phi[1, 3] = np.nan
    with pytest.raises(EvidenceError, match="unlearned"):
        verdicts.judge(scores, "r", RULES)


def test_a_p_value_that_is_nan_shows_nothing() -> None:
    assert multiplicity.holm([math.nan, math.nan], 0.05) == [False, False]


def test_without_a_retained_record_no_verdict_is_made() -> None:
    scores = world(0.0, np.random.default_rng(0))
    nobody = np.where(scores.retained, "calibration", scores.roles)
    with pytest.raises(EvidenceError, match="utility_retain"):
        verdicts.judge(replace(scores, roles=nobody), "r", RULES)


def test_one_record_is_judged_without_a_crash() -> None:
    scores = world(0.0, np.random.default_rng(0))
    requests = scores.requests.copy()
    requests[1:24] = ""
    alone = replace(scores, requests=requests)
    assert verdicts.judge(alone, "r", RULES).records == 1


def test_the_interval_is_the_set_of_influences_that_the_contrast_does_not_reject() -> None:
    scores = world(0.2, np.random.default_rng(1))
    t = verdicts.judge(scores, "r", RULES).measured.whole
    span = t.interval(RULES.alpha)
    limit = stats.t.ppf(1 - RULES.alpha, t.degrees)
    grid = np.linspace(-2, 3, 20_001)
    kept = grid[[abs(t.t(r)) <= limit for r in grid]]
    assert span.low == pytest.approx(kept.min(), abs=5e-4)
    assert span.high == pytest.approx(kept.max(), abs=5e-4)
    assert span.low is not None
    assert span.high is not None
    assert span.estimate is not None
    assert span.low < span.estimate < span.high


def test_the_interval_agrees_with_the_gates() -> None:
    for seed, released in itertools.product(range(10), (0.0, 0.4, 0.6)):
        verdict = verdicts.judge(world(released, np.random.default_rng(seed)), "r", RULES)
        span = verdict.finding.interval
        state = {gate.name: gate.state for gate in verdict.finding.gates}
        assert span.high is not None
        assert span.low is not None
        assert (state["influence"] == "good") == (span.high < RULES.rho0)
        assert (state["over_forgetting"] == "good") == (span.low > -RULES.rho0)


def test_the_detection_limit_tends_to_its_textbook_value() -> None:
    limit = contrast.detection_limit(6.0, 10**6, 10**6, 10**6, 0.05)
    assert limit == pytest.approx((stats.norm.ppf(0.95) + stats.norm.ppf(0.8)) / 6.0, rel=1e-3)
    assert contrast.detection_limit(1.0, 16, 16, 30, 0.05) is None
    assert contrast.references_needed(1.0, 0.05, 0.5) is None
    needed = contrast.references_needed(6.0, 0.05, 0.5)
    assert needed is not None
    assert 4 <= needed <= 64


def brute_holm(p_values: list[float], alpha: float) -> list[bool]:
    """Closed testing with Bonferroni on every subset: Holm's procedure from first principles."""
    indices = range(len(p_values))
    subsets = [
        s for size in range(1, len(p_values) + 1) for s in itertools.combinations(indices, size)
    ]
    rejected = {s: min(p_values[i] for i in s) < alpha / len(s) for s in subsets}
    return [all(rejected[s] for s in subsets if i in s) for i in indices]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_equals_closed_testing(p_values: list[float]) -> None:
    assert multiplicity.holm(p_values, 0.05) == brute_holm(p_values, 0.05)


@given(st.integers(2, 6), st.integers(1, 20), st.integers(0, 10**6))
def test_the_margin_is_the_log_odds_of_the_true_class(classes: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 3, (count, classes)), rng.integers(0, classes, count)
    expected = []
    for row, label in zip(logits, labels, strict=True):
        p = [math.exp(value) for value in row]
        expected.append(math.log(p[label] / (sum(p) - p[label])))
    np.testing.assert_allclose(scoring.margins(logits, labels), expected, rtol=1e-6, atol=1e-9)


def test_margins_of_extreme_logits_are_finite() -> None:
    logits: Floats = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    assert np.isfinite(scoring.margins(logits, np.array([0, 0]))).all()


def test_the_rank_p_value_is_uniform_on_exchangeable_models() -> None:
    rng = np.random.default_rng(0)
    found = [contrast.rank_p(float(v[0]), v[1:]) for v in rng.normal(size=(4000, 20))]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.015)


def test_scores_survive_being_written_with_the_same_bytes(tmp_path) -> None:
    scores = world(0.0, np.random.default_rng(0))
    scores.save(tmp_path / "a.npz")
    loaded = Scores.load(tmp_path / "a.npz")
    loaded.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    np.testing.assert_array_equal(loaded.phi, scores.phi)
    (tmp_path / "a.npz").write_bytes(b"not scores")
    with pytest.raises(EvidenceError, match=r"a\.npz"):
        Scores.load(tmp_path / "a.npz")
