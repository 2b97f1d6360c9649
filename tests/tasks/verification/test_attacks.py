from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from statistics import NormalDist, fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tasks.common.errors import EvidenceError
from tasks.verification.attacks import examination, exposure, lira, population, rmia, roc
from tasks.verification.attacks import rows as rows_module
from tasks.verification.attacks.rows import Memory, RecordMasks
from tasks.verification.scoring import Floats, Ints, Scores

ALPHA = 0.05
SEEN = 3.0
"""how much more member-like a record scores under a model that was trained on it"""
FORGET, PEOPLE, EACH = 20, 20, 12


FEW = settings(max_examples=40, deadline=None)


def world(
    released: float, seed: int, references: int = 8, stays: float = 0.0, one_stays: float = 0.0
) -> Scores:
    """Scores of a small world: one person asks, ten stay, six are controls, four are for tests;
    four classes.

    `released` is the influence that the unlearned model truly has, `stays` a further exposure of
    everybody who stays, and `one_stays` of one of them. Records differ in difficulty, and models in
    overall confidence.
    """
    rng = np.random.default_rng(seed)
    count = FORGET + PEOPLE * EACH
    subjects = np.repeat(np.arange(PEOPLE + 1), [FORGET, *[EACH] * PEOPLE])
    roles = np.array(["training", "control", "test"])[np.searchsorted([10, 16], subjects)]
    kinds = [
        "original",
        "unlearned",
        "retrained",
        *["with"] * references,
        *["without"] * references,
    ]
    level = {"original": 1.0, "with": 1.0, "without": 0.0, "retrained": 0.0, "unlearned": released}
    difficulty = rng.normal(1, 2, count)
    phi = difficulty + rng.normal(0, 1, (len(kinds), count)) + rng.normal(0, 0.5, (len(kinds), 1))
    phi[:, :FORGET] += SEEN * np.array([level[kind] for kind in kinds])[:, None]
    phi[:, (roles == "training") & (subjects > 0)] += SEEN
    phi[1, (roles == "training") & (subjects > 0)] += stays
    phi[1, subjects == 3] += one_stays
    labels = np.arange(count) % 4
    return Scores(
        np.array(kinds),
        phi,
        np.where(phi > 0, labels, (labels + 1) % 4),
        labels,
        roles,
        np.where(subjects == 0, "r", ""),
        subjects + 1000,
        np.array([], str),
        np.empty((count, 0), str),
    )


@pytest.fixture(scope="module")
def unchanged() -> examination.Examination:
    return examination.examine(world(1.0, 0), "r", ALPHA)


# Scores of records


def table(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).normal(1, 2, shape)


@FEW
@given(
    st.integers(0, 10**6),
    st.integers(2, 5),
    st.integers(2, 5),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([12, 0]),
)
def test_online_lira_is_the_log_ratio_of_two_fitted_normals(
    seed: int, j: int, k: int, records: int, shared: bool, decimals: int
) -> None:
    phi, inside, outside = (
        values.round(decimals)  # whole numbers: references tie, and some agree on a record
        for values in (
            table(seed, records),
            table(seed + 1, j, records) + 3,
            table(seed + 2, k, records),
        )
    )
    found = lira.online(phi, inside, outside, shared)
    for x in range(records):
        densities = []
        for references in (inside, outside):
            columns = [[float(row[i]) for row in references] for i in range(records)]
            variances = [
                sum((v - fmean(column)) ** 2 for v in column) / (len(column) - 1)
                for column in columns
            ]
            variance = max(fmean(variances) if shared else variances[x], lira.VARIANCE_FLOOR)
            z = (phi[x] - fmean(columns[x])) / math.sqrt(variance)
            # the density itself underflows far from the mean
            densities.append(math.log(NormalDist().pdf(0) / math.sqrt(variance)) - z * z / 2)
        assert found[x] == pytest.approx(densities[0] - densities[1], rel=1e-9, abs=1e-9)


@FEW
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 6), st.booleans())
def test_offline_lira_orders_records_by_the_one_sided_probability(
    seed: int, k: int, records: int, shared: bool
) -> None:
    phi, outside = table(seed, records), table(seed + 1, k, records)
    found = lira.offline(phi, outside, shared)
    spread = math.sqrt(fmean([float(np.var(outside[:, i], ddof=1)) for i in range(records)]))
    for x in range(records):
        null = NormalDist.from_samples(outside[:, x].tolist())
        if shared:
            null = NormalDist(null.mean, spread)
        assert NormalDist().cdf(found[x]) == pytest.approx(null.cdf(phi[x]), abs=1e-9)


