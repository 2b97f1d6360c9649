"""Measures how much of the forget set is left in a model: one number per model, compared with
references of both kinds.

The unit of replication is the model, not the image: images scored by one model are correlated, so
one model gives one number. The evidence of a record x is how much more likely its score phi is
under models trained with it than under models trained without it, both normal with one variance
(LiRA online, Carlini et al. 2022, section V.B):

    lambda_x(theta) = gap_x (phi_x(theta) - middle_x) / v_x,
    gap = mean_with - mean_without,   middle = their mean,

the log-likelihood ratio; v_x is the record's variance between models, averaged with the mean of all
records, since a few references estimate one record's variance badly. Two statistics use lambda:

    overall     T = mean of lambda over all records: Fisher's linear discriminant for records
                that vary independently
    memorised   T = mean of the membership probability 1 / (1 + exp(-lambda)) over the share of
                the records that this model remembers best, so that a few records left in are seen
                among many forgotten

References trained with everybody show T when nothing is forgotten; references trained without the
forget set show T when all is forgotten. The residual influence is the position in between:

    rho = (T_u - mean T_without) / (mean T_with - mean T_without):
    1 = never deleted, 0 = as retrained, < 0 = over-forgotten.

Its test is a contrast and not a ratio,

    t(r) = [T_u - (1 - r) mean T_without - r mean T_with]
           / sqrt(s^2 + (1 - r)^2 s^2 / M + r^2 s^2 / J),

Student's t under the hypothesis rho = r; the set of r that it does not reject is the interval of
rho (Fieller 1954).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.verification.scoring import Floats, Ints

LEAST_SPREAD = 0.02
"""Least spread between models of one kind, as a share of the gap: less is chance, or saturation."""
ASSUMPTION_LEVEL = 0.05
"""Below this p the assumptions of equal variances and of usual confidence are dropped, which only
costs sharpness."""
NORMALITY_LEVEL = 0.01
POWER = 0.8
"""The detection limit is the smallest rho0 that a perfect retrain would be certified for with this
probability."""
MOST_REFERENCES = 1024
NO_DIFFERENCE = say(
    "the references score every record alike; models that do not differ cannot judge"
)

Aggregate = Callable[[Floats], Floats]
"""Log-likelihood ratios (m, n) -> one number per model (m,)."""


@dataclass(frozen=True)
class Likelihood:
    """The log-likelihood ratio of each record, fitted on references."""

    middle: Floats
    """(n,) score at which knowing and not knowing are equally likely"""
    slope: Floats
    """(n,) gap / variance, 0 where models with the record score it no higher"""

    @classmethod
    def fit(cls, with_: Floats, without: Floats) -> Likelihood:
        """Fit on scores (j, n) of models with, and (k, n) of models without the records; j, k >=
        2."""
        high, low = with_.mean(axis=0), without.mean(axis=0)
        variance = (with_.var(axis=0, ddof=1) + without.var(axis=0, ddof=1)) / 2
        variance = (variance + variance.mean()) / 2 + np.finfo(np.float64).tiny
        return cls((high + low) / 2, np.maximum(high - low, 0) / variance)

    def __call__(self, phi: Floats) -> Floats:
        """(m, n) scores -> (m, n) log-likelihood ratios, > 0: rather trained with the record."""
        return np.asarray(self.slope * (phi - self.middle), np.float64)


def overall(ratios: Floats) -> Floats:
    """Mean over all records: (m, n) -> (m,)."""
    return np.asarray(ratios.mean(axis=1), np.float64)


def memorised(share: float) -> Aggregate:
    """Mean membership probability over the share of the records that looks most remembered: (m, n)
    -> (m,)."""

    def aggregate(ratios: Floats) -> Floats:
        from scipy.special import expit

        count = max(1, round(share * ratios.shape[1]))
        return np.asarray(np.sort(expit(ratios), axis=1)[:, -count:].mean(axis=1), np.float64)

    return aggregate


@dataclass(frozen=True)
class InfluenceInterval:
    """An estimate with its interval; a bound is None where the references cannot bound it."""

    estimate: float | None
    low: float | None
    high: float | None
    confidence: float


@dataclass(frozen=True)
class Contrast:
    """T of the references, each by ratios fitted without it, and of one model judged."""

    with_: Floats
    """(J,)"""
    without: Floats
    """(M,)"""
    judged: float
    equal_p: float
    """p of equal variances of both kinds (Brown and Forsythe 1974)"""
    normal_p: float
    """p of normal residuals (Shapiro and Wilk 1965)"""
    leverage: float = 0.0
    """further variance of the model judged, in units of `spread` squared: that of a regression"""
    fresh: int | None = None
    """models that the mean of `without` comes from, where these are not the models of `without`"""

    @property
    def gap(self) -> float:
        """mean T_with - mean T_without: how far apart knowing and not knowing are."""
        return float(self.with_.mean() - self.without.mean())

    @property
    def equal(self) -> bool:
        """Equal variances are not refuted."""
        return self.equal_p >= ASSUMPTION_LEVEL

    @property
    def normal(self) -> bool:
        """Normal residuals are not refuted."""
        return self.normal_p >= NORMALITY_LEVEL

    @property
    def assumptions(self) -> dict[str, Any]:
        """What the test assumes, whether it is refuted, and the p-values."""
        return {
            "equal_variances": self.equal,
            "equal_p": self.equal_p,
            "normal": self.normal,
            "normal_p": self.normal_p,
        }

    @property
    def spread(self) -> float:
        """Standard deviation of T between models of one kind: pooled, or the larger of both where
        they differ."""
        return math.sqrt(self._variances[0])

    @property
    def degrees(self) -> int:
        """Degrees of freedom of `spread`."""
        return self._variances[3]

    @property
    def detectability(self) -> float:
        """d' = gap / spread."""
        return self.gap / self.spread

    @property
    def _variances(self) -> tuple[float, float, float, int]:
        """Variance of the model judged and of the means without and with, and degrees of
        freedom."""
        m, j = len(self.without), len(self.with_)
        means = self.fresh or m
        least = (LEAST_SPREAD * self.gap) ** 2
        low, high = (
            max(float(self.without.var(ddof=1)), least),
            max(float(self.with_.var(ddof=1)), least),
        )
        if self.equal:
            pooled = ((m - 1) * low + (j - 1) * high) / (m + j - 2)
            return pooled, pooled / means, pooled / j, m + j - 2
        return max(low, high), low / means, high / j, (m if low > high else j) - 1

    def t(self, r: float) -> float:
        """t(r) of the model judged; below 0: less influence than r."""
        variance, without, with_, _ = self._variances
        expected = (1 - r) * self.without.mean() + r * self.with_.mean()
        variance *= 1 + self.leverage
        return float(
            (self.judged - expected) / math.sqrt(variance + (1 - r) ** 2 * without + r**2 * with_)
        )

    def p_below(self, r: float) -> float:
        """p of rho >= r: small where the influence is shown to be below r."""
        return self._p(self.t(r))

    def p_above(self, r: float) -> float:
        """p of rho <= r: small where the influence is shown to be above r."""
        return self._p(-self.t(r))

    def p_less_sure(self, alpha: float) -> float:
        """p of the hypothesis that T lies below the retrained models by no more than a margin of
        their spread.

        The margin is (t_{1-alpha} + t_{0.8}) standard deviations, which is the detection limit
        where the references are endless. It does not depend on the gap between models with and
        without the records, which may be too small to divide by.
        """
        from scipy import special

        variance, without, _, degrees = self._variances
        quantiles = special.stdtrit(degrees, 1 - alpha) + special.stdtrit(degrees, POWER)
        least = self.without.mean() - float(quantiles) * math.sqrt(variance)
        return self._p(float(self.judged - least) / math.sqrt(variance + without))

    @property
    def deviations(self) -> float:
        """How many standard deviations the model judged lies above the retrained models' mean."""
        return float(self.judged - self.without.mean()) / self.spread

    def most_retrained(self, level: float) -> float:
        """The T that a further retrained model exceeds with a probability of at most `level`.

        Student's t of a new observation, one-sided. Where residuals are not normal, T is at least
        as far above the retrained models' mean as the farthest reference is from the mean of its
        kind. A further model exceeds that with a probability of 1 / (references + 1).
        """
        from scipy import special

        variance, without, _, degrees = self._variances
        quantile = float(special.stdtrit(degrees, 1 - level))
        if not self.normal:
            quantile = max(quantile, float(np.abs(self.residuals()).max()))
        return float(self.without.mean() + quantile * math.sqrt(variance + without))

    def limit(self, alpha: float) -> float | None:
        """The detection limit, see `detection_limit`; None above 1."""
        return detection_limit(
            self.detectability,
            len(self.with_),
            self.fresh or len(self.without),
            self.degrees,
            alpha,
        )

    def detectable(self, alpha: float) -> bool:
        """Whether models with and without the records differ enough to show influence."""
        return self.limit(alpha) is not None

    def _p(self, t: float) -> float:
        """Probability of a t as low. Where residuals are not normal, at least the share of
        residuals that are as low (conformal)."""
        from scipy import special

        p = float(special.stdtr(self.degrees, t))
        if self.normal:
            return p
        residuals = self.residuals()
        symmetric = np.minimum(residuals, -residuals)  # either tail may be the heavy one
        return max(p, float((1 + (symmetric <= t).sum()) / (len(residuals) + 1)))

    def residuals(self) -> Floats:
        """(M + J,) standardised deviations of the references from their kind's mean, as of models
        left out."""
        return np.concatenate(
            [
                (values - values.mean())
                / (values.std(ddof=1) * math.sqrt(1 - 1 / len(values)) + 1e-300)
                for values in (self.without, self.with_)
            ]
        )

    def influence(self, values: Floats | float) -> Floats:
        """T on the scale of rho."""
        return np.asarray((np.asarray(values) - self.without.mean()) / self.gap, np.float64)

    @property
    def rho(self) -> float | None:
        """Residual influence of the model judged, None where the references of both kinds do not
        differ."""
        return float(self.influence(self.judged)) if self.gap > 0 else None

    def interval(self, alpha: float) -> InfluenceInterval:
        """The residual influence with the interval that matches the gates.

        Its confidence is 1 - 2 alpha: with normal residuals it lies inside (-rho0, rho0) exactly
        when both one-sided tests reject at alpha (Schuirmann 1987). Where the gap of the references
        is not significant no interval is bounded, and the bounds are None.
        """
        from scipy import special

        variance, without, with_, degrees = self._variances
        variance *= 1 + self.leverage
        d, g = float(self.judged - self.without.mean()), self.gap
        limit = float(special.stdtrit(degrees, 1 - alpha))
        if (
            not self.normal
        ):  # the t whose conformal p is alpha, beyond all residuals where there are too few
            residuals = np.sort(np.abs(self.residuals()))[::-1]
            rank = math.floor(alpha * (len(residuals) + 1)) - 1
            limit = max(limit, float(residuals[rank])) if rank >= 0 else math.inf
        confidence = 1 - 2 * alpha
        if g <= 0 or math.isinf(limit):
            return InfluenceInterval(d / g if g > 0 else None, None, None, confidence)
        c = limit**2
        # (d - r g)^2 = c (variance + (1 - r)^2 without + r^2 with), a quadratic in r
        a2 = g * g - c * (without + with_)
        a1, a0 = -2 * (d * g - c * without), d * d - c * (variance + without)
        if a2 <= 0:
            return InfluenceInterval(d / g, None, None, confidence)
        root = math.sqrt(max(a1 * a1 - 4 * a2 * a0, 0.0))
        return InfluenceInterval(
            d / g, (-a1 - root) / (2 * a2), (-a1 + root) / (2 * a2), confidence
        )


