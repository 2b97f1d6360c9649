"""The statistic, its interval and its assumptions, on numbers whose truth is known."""

from __future__ import annotations

import math
from statistics import NormalDist, fmean, variance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.common.errors import EvidenceError
from tasks.verification import contrast
from tasks.verification.contrast import Contrast, Likelihood
from tasks.verification.scoring import Floats


def references(
    seed: int, count: int = 16, records: int = 20, gap: float = 3.0, noise: float = 1.0
) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 2, records)
    with_ = level + gap + rng.normal(0, noise, (count, records)) + rng.normal(0, 0.3, (count, 1))
    without = level + rng.normal(0, noise, (count, records)) + rng.normal(0, 0.3, (count, 1))
    return with_, without, level


def of(
    with_: Floats, without: Floats, judged: float, equal_p: float = 1.0, normal_p: float = 1.0
) -> Contrast:
    return Contrast(
        np.asarray(with_, np.float64), np.asarray(without, np.float64), judged, equal_p, normal_p
    )


@given(st.integers(3, 6), st.integers(1, 5), st.integers(0, 10**6))
def test_the_ratio_is_that_of_two_normals_of_one_variance(
    count: int, records: int, seed: int
) -> None:
    with_, without, _ = references(seed, count, records)
    phi = np.random.default_rng(seed).normal(0, 3, (1, records))
    own = [(variance(with_[:, x]) + variance(without[:, x])) / 2 for x in range(records)]
    expected = []
    for x in range(records):
        high, low, spread = (
            fmean(with_[:, x]),
            fmean(without[:, x]),
            math.sqrt((own[x] + fmean(own)) / 2),
        )
        if high <= low:
            expected.append(
                0.0
            )  # a record that models with it score lower tells nothing about memory
        else:
            ratio = (phi[0, x] - low) ** 2 / (2 * spread**2) - (phi[0, x] - high) ** 2 / (
                2 * spread**2
            )
            expected.append(ratio)
            if abs(ratio) < 50:  # the densities themselves, where they do not underflow
                densities = (
                    NormalDist(high, spread).pdf(phi[0, x]),
                    NormalDist(low, spread).pdf(phi[0, x]),
                )
                if min(densities) > 0:
                    assert ratio == pytest.approx(
                        math.log(densities[0]) - math.log(densities[1]), abs=1e-6
                    )
    np.testing.assert_allclose(
        Likelihood.fit(with_, without)(phi)[0], expected, rtol=1e-9, atol=1e-9
    )


def test_a_reference_is_measured_by_ratios_that_were_fitted_without_it() -> None:
    with_, without, level = references(0)
    before = contrast.contrast(with_, without, level, contrast.overall)
    with_[3] += 100.0
    fitted = Likelihood.fit(np.delete(with_, 3, axis=0), without)
    after = contrast.contrast(with_, without, level, contrast.overall)
    assert after.with_[3] == pytest.approx(float(fitted(with_[3:4]).mean()))
    assert after.with_[4] != pytest.approx(before.with_[4])


def test_the_contrast_at_its_own_estimate_is_zero_and_falls_with_the_influence() -> None:
    with_, without, level = references(1)
    t = contrast.contrast(with_, without, level + 1.0, contrast.overall)
    assert t.rho is not None
    assert t.t(t.rho) == pytest.approx(0, abs=1e-9)
    assert t.t(-1) > t.t(0) > t.t(1)
    assert t.p_below(0.5) + t.p_above(0.5) == pytest.approx(1)


@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 1000))
def test_nothing_depends_on_the_scale_of_the_scores(scale: float, shift: float, seed: int) -> None:
    with_, without, level = references(seed, count=6, records=5)
    plain = contrast.contrast(with_, without, level, contrast.overall)
    other = contrast.contrast(
        scale * with_ + shift, scale * without + shift, scale * level + shift, contrast.overall
    )
    assert other.detectability == pytest.approx(plain.detectability, rel=1e-6)
    assert other.t(0.5) == pytest.approx(plain.t(0.5), rel=1e-6, abs=1e-6)


def test_the_test_keeps_its_level_on_the_margin() -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(4000):
        sample = of(
            1 + rng.normal(0, 0.15, 16), rng.normal(0, 0.15, 16), float(0.5 + rng.normal(0, 0.15))
        )
        found.append(sample.p_below(0.5) < 0.05)
    assert np.mean(found) <= stats.binom.ppf(0.999, 4000, 0.05) / 4000
    assert np.mean(found) >= stats.binom.ppf(0.001, 4000, 0.05) / 4000


def test_unequal_variances_take_the_larger_of_both() -> None:
    low, high = np.linspace(-1, 1, 16), 10 + np.linspace(-4, 4, 16)
    fallback, pooled = of(high, low, 0.0, equal_p=0.001), of(high, low, 0.0)
    assert fallback.spread == pytest.approx(high.std(ddof=1))
    assert low.std(ddof=1) < pooled.spread < fallback.spread
    assert fallback.degrees == 15
    assert pooled.degrees == 30