def test_lira_pools_the_variance_where_a_kind_has_fewer_than_64_references() -> None:
    phi = table(0, 5)
    for j, k, pooled in ((64, 64, False), (63, 64, True), (64, 63, True)):
        inside, outside = table(1, j, 5), table(2, k, 5)
        chosen = lira.online(phi, inside, outside)
        np.testing.assert_array_equal(chosen, lira.online(phi, inside, outside, pooled))
        assert not np.allclose(chosen, lira.online(phi, inside, outside, not pooled))
    np.testing.assert_array_equal(
        lira.offline(phi, table(1, 64, 5)),
        lira.offline(phi, table(1, 64, 5), shared_variance=False),
    )


def test_several_models_are_judged_at_once_as_one_by_one() -> None:
    phi, inside, outside = table(0, 3, 5), table(1, 4, 5), table(2, 4, 5)
    one_by_one = np.stack([lira.online(row, inside, outside) for row in phi])
    np.testing.assert_array_equal(lira.online(phi, inside, outside), one_by_one)


def test_references_that_agree_to_the_last_bit_give_a_finite_score() -> None:
    same = np.ones((4, 3))
    np.testing.assert_array_equal(lira.online(np.ones(3), same, same), np.zeros(3))
    assert np.isfinite(lira.online(np.array([-1e4, 1, 1e4]), same, same - 1)).all()
    assert np.isfinite(lira.offline(np.array([-1e4, 1, 1e4]), same)).all()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def rmia_scores(phi: Floats, population: Floats, j: int, k: int) -> Scores:
    """A table of the model judged, j references with and k without; the population is one control
    subject's.

    Args:
        phi: (1 + j + k, n) scores of the records.
        population: (1 + j + k, z) scores of the population.
    """
    n, z = phi.shape[1], population.shape[1]
    everything = np.hstack([phi, population])
    labels = np.zeros(n + z, np.int64)
    return Scores(
        np.array(["unlearned", *["with"] * j, *["without"] * k]),
        everything,
        np.zeros(everything.shape, np.int64),
        labels,
        np.array(["training"] * n + ["control"] * z),
        np.array(["r"] * n + [""] * z),
        np.array([1] * n + [2] * z),
        np.array([], str),
        np.empty((n + z, 0), str),
    )


def slow_rmia(phi: Floats, population: Floats, j: int, k: int) -> list[float]:
    """The paper's score, record by record and pair by pair."""

    def relative(column: Floats) -> float:
        p = [sigmoid(value) for value in column]
        return p[0] / (fmean(p[1 : 1 + j]) / 2 + fmean(p[1 + j : 1 + j + k]) / 2)

    found = []
    for x in phi.T:
        ratios = [relative(x) / relative(z) for z in population.T]
        found.append(sum(ratio >= rmia.GAMMA for ratio in ratios) / len(ratios))
    return found


@FEW
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 5))
def test_rmia_is_the_share_of_the_population_that_a_record_beats(
    seed: int, j: int, k: int, ties: int
) -> None:
    phi, population = table(seed, 1 + j + k, 5), table(seed + 1, 1 + j + k, 17)
    population[:, :ties] = phi[:, :ties]  # a record that ties with one of the population beats it
    scores = rmia_scores(phi, population, j, k)
    score = rmia.scorer(scores, RecordMasks.of(scores, "r"), {})
    found = score(np.array([0]), np.arange(1 + j, 1 + j + k)[None])
    assert found[0].tolist() == slow_rmia(phi, population, j, k)


def test_rmia_uses_only_the_references_without_that_it_is_given() -> None:
    j, k = 3, 4
    phi, population = table(1, 1 + j + k, 5), table(2, 1 + j + k, 17)
    scores = rmia_scores(phi, population, j, k)
    chosen = [0, 1, 2, 3, 5, 7]  # the model, all references with, two of those without
    score = rmia.scorer(scores, RecordMasks.of(scores, "r"), {})
    found = score(np.array([0]), np.array([[5, 7]]))
    assert found[0].tolist() == slow_rmia(phi[chosen], population[chosen], j, 2)


def test_means_are_exact_where_probabilities_round_to_nought_and_one() -> None:
    extreme = np.array([[-1000.0, 60.0, 1000.0]])
    found = rmia.log_mean(np.vstack([extreme, extreme]), np.array([0.5, 0.5]))
    assert found[0] == pytest.approx(-1000.0)
    assert found[1] == pytest.approx(-math.exp(-60), rel=1e-9)
    assert found[2] == 0


def test_rmia_of_extreme_scores_is_a_share() -> None:
    column, population = np.array([-1e4, 0.0, 1e4]), np.array([-1e4, 0.0, 50.0, 1e4])
    phi = np.vstack([column, column[::-1], column[::-1], column, column])
    scores = rmia_scores(phi, np.tile(population, (5, 1)), 2, 2)
    found = rmia.scorer(scores, RecordMasks.of(scores, "r"), {})(np.array([0]), np.array([[3, 4]]))
    assert ((found >= 0) & (found <= 1)).all()