def contrast(with_: Floats, without: Floats, judged: Floats, aggregate: Aggregate) -> Contrast:
    """T of all models, cross-fitted: a reference is measured by ratios that were fitted without it.

    Args:
        with_: (J, n) scores of the references trained with everybody, J >= 3.
        without: (M, n) scores of the references retrained without the forget set, M >= 3.
        judged: (n,) scores of the model judged, which is no reference.
        aggregate: `overall` or `memorised(share)`.

    Returns:
        The contrast; the model judged gets the mean over all the fits.

    Raises:
        EvidenceError: references of one kind do not differ at all (constant scores).
    """
    values: list[list[float]] = [[], []]
    total: list[float] = []
    for kind, group in enumerate((with_, without)):
        for index in range(len(group)):
            rest = np.delete(group, index, axis=0)
            fitted = Likelihood.fit(rest, without) if kind == 0 else Likelihood.fit(with_, rest)
            reference_value, judged_value = aggregate(fitted(np.stack([group[index], judged])))
            values[kind].append(float(reference_value))
            total.append(float(judged_value))
    high, low = np.array(values[0]), np.array(values[1])
    scale = max(float(np.abs(high).max()), float(np.abs(low).max()), np.finfo(np.float64).tiny)
    if max(np.ptp(high), np.ptp(low), abs(high.mean() - low.mean())) <= 1e-9 * scale:
        raise EvidenceError(NO_DIFFERENCE)
    return from_statistics(high, low, float(np.mean(total)))


