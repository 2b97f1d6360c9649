"""Figures of an attack: the ROC curve, the area under it, and rates of true and false positives,
with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.verification.attacks.rows import require_finite
from tasks.verification.scoring import Floats

CONFIDENCE = 0.95
RATES = (0.001, 0.01, 0.05, 0.1)
"""False-positive rates at which the true-positive rate is reported."""
FEWEST_FALSE_POSITIVES = 10
"""A point is left out where fewer false positives are expected: its threshold would be a guess."""


@dataclass(frozen=True)
class Roc:
    """The receiver operating characteristic, from (0, 0) to (1, 1): scores of at least the
    threshold are flagged."""

    fpr: Floats
    """(k,) share of non-members flagged, rising"""
    tpr: Floats
    """(k,) share of members flagged, rising"""
    thresholds: Floats
    """(k,) falling, the first of them infinite"""


def roc(members: Floats, non_members: Floats) -> Roc:
    """All points of the curve, one for each distinct score.

    Raises:
        EvidenceError: either side is empty, or a score is not finite.
    """
    _require_both(members, non_members)
    cuts = np.unique(np.concatenate([members, non_members]))[::-1]
    flagged = [
        len(side) - np.searchsorted(np.sort(side), cuts, side="left")
        for side in (non_members, members)
    ]
    shares = [flagged[0] / len(non_members), flagged[1] / len(members)]
    fpr, tpr = (np.concatenate([[0.0], share]) for share in shares)
    return Roc(fpr, tpr, np.concatenate([[np.inf], cuts]))


def auc(members: Floats, non_members: Floats) -> float:
    """Area under the curve: how often a member scores above a non-member, ties half (Mann and
    Whitney 1947).

    Args:
        members: (m,) scores, higher = more member-like.
        non_members: (k,) scores.

    Returns:
        0 ... 1; 0.5 where the attack guesses.

    Raises:
        EvidenceError: either side is empty, or a score is not finite.
    """
    _require_both(members, non_members)
    return float(
        _placements(members, np.sort(non_members)).sum() / (len(members) * len(non_members))
    )


def _placements(scores: Floats, others: Floats) -> Floats:
    """(m,) how many of the others (k,), sorted, are below each score (m,); ties count half."""
    return (
        np.searchsorted(others, scores, side="left") + np.searchsorted(others, scores, side="right")
    ) / 2


def auc_interval(
    members: Floats, non_members: Floats, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of the AUC over records: the hull of two intervals with different weak points.

    DeLong, DeLong and Clarke-Pearson (1988) on the log-odds scale estimates the variance from the
    data: it is correct where members spread more than non-members, too narrow near 1 and empty at
    1. Newcombe's (2006, part 2) method 5 solves (A - theta)^2 = z^2 V(theta) with

        V(theta) = theta (1 - theta) [1 + (N - 1) ((1 - theta) / (2 - theta) + theta / (1 + theta))]
        / (m k),

    N = (m + k) / 2, after Hanley and McNeil (1982), and is correct near 1. Both are symmetric under
    swapping the two sides.

    It treats records as independent. Those of one person under one model are not, so as a statement
    about the model it is too narrow; compare with the band over retrained models instead.

    Args:
        members: (m,) scores.
        non_members: (k,) scores.
        confidence: of the interval.

    Returns:
        Bounds in 0 ... 1.

    Raises:
        EvidenceError: either side is empty, a score is not finite, or the confidence is not between
            0 and 1.
    """
    from scipy.stats import norm

    area = auc(members, non_members)
    z = float(norm.ppf((1 + require_share(confidence, "confidence")) / 2))
    low, high = newcombe_interval(area, len(members), len(non_members), z)
    deviation = delong_error(members, non_members)
    if deviation > 0 and 0 < area < 1:
        odds, reach = math.log(area / (1 - area)), z * deviation / (area * (1 - area))
        low, high = min(low, _sigmoid(odds - reach)), max(high, _sigmoid(odds + reach))
    return low, high