def slow_population_attack(
    scores: Scores, model: int, rows: RecordMasks
) -> tuple[list[float], dict[int, float]]:
    """The same attack with loops for the means and a general minimiser for the regression."""
    n = len(scores.labels)
    phi, right = scores.phi[model], scores.predicted[model] == scores.labels
    unseen = [i for i in range(n) if rows.unseen[i]]
    forgotten, found = [0.0] * int(rows.forget.sum()), {}
    folds = min(5, len(set(scores.subjects[unseen].tolist())))
    for fitted, held in GroupKFold(folds).split(unseen, groups=scores.subjects[unseen]):
        others = [unseen[i] for i in fitted]
        means = {
            c: fmean([phi[i] for i in others if scores.labels[i] == c] or [phi[i] for i in others])
            for c in set(scores.labels.tolist())
        }
        raw = [[phi[i], float(right[i]), phi[i] - means[scores.labels[i]]] for i in range(n)]
        members = [i for i in range(n) if rows.retained[i]]
        train = np.array([raw[i] for i in members + others])
        centre, scale = train.mean(axis=0), train.std(axis=0)
        x = (train - centre) / scale
        sign = np.array([1.0] * len(members) + [-1.0] * len(others))
        weight = np.where(sign > 0, 1 / len(members), 1 / len(others)) * len(sign) / 2

        def loss(b: Floats, x: Floats = x, sign: Floats = sign, weight: Floats = weight) -> float:
            return float(weight @ np.logaddexp(0, -sign * (x @ b[:3] + b[3])) + b[:3] @ b[:3] / 2)

        b = optimize.minimize(loss, np.zeros(4), tol=1e-8).x
        for i in (unseen[i] for i in held):
            found[i] = float((np.array(raw[i]) - centre) / scale @ b[:3] + b[3])
        for index, i in enumerate(np.flatnonzero(rows.forget)):
            forgotten[index] += float((np.array(raw[i]) - centre) / scale @ b[:3] + b[3]) / folds
    return forgotten, found


def only_these_unseen(scores: Scores, people: int, classes: int) -> Scores:
    """The same world in which only so many people are unseen, with records of so many classes."""
    unseen = scores.unseen
    chosen = np.isin(scores.subjects, np.unique(scores.subjects[unseen])[:people])
    kept = ~unseen | (chosen & (scores.labels < classes))
    return replace(
        scores,
        phi=scores.phi[:, kept],
        predicted=scores.predicted[:, kept],
        labels=scores.labels[kept],
        roles=scores.roles[kept],
        requests=scores.requests[kept],
        subjects=scores.subjects[kept],
        attributes=scores.attributes[kept],
    )


@pytest.mark.parametrize(
    ("people", "classes", "decimals"),
    [(10, 4, 12), (10, 4, 0), (3, 4, 12), (2, 4, 0), (10, 3, 12)],
    ids=["many people", "ties", "three people", "two people and ties", "a class nobody has"],
)
def test_the_population_attack_equals_a_slow_one(people: int, classes: int, decimals: int) -> None:
    scores = only_these_unseen(world(1.0, 0), people, classes)
    scores = replace(scores, phi=scores.phi.round(decimals))
    rows = RecordMasks.of(scores, "r")
    forgotten, unseen = population.attack(scores, 0, rows)
    slow_forgotten, slow_unseen = slow_population_attack(scores, 0, rows)
    np.testing.assert_allclose(forgotten, slow_forgotten, atol=0.01)
    np.testing.assert_allclose(
        unseen, [slow_unseen[i] for i in np.flatnonzero(rows.unseen)], atol=0.01
    )


def test_the_population_attack_tells_a_model_that_saw_the_records_from_one_that_did_not() -> None:
    scores = world(0.0, 1)
    rows = RecordMasks.of(scores, "r")
    original, retrained = (roc.auc(*population.attack(scores, model, rows)) for model in (0, 2))
    assert original > retrained + 0.2
    assert original > 0.75


def test_the_population_attack_scores_nobody_by_what_it_learnt_from_him() -> None:
    scores = world(0.0, 2)
    rows = RecordMasks.of(scores, "r")
    unseen = np.flatnonzero(rows.unseen)
    people = scores.subjects[unseen]
    _, before = population.attack(scores, 0, rows)
    person = people[0]
    phi = scores.phi.copy()
    phi[0, scores.subjects == person] += 50
    _, after = population.attack(replace(scores, phi=phi), 0, rows)
    for _, held in GroupKFold(5).split(unseen, groups=people):
        others = held[people[held] != person]
        same = person in people[held]
        # with him in the held-out fold the classifier is the same; in every other fold he was
        # learnt from
        assert np.array_equal(before[others], after[others]) == same