def from_statistics(
    with_: Floats,
    without: Floats,
    judged: float,
    leverage: float = 0.0,
    fresh: int | None = None,
) -> Contrast:
    """The contrast of statistics that are measured already; tests its assumptions.

    Args:
        with_: (J,) of the references with the records, each measured by a fit without it.
        without: (M,) of the references without them.
        judged: of the model judged.
        leverage: see `Contrast`.
        fresh: see `Contrast`.
    """
    return Contrast(with_, without, judged, *_assumptions(with_, without), leverage, fresh)


def _assumptions(high: Floats, low: Floats) -> tuple[float, float]:
    """p of equal variances and of normal residuals; both 0 where models of one kind are equal."""
    from scipy import stats

    if not min(np.ptp(high), np.ptp(low)) > 0:
        return 0.0, 0.0
    residuals = np.concatenate(
        [(values - values.mean()) / values.std(ddof=1) for values in (high, low)]
    )
    return float(stats.levene(high, low, center="median").pvalue), float(
        stats.shapiro(residuals).pvalue
    )


def centre(
    phi: Floats, labels: Ints, control_phi: Floats, control_labels: Ints
) -> tuple[Floats, Floats]:
    """Subtract each model's mean score of control records of the same class.

    Args:
        phi: (m, n) scores of the records in question.
        labels: (n,) their classes.
        control_phi: (m, c) scores of control subjects' records.
        control_labels: (c,) their classes.

    Returns:
        (m, n) centred scores, and the (m, n) means that were subtracted.

    Raises:
        EvidenceError: a class has no control record.
    """
    missing = sorted(set(labels.tolist()) - set(control_labels.tolist()))
    if missing:
        raise EvidenceError(
            say(
                "classes {classes} have no record of a control subject; more control subjects "
                "are needed (split.control)",
                classes=", ".join(map(str, missing)),
            )
        )
    base = np.empty_like(phi)
    for label in np.unique(labels):
        base[:, labels == label] = control_phi[:, control_labels == label].mean(
            axis=1, keepdims=True
        )
    return phi - base, base