def delong_error(members: Floats, non_members: Floats) -> float:
    """Standard error of the AUC from the placements of each side in the other; 0 where a side has
    one record."""
    m, k = len(members), len(non_members)
    if min(m, k) < 2:
        return 0.0
    above = _placements(members, np.sort(non_members)) / k
    below = (m - _placements(non_members, np.sort(members))) / m
    return math.sqrt(float(above.var(ddof=1)) / m + float(below.var(ddof=1)) / k)


def newcombe_interval(area: float, m: int, k: int, z: float) -> tuple[float, float]:
    """Newcombe's method 5 for an AUC of m members and k non-members; z is the normal quantile."""
    from scipy.optimize import brentq

    def misfit(theta: float, area: float) -> float:
        spread = 1 + ((m + k) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (area - theta) ** 2 - z**2 * theta * (1 - theta) * spread / (m * k)

    def low(area: float) -> float:
        # at theta = 1 the misfit of a perfect area is 0 too, which is not the bound
        return float(brentq(misfit, 0.0, min(area, 1 - 1e-12), args=(area,))) if area > 0 else 0.0

    return low(area), 1 - low(1 - area)


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def threshold(non_members: Floats, rate: float) -> float:
    """The least threshold that at most a share `rate` of the non-members exceed; scores above it
    are flagged.

    It is one of the non-members' scores, their (1 - rate) quantile.

    Raises:
        EvidenceError: no non-members, or a rate that is not between 0 and 1.
    """
    _require_both(non_members, non_members)
    # the small addition undoes the rounding of products such as 0.1 * 30
    allowed = math.floor(require_share(rate, "rate") * len(non_members) + 1e-9)
    return float(np.sort(non_members)[len(non_members) - 1 - min(allowed, len(non_members) - 1)])


@cache
def clopper_pearson(
    successes: int, trials: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Exact interval of a share (Clopper and Pearson 1934): it covers at least as often as it says.

    Args:
        successes: 0 <= successes <= trials.
        trials: number of independent trials, > 0.
        confidence: of the interval, two-sided.

    Returns:
        Bounds in 0 ... 1.

    Raises:
        EvidenceError: counts that do not fit, or a confidence that is not between 0 and 1.
    """
    from scipy.stats import beta

    if not 0 <= successes <= trials or not trials:
        raise EvidenceError(
            f"got {successes} of {trials}, expected a count out of at least one trial"
        )
    tail = (1 - require_share(confidence, "confidence")) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = (
        float(beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    )
    return low, high


@dataclass(frozen=True)
class RocPoint:
    """True-positive rate at a false-positive rate."""

    fpr: float
    """at most; the threshold lets through no larger share of the non-members"""
    tpr: float
    low: float
    """Clopper-Pearson bounds given the threshold, records taken for independent"""
    high: float
    false_positives_expected: float


def rate_points(members: Floats, non_members: Floats) -> tuple[RocPoint, ...]:
    """TPR at those of the RATES for which there are enough non-members to set a threshold.

    Raises:
        EvidenceError: either side is empty, or a score is not finite.
    """
    _require_both(members, non_members)
    points = []
    for rate in RATES:
        expected = rate * len(non_members)
        if expected >= FEWEST_FALSE_POSITIVES - 1e-9:
            hits = flagged(members, non_members, rate)
            points.append(
                RocPoint(rate, hits / len(members), *clopper_pearson(hits, len(members)), expected)
            )
    return tuple(points)


def flagged(members: Floats, non_members: Floats, rate: float) -> int:
    """How many members exceed the threshold that at most a share `rate` of non-members exceeds."""
    return int((members > threshold(non_members, rate)).sum())


def _require_both(members: Floats, non_members: Floats) -> None:
    if not len(members) or not len(non_members):
        raise EvidenceError(
            say(
                "got {members} members and {others} non-members, expected some of each",
                members=len(members),
                others=len(non_members),
            )
        )
    require_finite(members, non_members)


def require_share(value: float, name: str) -> float:
    """The value. Raises `EvidenceError` where it is not between 0 and 1."""
    if not 0 < value < 1:
        raise EvidenceError(f"got {name} {value}, expected a share between 0 and 1")
    return value