def test_a_record_that_the_person_leaves_in_training_teaches_the_attack_nothing() -> None:
    scores = world(0.0, 3)
    requests = scores.requests.copy()
    requests[:5] = ""
    rows = RecordMasks.of(replace(scores, requests=requests), "r")
    assert rows.forget.sum() == FORGET - 5
    assert not rows.retained[:FORGET].any()
    assert rows.retained.sum() == 10 * EACH


def test_of_many_records_the_same_few_are_drawn() -> None:
    rows: Ints = np.arange(10_000)
    drawn = rows_module.sample(rows)
    assert len(set(drawn.tolist())) == rows_module.MOST_RECORDS
    np.testing.assert_array_equal(drawn, rows_module.sample(rows))
    # a manifest that goes round its ten classes keeps them all
    assert np.bincount(drawn % 10).min() > 100
    np.testing.assert_array_equal(rows_module.sample(rows[:50]), rows[:50])


# What an attack reaches

SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)


@FEW
@given(SCORES, SCORES)
def test_the_auc_counts_pairs_with_ties_half(
    members: list[float], non_members: list[float]
) -> None:
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(members, non_members)
    ]
    found = roc.auc(np.array(members), np.array(non_members))
    assert found == pytest.approx(fmean(pairs), abs=1e-12)
    truth = [1] * len(members) + [0] * len(non_members)
    assert found == pytest.approx(roc_auc_score(truth, members + non_members), abs=1e-12)


@FEW
@given(SCORES, SCORES)
def test_the_auc_knows_only_the_order_and_turns_round_when_the_sides_are_swapped(
    members: list[float], non_members: list[float]
) -> None:
    a, b = np.array(members), np.array(non_members)
    assert roc.auc(np.exp(a) * 3 - 1, np.exp(b) * 3 - 1) == roc.auc(a, b)
    assert roc.auc(b, a) == pytest.approx(1 - roc.auc(a, b), abs=1e-12)
    low, high = roc.auc_interval(a, b)
    other_low, other_high = roc.auc_interval(b, a)
    assert (other_low, other_high) == (
        pytest.approx(1 - high, abs=1e-9),
        pytest.approx(1 - low, abs=1e-9),
    )
    assert 0 <= low <= roc.auc(a, b) + 1e-12
    assert roc.auc(a, b) - 1e-12 <= high <= 1


@FEW
@given(SCORES, SCORES)
def test_the_curve_is_scikit_learns_and_its_area_the_auc(
    members: list[float], non_members: list[float]
) -> None:
    curve = roc.roc(np.array(members), np.array(non_members))
    truth = [1] * len(members) + [0] * len(non_members)
    fpr, tpr, thresholds = roc_curve(truth, members + non_members, drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(curve.tpr, tpr, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    area = roc.auc(np.array(members), np.array(non_members))
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(area, abs=1e-12)


@FEW
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(2, 8))
def test_the_standard_error_of_the_auc_is_delongs(seed: int, m: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    members, others = rng.integers(-3, 4, m).astype(float), rng.integers(-3, 4, k).astype(float)
    kernel = [[1.0 if a > b else 0.5 if a == b else 0.0 for b in others] for a in members]
    area = fmean([fmean(row) for row in kernel])
    of_members = sum((fmean(row) - area) ** 2 for row in kernel) / (m - 1)
    of_others = sum((fmean(column) - area) ** 2 for column in zip(*kernel, strict=True)) / (k - 1)
    assert roc.delong_error(members, others) == pytest.approx(
        math.sqrt(of_members / m + of_others / k), abs=1e-9
    )


@pytest.mark.parametrize(
    ("area", "m", "k"), [(0.5, 20, 100), (0.9, 20, 100), (1.0, 5, 7), (0.0, 1, 1)]
)
def test_the_other_interval_solves_newcombes_equation(area: float, m: int, k: int) -> None:
    z = 1.96
    for theta in roc.newcombe_interval(area, m, k, z):
        n = (m + k) / 2
        q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)
        variance = (theta * (1 - theta) + (n - 1) * (q1 - theta**2) + (n - 1) * (q2 - theta**2)) / (
            m * k
        )
        assert (area - theta) ** 2 == pytest.approx(z**2 * variance, abs=1e-9)


@pytest.mark.parametrize(("area", "spread"), [(0.5, 1.0), (0.7, 2.0), (0.9, 2.0), (0.98, 2.0)])
def test_the_interval_of_the_auc_covers_it_on_independent_records(
    area: float, spread: float
) -> None:
    rng = np.random.default_rng(0)
    shift, count = stats.norm.ppf(area) * math.hypot(1, spread), 200
    spans = [
        roc.auc_interval(rng.normal(shift, spread, 30), rng.normal(0, 1, 200)) for _ in range(count)
    ]
    covered = sum(low <= area <= high for low, high in spans)
    assert covered >= stats.binom.ppf(0.001, count, 0.95)
    assert fmean([high - low for low, high in spans]) < 0.32


def test_a_perfect_attack_on_few_records_leaves_doubt() -> None:
    low, high = roc.auc_interval(np.array([2.0, 3.0]), np.array([0.0, 1.0]))
    assert low < 0.7
    assert high == 1
    assert roc.auc_interval(np.array([1.0]), np.array([1.0]))[0] < 0.1


@FEW
@given(
    st.lists(st.integers(0, 20).map(float), min_size=1, max_size=60),
    st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.5]),
)
def test_the_threshold_is_the_least_that_flags_at_most_the_rate(
    non_members: list[float], rate: float
) -> None:
    found = roc.threshold(np.array(non_members), rate)
    allowed = rate * len(non_members) + 1e-9
    fine = [t for t in non_members if sum(value > t for value in non_members) <= allowed]
    assert found == min(fine)