def test_unequal_variances_are_noticed_in_real_references() -> None:
    rng = np.random.default_rng(0)
    with_, without, level = references(2)
    wild = without + rng.normal(0, 6, (16, 1))
    assert contrast.contrast(with_, without, level, contrast.overall).equal
    assert not contrast.contrast(with_, wild, level, contrast.overall).equal


def test_residuals_that_are_not_normal_cost_sharpness_and_never_give_it() -> None:
    rng = np.random.default_rng(5)
    with_, without = 10 + rng.standard_t(1.5, 16), rng.standard_t(1.5, 16)
    usual, careful = of(with_, without, 0.0), of(with_, without, 0.0, normal_p=0.0001)
    for r in np.linspace(-1, 2, 13):
        assert careful.p_below(r) >= usual.p_below(r)
        assert careful.p_above(r) >= usual.p_above(r)
    assert min(careful.p_below(r) for r in np.linspace(0, 5, 50)) >= 1 / 33


def test_too_few_references_for_the_error_rate_asked_for_show_nothing_when_not_normal() -> None:
    with_, without = 10 + np.linspace(-1, 1, 6), np.linspace(-1, 1, 6)
    careful = of(with_, without, 0.0, normal_p=0.0)
    assert careful.p_below(0.9) > 0.05
    assert careful.interval(0.05).high is None


@given(
    st.integers(0, 10**6),
    st.floats(-0.5, 1.5),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=60)
def test_the_interval_holds_what_the_test_does_not_reject(
    seed: int, truth: float, equal: float, normal: float
) -> None:
    rng = np.random.default_rng(seed)
    c = of(
        1 + rng.normal(0, 0.1, 20),
        rng.normal(0, 0.1, 20),
        truth + float(rng.normal(0, 0.1)),
        equal,
        normal,
    )
    span = c.interval(0.05)
    if span.low is None or span.high is None:
        return
    for r in np.linspace(span.low - 1, span.high + 1, 41):
        inside = span.low < r < span.high
        kept = c.p_below(float(r)) > 0.05 and c.p_above(float(r)) > 0.05
        if abs(r - span.low) > 1e-6 and abs(r - span.high) > 1e-6:
            assert kept == inside


def test_the_memorised_statistic_sees_a_half_left_in_that_the_mean_takes_for_half_forgotten() -> (
    None
):
    with_, without, level = references(4, records=40, gap=4.0)
    half = level + 4.0 * (np.arange(40) < 20)
    whole = contrast.contrast(with_, without, half, contrast.overall)
    most = contrast.contrast(with_, without, half, contrast.memorised(0.5))
    assert whole.rho == pytest.approx(0.5, abs=0.15)
    assert most.rho == pytest.approx(1.0, abs=0.15)


def test_models_of_one_kind_that_agree_to_the_last_bit_are_not_taken_for_certain() -> None:
    c = of(np.ones(16), np.zeros(16), 0.0, 0.0, 0.0)
    assert c.spread == pytest.approx(contrast.LEAST_SPREAD)
    assert c.detectability == pytest.approx(50)


def test_references_that_all_agree_cannot_judge() -> None:
    same = np.ones((8, 5))
    with pytest.raises(EvidenceError, match="alike"):
        contrast.contrast(same, same, same[0], contrast.overall)


def test_a_model_that_is_less_confident_of_everything_is_noticed_by_the_controls() -> None:
    with_, without, _ = references(6)
    base = np.random.default_rng(0).normal(3, 0.2, (32, 1)) * np.ones((32, 20))
    assert not contrast.unusual_confidence(with_, without, base, base[5])
    assert contrast.unusual_confidence(with_, without, base, base[5] - 2.0)
    assert contrast.unusual_confidence(with_, without, base, base[5] + 2.0)


def test_a_usual_model_is_called_unusual_one_time_in_twenty() -> None:
    with_, without, _ = references(6)
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(1000):
        bases = rng.normal(3, 0.2, (33, 1)) * np.ones((33, 20))
        found += contrast.unusual_confidence(with_, without, bases[:32], bases[32])
    assert stats.binom.ppf(0.001, 1000, 0.05) <= found <= stats.binom.ppf(0.999, 1000, 0.05)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 60), st.sampled_from([0.01, 0.05, 0.1]), st.floats(0.05, 0.95))
def test_the_references_needed_are_the_fewest_whose_detection_limit_is_within_the_margin(
    detectability: float, alpha: float, rho0: float
) -> None:
    def within(count: int) -> bool:
        limit = contrast.detection_limit(detectability, count, count, 2 * count - 2, alpha)
        return limit is not None and limit <= rho0

    few = next((count for count in range(4, contrast.MOST_REFERENCES + 1) if within(count)), None)
    assert contrast.references_needed(detectability, alpha, rho0) == few