def unusual_confidence(with_: Floats, without: Floats, base: Floats, judged_base: Floats) -> bool:
    """Whether a model's confidence on control records differs from the references' in a way that
    would move T.

    Unlearning may leave a model more or less confident of everything, which would look like knowing
    or forgetting. Centring by controls removes that, but adds the controls' own noise to T, so it
    is used only where it is needed.

    Args:
        with_: (J, n) scores of the references with.
        without: (M, n) scores of the references without.
        base: (J + M, n) mean control scores of the records' classes, of all references.
        judged_base: (n,) the same of the model judged.

    Returns:
        True where the controls' part of T lies outside the references' 95 % prediction interval.
    """
    from scipy import special

    slope = Likelihood.fit(with_, without).slope
    usual, judged = base @ slope, float(judged_base @ slope)
    error = float(usual.std(ddof=1)) * math.sqrt(1 + 1 / len(usual))
    if not error > 0:
        return judged != float(usual.mean())
    return (
        2 * float(special.stdtr(len(usual) - 1, -abs(judged - usual.mean()) / error))
        < ASSUMPTION_LEVEL
    )


def detection_limit(
    detectability: float, with_: int, without: int, degrees: int, alpha: float
) -> float | None:
    """The smallest rho0 that a perfect retrain (rho = 0) is shown to be below with probability 0.8;
    None above 1.

    With endless references it is (z_{1-alpha} + z_{0.8}) / d', 2.49 / d' at alpha = 0.05.
    """
    from scipy import optimize, special

    if not detectability > 0:
        return None
    quantiles = float(special.stdtrit(degrees, 1 - alpha) + special.stdtrit(degrees, POWER))

    def lacking(r: float) -> float:
        return r - quantiles * math.sqrt(1 + (1 - r) ** 2 / without + r**2 / with_) / detectability

    return float(optimize.brentq(lacking, 0.0, 1.0)) if lacking(1.0) > 0 else None


def references_needed(detectability: float, alpha: float, rho0: float) -> int | None:
    """The number of references of each kind that brings the detection limit to rho0; None if no
    number does.

    The surplus r - (quantiles) error(r) / d' is concave in r and below 0 at r = 0. So its zero, the
    detection limit, is at most rho0 exactly where the surplus is at least 0 at rho0 and at 1, and
    no root has to be found.
    """
    if not detectability > 0:
        return None
    counts = np.arange(4, MOST_REFERENCES + 1)

    def enough(r: float) -> NDArray[np.bool_]:
        error = np.sqrt(1 + (1 - r) ** 2 / counts + r**2 / counts)
        return np.asarray(r - _quantiles(alpha) * error / detectability >= 0)

    sufficient = np.flatnonzero(enough(1.0) & enough(min(rho0, 1.0)))
    return int(counts[sufficient[0]]) if len(sufficient) else None


@cache
def _quantiles(alpha: float) -> Floats:
    """Sum of both quantiles of Student's t that a detection limit needs, for 4, 5 … references of
    each kind."""
    from scipy import special

    degrees = 2 * np.arange(4, MOST_REFERENCES + 1) - 2
    return np.asarray(
        special.stdtrit(degrees, 1 - alpha) + special.stdtrit(degrees, POWER), np.float64
    )


def rank_p(judged: float, without: Floats) -> float:
    """Exact p of 'the model is one more retrained model': (1 + #{T_without >= T_u}) / (M + 1)."""
    return float((1 + (without >= judged).sum()) / (len(without) + 1))