@FEW
@given(
    st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.9, 0.99]),
)
def test_the_interval_of_a_share_is_clopper_and_pearsons(
    counts: tuple[int, int], confidence: float
) -> None:
    found = roc.clopper_pearson(*counts, confidence)
    expected = stats.binomtest(*counts).proportion_ci(confidence, method="exact")
    assert found == (
        pytest.approx(expected.low, abs=1e-12),
        pytest.approx(expected.high, abs=1e-12),
    )


def test_a_rate_without_ten_expected_false_positives_has_no_point() -> None:
    members = np.linspace(0, 2, 50)
    for count, rates in ((99, []), (100, [0.1]), (200, [0.05, 0.1]), (1000, [0.01, 0.05, 0.1])):
        points = roc.rate_points(members, np.linspace(0, 1, count))
        assert [point.fpr for point in points] == rates
    assert [point.fpr for point in roc.rate_points(members, np.linspace(0, 1, 10_000))] == list(
        roc.RATES
    )


@pytest.mark.parametrize("decimals", [0, 8])
def test_a_point_is_the_best_of_the_curve_at_its_rate(decimals: int) -> None:
    rng = np.random.default_rng(0)
    members, non_members = (
        rng.normal(1, 1, 40).round(decimals),
        rng.normal(0, 1, 300).round(decimals),
    )
    curve = roc.roc(members, non_members)
    for point in roc.rate_points(members, non_members):
        assert point.tpr == pytest.approx(curve.tpr[curve.fpr <= point.fpr].max())
        assert point.low <= point.tpr <= point.high
        assert point.false_positives_expected == pytest.approx(point.fpr * 300)


# One request


def test_a_model_that_saw_the_records_is_far_outside_the_band(
    unchanged: examination.Examination,
) -> None:
    assert [attack.name for attack in unchanged.attacks] == [
        "lira_online",
        "lira_offline",
        "rmia",
        "population",
    ]
    for attack in unchanged.attacks:
        assert attack.outside_band
        assert attack.auc["unlearned"] > attack.auc_band[1] + 0.1
        assert attack.auc_interval[0] <= attack.auc["unlearned"] <= attack.auc_interval[1]
    for attack in unchanged.attacks[:2]:
        assert attack.auc["original"] > 0.9
        assert attack.flagged["original"] >= FORGET / 2
        assert attack.flagged_band[1] < FORGET / 2


def test_an_over_forgotten_model_is_outside_the_band_too() -> None:
    for attack in examination.examine(world(-1.0, 0, references=5), "r", ALPHA).attacks:
        assert attack.outside_band
        assert attack.auc["unlearned"] < attack.auc_band[0]


def test_the_numbers_of_records_and_non_members_are_those_compared(
    unchanged: examination.Examination,
) -> None:
    assert unchanged.references == {"with": 8, "without": 8}
    for attack in unchanged.attacks[:3]:
        assert (attack.records, attack.non_members) == (FORGET, FORGET * 7)
    assert unchanged.attacks[3].non_members == 10 * EACH


def test_what_is_reported_is_plain_json_without_nan(unchanged: examination.Examination) -> None:
    plain = json.loads(json.dumps(unchanged.as_json(), allow_nan=False))
    assert [set(attack) for attack in plain["attacks"]] == [
        {
            *(
                "name",
                "title",
                "source",
                "auc",
                "auc_interval",
                "auc_band",
                "flagged",
                "flagged_band",
                "flagged_rate",
            ),
            *("records", "non_members", "tpr_at_fpr", "outside_band"),
        }
    ] * 4
    first = plain["attacks"][0]
    assert set(first["auc"]) == set(first["flagged"]) == {"original", "unlearned", "retrained"}
    # 140 non-members allow 10 % and nothing lower
    assert [set(point) for point in first["tpr_at_fpr"]] == [
        {"fpr", "tpr", "low", "high", "false_positives_expected"}
    ]


def test_the_same_scores_give_the_same_report() -> None:
    first, second = (examination.examine(world(0.5, 0, references=4), "r", ALPHA) for _ in range(2))
    assert first.as_json() == second.as_json()


def test_a_model_that_never_saw_the_records_is_mostly_inside_the_band() -> None:
    found = [
        examination.examine(world(0.0, seed, references=4), "r", ALPHA).attacks for seed in range(5)
    ]
    outside = sum(attack.outside_band for attacks_ in found for attack in attacks_)
    # 20 of them, each outside with a probability of about 0.3; those of one world go together
    assert outside <= 12


def test_a_further_retrained_model_is_outside_the_band_as_often_as_chance_has_it() -> None:
    references, draws, outside = 6, 150, 0
    for seed in range(draws):
        phi = table(seed, references + 1, 10) + table(seed + draws, 10)

        def score(models: Ints, out: Ints, phi: Floats = phi) -> Floats:
            return lira.offline(phi[models], phi[out])

        judge = examination.leave_one_out(score, np.arange(references))
        band = [roc.auc(*judge(model)) for model in range(references)]
        outside += not min(band) <= roc.auc(*judge(references)) <= max(band)
    chance = 2 / (references + 1)
    # a band that holds everybody would be no yardstick either
    assert (
        stats.binom.ppf(0.001, draws, chance / 2)
        <= outside
        <= stats.binom.ppf(0.999, draws, chance)
    )


def test_no_model_is_among_the_references_that_judge_it() -> None:
    without = np.array([5, 6, 7, 8, 9])
    for judged in (0, 5, 9):
        calls: list[tuple[int, list[int]]] = []

        def score(models: Ints, out: Ints, calls: list[tuple[int, list[int]]] = calls) -> Floats:
            calls += zip(models.tolist(), out.tolist(), strict=True)
            return models[:, None].astype(np.float64)

        members, non_members = examination.leave_one_out(score, without)(judged)
        assert members.tolist() == [float(judged)]
        assert len(non_members) == 4
        for model, out in calls:
            assert model not in out
            assert judged not in out
            # the same number for everybody, whether he is a reference or not
            assert len(out) == (4 if model == judged else 3)


@pytest.mark.parametrize("name", ["lira_online", "lira_offline", "rmia"])
def test_a_models_own_scores_do_not_move_what_it_is_compared_with(name: str) -> None:
    scores = world(0.0, 4)
    rows, within = RecordMasks.of(scores, "r"), np.flatnonzero(scores.model_roles == "with")
    without = np.flatnonzero(scores.model_roles == "without")

    def non_members(phi: Floats, judged: int) -> Floats:
        forget = phi[:, rows.forget]
        score = {
            "lira_online": lambda t, out: lira.online(forget[t], forget[within], forget[out]),
            "lira_offline": lambda t, out: lira.offline(forget[t], forget[out]),
            "rmia": rmia.scorer(replace(scores, phi=phi), rows, {}),
        }[name]
        return examination.leave_one_out(score, without)(judged)[1]

    wild = scores.phi.copy()
    wild[without[2]] *= -100
    np.testing.assert_array_equal(
        non_members(scores.phi, int(without[2])), non_members(wild, int(without[2]))
    )
    assert not np.array_equal(
        non_members(scores.phi, int(without[3])), non_members(wild, int(without[3]))
    )


def test_one_record_constant_scores_and_a_class_without_controls_are_examined_without_nan() -> None:
    scores = world(0.0, 5, references=4)
    one = replace(scores, requests=np.where(np.arange(len(scores.labels)) == 0, "r", ""))
    constant = replace(scores, phi=np.ones_like(scores.phi))
    lone = replace(scores, labels=np.where(scores.requests == "r", 7, scores.labels))
    found = [examination.examine(case, "r", ALPHA) for case in (one, constant, lone)]
    json.dumps([case.as_json() for case in found], allow_nan=False)
    assert [case.attacks[0].records for case in found] == [1, FORGET, FORGET]
    assert [attack.auc["unlearned"] for attack in found[1].attacks[:3]] == [0.5] * 3


# Those who stay


def test_people_who_stay_and_are_exposed_are_found() -> None:
    everybody = exposure.measure(world(0.0, 0, stays=3.0), ALPHA)
    assert everybody.worsened
    assert everybody.p_worse < 0.001
    assert everybody.subjects_worse == everybody.subjects == 10
    assert everybody.auc["unlearned"] > everybody.auc_band[1]


def test_one_person_who_is_exposed_is_found_though_the_whole_looks_well() -> None:
    one = exposure.measure(world(0.0, 1, one_stays=4.0), ALPHA)
    assert one.worsened
    assert one.subjects_worse == 1
    assert one.largest > 5


def test_everybody_a_little_exposed_is_found_though_nobody_stands_out() -> None:
    found = exposure.measure(world(0.0, 3, stays=0.5), ALPHA)
    assert found.worsened
    assert found.subjects_worse == 0


def test_each_of_the_two_questions_has_half_of_alpha() -> None:
    found = exposure.measure(world(0.0, 2, stays=0.5), ALPHA)
    assert found.level == ALPHA / 2
    assert ALPHA / 2 < found.p_worse < ALPHA
    assert not found.worsened


def test_people_who_are_less_exposed_are_no_alarm() -> None:
    found = exposure.measure(world(0.0, 0, stays=-3.0), ALPHA)
    assert not found.worsened
    assert found.p_worse > 0.99


def test_exposure_is_found_where_there_is_none_no_more_often_than_alpha() -> None:
    draws = 200
    found = [exposure.measure(world(0.0, seed), ALPHA) for seed in range(draws)]
    assert sum(e.worsened for e in found) <= stats.binom.ppf(0.999, draws, ALPHA)
    p_values = [e.p_worse for e in found]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_the_p_value_is_students_of_one_more_draw() -> None:
    scores = world(0.0, 6)
    found = exposure.measure(scores, ALPHA)
    areas = {}
    control, unseen = scores.roles == "control", np.isin(scores.roles, ["control", "test"])
    kept = (scores.roles == "training") & (scores.requests == "")
    for model, kind in enumerate(scores.model_roles):
        means = {c: fmean(scores.phi[model][control & (scores.labels == c)]) for c in range(4)}
        centred = [phi - means[c] for phi, c in zip(scores.phi[model], scores.labels, strict=True)]
        truth = np.where(kept, 1, 0)[kept | unseen]
        areas.setdefault(str(kind), []).append(
            roc_auc_score(truth, np.array(centred)[kept | unseen])
        )
    without = areas["without"]
    assert found.auc_mean == pytest.approx(fmean(without))
    assert found.auc_band == (pytest.approx(min(without)), pytest.approx(max(without)))
    # two samples with one variance, of which one has one value
    expected = stats.ttest_ind(areas["unlearned"], without, alternative="greater").pvalue
    assert found.p_worse == pytest.approx(expected, rel=1e-6)


def test_the_report_of_exposure_points_to_nobody() -> None:
    plain = exposure.measure(world(0.0, 0, one_stays=4.0), ALPHA).as_json()
    text = json.dumps(plain, allow_nan=False)
    # whole numbers, as the digits of a rate can hold any code by chance
    numbers = {int(found) for found in re.findall(r"(?<![\d.])\d+(?![\d.])", text)}
    assert set(plain) == {
        *(
            "auc",
            "auc_band",
            "auc_mean",
            "p_worse",
            "subjects",
            "subjects_worse",
            "largest",
            "level",
            "alpha",
        ),
        "worsened",
    }
    assert not numbers & set(range(1000, 1021))


# Bad input


def broken(scores: Scores, how: str) -> Scores:
    """A world with one thing wrong."""
    phi, roles = scores.phi.copy(), scores.roles
    if how == "nan":
        phi[1, ::5] = np.nan
        return replace(scores, phi=phi)
    if how == "references":
        return take(scores, np.flatnonzero(scores.model_roles != "without"))
    if how == "with":
        return take(scores, np.flatnonzero(scores.model_roles != "with"))
    if how == "original":
        return take(scores, np.flatnonzero(scores.model_roles != "original"))
    if how == "unseen":
        return replace(scores, roles=np.where(roles == "training", roles, "calibration"))
    if how == "control":
        return replace(scores, roles=np.where(roles == "control", "test", roles))
    return replace(
        scores,
        roles=np.where(scores.requests == "", np.where(roles == "training", "test", roles), roles),
    )


def take(scores: Scores, models: Ints) -> Scores:
    return replace(
        scores,
        model_roles=scores.model_roles[models],
        phi=scores.phi[models],
        predicted=scores.predicted[models],
    )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "NaN or infinite scores of the models unlearned"),
        ("references", "0 references without"),
        ("with", "0 references trained with everybody"),
        ("original", "0 models in the role original"),
        ("unseen", "control or test"),
        ("retained", "0 retained records"),
    ],
)
def test_a_request_that_cannot_be_examined_is_an_error_that_says_why(
    how: str, message: str
) -> None:
    with pytest.raises(EvidenceError, match=message):
        examination.examine(broken(world(0.0, 0, references=4), how), "r", ALPHA)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "NaN or infinite scores of the models unlearned"),
        ("references", "0 references without"),
        ("control", "0 control records"),
        ("retained", "0 retained"),
    ],
)
def test_an_exposure_that_cannot_be_judged_is_an_error_that_says_why(
    how: str, message: str
) -> None:
    with pytest.raises(EvidenceError, match=message):
        exposure.measure(broken(world(0.0, 0, references=4), how), ALPHA)


def test_empty_requests_and_references_that_do_not_differ_are_errors() -> None:
    scores = world(0.0, 0, references=4)
    for request in ("", "another"):
        with pytest.raises(EvidenceError, match="no record"):
            examination.examine(scores, request, ALPHA)
    with pytest.raises(EvidenceError, match="alike"):
        exposure.measure(replace(scores, phi=np.ones_like(scores.phi)), ALPHA)
    for alpha in (0.0, 1.0, math.nan):
        with pytest.raises(EvidenceError, match="alpha"):
            examination.examine(scores, "r", alpha)
        with pytest.raises(EvidenceError, match="alpha"):
            exposure.measure(scores, alpha)


def test_bad_arrays_are_errors() -> None:
    one, two, nan = np.ones((1, 3)), np.ones((2, 3)), np.full((2, 3), np.nan)
    calls = [
        lambda: lira.online(np.ones(3), one, two),
        lambda: lira.online(np.ones(4), two, two),
        lambda: lira.offline(np.ones(3), one),
        lambda: lira.offline(np.ones(3), nan),
        lambda: roc.auc(np.ones(0), np.ones(1)),
        lambda: roc.auc(np.array([np.nan]), np.ones(1)),
        lambda: roc.roc(np.ones(1), np.ones(0)),
        lambda: roc.threshold(np.ones(0), 0.1),
        lambda: roc.threshold(np.ones(3), 0.0),
        lambda: roc.rate_points(np.ones(0), np.ones(3)),
        lambda: roc.auc_interval(np.ones(2), np.ones(3), 1.0),
        lambda: roc.clopper_pearson(0, 0),
        lambda: roc.clopper_pearson(3, 2),
        lambda: roc.clopper_pearson(-1, 2),
    ]
    for call in calls:
        with pytest.raises(EvidenceError, match=r"got .* expected"):
            call()


def test_means_of_probabilities_are_those_of_plain_sums_by_any_weights() -> None:
    random = np.random.default_rng(5)
    phi, shares = random.normal(0, 4, (6, 40)), random.dirichlet(np.ones(6), (3, 2))
    shares[0, 0] = [0.5, 0, 0, 0, 0, 0.5]
    found = rmia.log_mean(phi, shares)
    assert found.shape == (3, 2, 40)
    for index in np.ndindex(3, 2):
        for column in range(40):
            terms = [
                w / (1 + math.exp(-x)) for w, x in zip(shares[index], phi[:, column], strict=True)
            ]
            assert found[(*index, column)] == pytest.approx(
                math.log(math.fsum(terms)), rel=1e-12, abs=1e-14
            )
    tiny = rmia.log_mean(np.array([[-900.0], [-1000.0]]), np.array([[0.5, 0.5], [0.0, 1.0]]))
    np.testing.assert_allclose(tiny[:, 0], [math.log(0.5) - 900, -1000], rtol=1e-12)


def test_what_requests_share_is_remembered_and_changes_nothing() -> None:
    scores = world(0.2, 6)
    second = replace(scores, requests=np.where(scores.subjects == 1003, "s", scores.requests))
    memory: Memory = {}
    for request in ("r", "s", "r"):
        assert (
            examination.examine(second, request, ALPHA, memory).as_json()
            == examination.examine(second, request, ALPHA).as_json()
        )
    kept = len(memory)
    examination.examine(second, "s", ALPHA, memory)
    assert len(memory) == kept


@FEW
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 1.0, 30.0]), st.booleans())
def test_the_regression_is_the_librarys_to_the_last_digits(
    seed: int, apart: float, always_right: bool
) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(10, 400))
    member = random.permutation(np.arange(count) < random.integers(1, count))
    phi = random.normal(2, 3, count) + apart * member
    features = np.column_stack(
        [phi, always_right | (phi > 0), phi - random.choice([0, 1, 2], count)]
    )
    library = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", solver="newton-cholesky")
    )
    expected = library.fit(features, member).decision_function(features)
    np.testing.assert_allclose(
        population.log_odds(features, member, features),
        expected,
        rtol=1e-11,
        atol=1e-11 * np.abs(expected).max(),
    )


@FEW
@given(
    st.lists(st.integers(0, 12), min_size=20, max_size=80).filter(lambda found: len(set(found)) > 4)
)
def test_people_are_dealt_as_the_library_deals_them(people: list[int]) -> None:
    dealt = population.split_people(np.array(people), 5)
    for number, (_, held) in enumerate(GroupKFold(5).split(people, groups=people)):
        assert np.flatnonzero(dealt == number).tolist() == held.tolist()
