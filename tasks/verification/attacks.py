"""Membership-inference attacks and the exposure of those who stay: reported beside the verdict,
never a reason to pass.

A pure core, arrays in, values out. An attack gives each record a score, higher = more member-like.
What it finds on one model means little by itself: records scored by one model are correlated,
records of one person are alike, and an attack may be fooled in either direction. So the same attack
is run on every model that was retrained without the forget set, each left out of the references
that judge it, and the released model's figure stands beside the lowest and highest of theirs, the
band. The unit of replication is the model: beside M retrained models a further one falls outside
the band with a probability of about 2 / (M + 1) or less, be the attack good or bad. Less, because a
reference is compared with others that it is not among, which spreads the band a little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.verification.scoring import Floats, Ints, Scores
from tasks.verification.verdicts import holm

Mask = NDArray[np.bool_]
Scorer = Callable[[Ints, Ints], Floats]
"""(p,) models and (p, k) rows of the `without` references that judge each -> (p, f) scores of the
forget records"""

MANY_REFERENCES = 64
"""With fewer references of a kind LiRA pools its variance over records. Carlini et al. (2022) find
it better below 64 shadow models, both kinds together (section VI.B), and with 43 of the scarcer
kind (section VII.A)."""
VARIANCE_FLOOR = 1e-12
"""Least variance of a fitted normal, squared logits: references that agree to the last bit are
luck, not certainty."""
GAMMA = 1.0
"""RMIA counts the population records that x beats by this factor (gamma in Zarifzadeh et al. 2024).
With 2 most records of a well-trained model beat none or tie: on models of digits it told members
apart with an AUC of .57 (retrained models: .15 to .84), with 1, which the authors' library uses
too, .78 (.41 to .60)."""
MOST_RECORDS = 2000
"""RMIA compares with, and the population attack learns from, at most so many records of a kind,
drawn with a fixed seed, so that large data sets do not take hours; the regression has three
coefficients."""
SMALLEST = 1e-290
"""A mean below it may have lost parts that are too small for a float64; its logarithm is then
summed from theirs."""
FOLDS = 5
MOST_STEPS, CLOSE, SHORTEST = 100, 1e-4, 2**-20
"""Where the regression stops: after so many steps, or where slope and expected gain are so small;
its least step."""
FEWEST_REFERENCES = 4
"""With fewer `without` references none would be left to fit on once the model judged and the
non-member are out."""
CONFIDENCE = 0.95
RATES = (0.001, 0.01, 0.05, 0.1)
"""False-positive rates at which the true-positive rate is asked for"""
FEWEST_FALSE_POSITIVES = 10
"""A threshold set by fewer expected false positives is a guess; the point is then left out."""
JUDGED = ("original", "unlearned", "retrained")
UNSEEN = ("control", "test")
"""Roles of the people whom no model saw; those for calibration have tuned the unlearning."""


# Scores of records


def lira_online(
    phi: Floats, in_phi: Floats, out_phi: Floats, shared_variance: bool | None = None
) -> Floats:
    """Likelihood-ratio attack with references of both kinds (Carlini et al. 2022, Algorithm 1,
    online).

        log N(phi; mu_in, var_in) - log N(phi; mu_out, var_out),

    the means fitted on each record, the variances likewise or pooled. Pooled means the mean over
    the records of the variance around each record's own mean; the authors' code takes the spread of
    all values instead, which adds the records' different difficulty to it.

    Args:
        phi: (..., n) logit-scaled confidences under the models attacked.
        in_phi: (j, n) the same records under references trained on them, j >= 2.
        out_phi: (..., k, n) under references not trained on them, k >= 2.
        shared_variance: pool the variances over the n records; None: where a kind has fewer than 64
            references, which is when the paper finds it better.

    Returns:
        (..., n) log-likelihood ratios, higher = more member-like. A variance of zero is raised to
        VARIANCE_FLOOR.

    Raises:
        EvidenceError: fewer than two references of a kind, shapes that do not fit, or a score that
            is not finite.
    """
    shared = _shares(shared_variance, min(len(in_phi), out_phi.shape[-2]))
    (mu_in, var_in), (mu_out, var_out) = _normal(in_phi, shared, phi), _normal(out_phi, shared, phi)
    inside, outside = (phi - mu_in) ** 2 / var_in, (phi - mu_out) ** 2 / var_out
    ratio: Floats = 0.5 * (outside - inside + np.log(var_out) - np.log(var_in))
    return ratio


def lira_offline(phi: Floats, out_phi: Floats, shared_variance: bool | None = None) -> Floats:
    """Likelihood-ratio attack without models that saw the records (Carlini et al. 2022, equation 4,
    offline).

    The paper's score is one-sided, 1 - Pr[Z > phi] with Z ~ N(mu_out, var_out), that is Phi(z).
    Returned is z itself, which orders the records alike but does not saturate at 1.

    Args:
        phi: (..., n) logit-scaled confidences under the models attacked.
        out_phi: (..., k, n) the same records under references not trained on them, k >= 2.
        shared_variance: as in `lira_online`.

    Returns:
        (..., n) z = (phi - mu_out) / sigma_out, higher = more member-like.

    Raises:
        EvidenceError: as in `lira_online`.
    """
    mean, variance = _normal(out_phi, _shares(shared_variance, out_phi.shape[-2]), phi)
    z: Floats = (phi - mean) / np.sqrt(variance)
    return z


def _shares(asked: bool | None, references: int) -> bool:
    return references < MANY_REFERENCES if asked is None else asked


def _normal(references: Floats, shared: bool, phi: Floats) -> tuple[Floats, Floats]:
    """Mean and variance (..., n) of the references' scores (..., k, n), fit to judge phi (...,
    n)."""
    few = references.ndim < 2 or references.shape[-2] < 2 or not references.shape[-1]
    if few or phi.shape[-1:] != references.shape[-1:]:
        raise EvidenceError(
            f"got references of shape {references.shape} for scores of shape {phi.shape}, "
            "expected (references, "
            "records) with at least 2 references of each kind and the same records; add blocks of "
            "references"
        )
    _finite(references, phi)
    variance: Floats = references.var(axis=-2, ddof=1)
    if shared:
        variance = np.broadcast_to(variance.mean(axis=-1, keepdims=True), variance.shape)
    return references.mean(axis=-2), np.maximum(variance, VARIANCE_FLOOR)


def evidence_online(in_phi: Floats, out_phi: Floats) -> Floats:
    """log p(x) for RMIA, p(x) = [mean p(x | in) + mean p(x | out)] / 2 (Zarifzadeh et al. 2024,
    online).

    Args:
        in_phi: (j, n) logit-scaled confidences under references trained on the records; p =
            sigmoid(phi).
        out_phi: (k, n) under references not trained on them. The kinds count alike, however many
            there are of each.

    Returns:
        (n,) natural logarithms, <= 0.

    Raises:
        EvidenceError: a kind has no reference, or a score is not finite.
    """
    if not len(in_phi) or not len(out_phi):
        raise EvidenceError(
            f"got {len(in_phi)} references in and {len(out_phi)} out, expected at least 1 of each"
        )
    shares = np.repeat([0.5 / len(in_phi), 0.5 / len(out_phi)], [len(in_phi), len(out_phi)])
    _finite(in_phi, out_phi)
    return _log_mean(np.concatenate([in_phi, out_phi]), shares)


def evidence_offline(out_phi: Floats, a: float) -> Floats:
    """log p(x) for RMIA, p(x) = [(1 + a) mean p(x | out) + (1 - a)] / 2 (Zarifzadeh et al. 2024,
    offline).

    That is the online form with p(x | in) guessed to be a p(x | out) + 1 - a.

    Args:
        out_phi: (k, n) logit-scaled confidences under references not trained on the records.
        a: 0 <= a <= 1, how far p(x | in) follows p(x | out); the paper chooses it for each data
            set.

    Returns:
        (n,) natural logarithms, <= 0.

    Raises:
        EvidenceError: no reference, a score that is not finite, or a out of range.
    """
    if not len(out_phi) or not 0 <= a <= 1:
        raise EvidenceError(
            f"got {len(out_phi)} references and a = {a}, expected at least 1 and 0 <= a <= 1"
        )
    _finite(out_phi)
    # the constant is one more reference, which is always sure
    certain = np.full((1, out_phi.shape[1]), np.inf)
    shares = np.append(np.full(len(out_phi), (1 + a) / 2 / len(out_phi)), (1 - a) / 2)
    return _log_mean(np.concatenate([out_phi, certain]), shares)


def _log_mean(phi: Floats, shares: Floats) -> Floats:
    """log of weighted means of sigmoid(phi), exact near p = 0 and near p = 1.

    Args:
        phi: (k, n) logit-scaled confidences.
        shares: (..., k) weights, each row of sum 1; a weight of 0 is allowed.

    Returns:
        (..., n) natural logarithms, <= 0. Sums are made in the order of the k, on any number of
        threads.
    """
    from scipy.special import expit

    doubt = np.minimum(np.einsum("...k,kn->...n", shares, expit(-phi)), 1.0)
    result: Floats = np.log1p(-np.minimum(doubt, 0.5))
    columns = np.flatnonzero((doubt > 0.5).reshape(-1, phi.shape[1]).any(axis=0))
    if len(columns):
        result[..., columns] = np.where(
            doubt[..., columns] > 0.5,
            _log_mean_doubted(phi[:, columns], shares),
            result[..., columns],
        )
    return np.minimum(result, 0.0)


def _log_mean_doubted(phi: Floats, shares: Floats) -> Floats:
    """The same where models are unsure of the record, so that its mean itself is summed, and not
    what it lacks to 1."""
    from scipy.special import expit, log_expit, logsumexp

    mean: Floats = np.einsum("...k,kn->...n", shares, expit(phi))
    lost = mean < SMALLEST
    result: Floats = np.log(np.maximum(mean, SMALLEST))
    for *row, column in np.argwhere(lost):
        result[(*row, column)] = logsumexp(log_expit(phi[:, column]), b=shares[tuple(row)])
    return result


def rmia(
    phi: Floats,
    population_phi: Floats,
    evidence: Floats,
    population_evidence: Floats,
    gamma: float = GAMMA,
) -> Floats:
    """Robust membership inference (Zarifzadeh, Liu, Shokri 2024): how many records of the
    population x beats.

        score(x) = share of z with LR(x, z) >= gamma,   LR(x, z) = [p(x | model) / p(x)] / [p(z |
        model) / p(z)]

    Args:
        phi: (n,) logit-scaled confidences under the model attacked; p(x | model) = sigmoid(phi).
        population_phi: (z,) the same of records of the population, which the model was not trained
            on.
        evidence: (n,) log p(x), by `evidence_online` or `evidence_offline`.
        population_evidence: (z,) log p(z), by the same references and the same form.
        gamma: factor > 0 by which x has to beat z.

    Returns:
        (n,) shares in 0 ... 1, higher = more member-like; O((n + z) log z), without an n x z table.

    Raises:
        EvidenceError: the population is empty, gamma is not positive, shapes differ, or a score is
            not finite.
    """
    from scipy.special import log_expit

    if not population_phi.size or not gamma > 0:
        raise EvidenceError(
            f"got {population_phi.size} population records and gamma {gamma}, expected both above 0"
        )
    if phi.shape != evidence.shape or population_phi.shape != population_evidence.shape:
        raise EvidenceError(
            f"got evidence of shapes {evidence.shape} and {population_evidence.shape} for scores "
            "of shapes "
            f"{phi.shape} and {population_phi.shape}, expected the same records"
        )
    _finite(phi, population_phi, evidence, population_evidence)
    return _beaten(
        log_expit(phi) - evidence, np.sort(log_expit(population_phi) - population_evidence), gamma
    )


def _beaten(ratio: Floats, population: Floats, gamma: float = GAMMA) -> Floats:
    """Share (n,) of the population's sorted log ratios (z,) that log ratios (n,) are above by the
    factor gamma."""
    beaten: Floats = np.searchsorted(population, ratio - math.log(gamma), side="right") / len(
        population
    )
    return beaten


@dataclass(frozen=True)
class Rows:
    """Which records are what to one request. All masks are (n,)."""

    forget: Mask
    """the request's records"""
    retained: Mask
    """training records that nobody asked to forget, of people who did not ask"""
    unseen: Mask
    """control and test subjects' records, which no model was trained on"""

    @classmethod
    def of(cls, scores: Scores, request: str) -> Rows:
        """The rows of a request.

        Raises:
            EvidenceError: the request has no record.
        """
        forget = scores.rows_of(request)
        if not request or not forget.any():
            raise EvidenceError(
                say(
                    "request {request} has no record in the scores; expected its forget set",
                    request=request or "(empty)",
                )
            )
        # a record that a person leaves in the training set would teach the attack what that person
        # looks like
        strangers = ~np.isin(scores.subjects, np.unique(scores.subjects[forget]))
        return cls(forget, scores.retained & strangers, scores.unseen & strangers)

    @cached_property
    def key(self) -> tuple[bytes, bytes]:
        """Who is what beside the request, to know it again."""
        return self.retained.tobytes(), self.unseen.tobytes()


Memory = dict[tuple[Hashable, ...], Floats]
"""What the requests of one batch mostly share, by what it depends on: the population attack's
ratings of all records by model, and RMIA's population as seen by each set of references."""


def population_attack(
    scores: Scores, model: int, rows: Rows, memory: Memory | None = None
) -> tuple[Floats, Floats]:
    """An attack that needs no reference model: a classifier learns what members look like under
    this one model.

    After attack P of Ye et al. 2022 ("Enhanced membership inference attacks against machine
    learning models", CCS), with a logistic regression in the place of one threshold. Features of a
    record, all from the model's own answer: phi; whether the answer is right; phi minus the mean
    phi of unseen records of the class (of all unseen records where the class has none). Retained
    records are members, unseen people's records are not, both kinds weigh alike. Unseen people are
    dealt into folds, and nobody is scored by a classifier, or centred by a mean, that saw him; the
    forget records, seen by none, get the mean over the folds. The same scores give the same result.

    Args:
        scores: all scores.
        model: row of the model attacked.
        rows: who is what.
        memory: of the same scores, kept from request to request; filled here.

    Returns:
        (f,) scores of the forget records and (u,) of the unseen records, log odds, higher = more
        member-like.

    Raises:
        EvidenceError: no retained record, or fewer than two unseen subjects.
    """
    if not scores.finite:
        _finite(scores.phi[model, rows.forget | rows.retained | rows.unseen])
    memory = {} if memory is None else memory
    key = "ratings", model, rows.key
    if key not in memory:
        memory[key] = _ratings(scores, model, rows)
    return memory[key][rows.forget], memory[key][rows.unseen]


def _ratings(scores: Scores, model: int, rows: Rows) -> Floats:
    """(n,) log odds of every record: of unseen people by the fold that did not see them, else the
    mean over folds."""
    members, unseen = _some(np.flatnonzero(rows.retained)), np.flatnonzero(rows.unseen)
    people = len(np.unique(scores.subjects[unseen]))
    if not len(members) or people < 2:
        raise EvidenceError(
            say(
                "got {records} retained records and {people} unseen subjects, expected at least 1 "
                "and 2; enlarge "
                "split.control or split.test",
                records=len(members),
                people=people,
            )
        )
    # what is not finite belongs to nobody here, and is refused where somebody asks for it
    phi = np.nan_to_num(scores.phi[model])
    correct = (scores.predicted[model] == scores.labels).astype(np.float64)
    found, held_out = np.zeros(len(phi)), np.empty(len(unseen))
    folds = min(FOLDS, people)
    fold = _dealt(scores.subjects[unseen], folds)
    for number in range(folds):
        fitted, held = unseen[fold != number], fold == number
        yardstick = np.zeros(len(phi), bool)
        yardstick[fitted] = True
        features = np.column_stack(
            [phi, correct, phi - _class_means(phi, scores.labels, yardstick)]
        )
        known = np.concatenate([members, fitted])
        ratings = _log_odds(features[known], np.arange(len(known)) < len(members), features)
        held_out[held] = ratings[unseen[held]]
        found += ratings / folds
    found[unseen] = held_out
    return found


def _dealt(people: Ints, folds: int) -> Ints:
    """(n,) fold of each record: people are dealt whole, those of most records first, each to the
    fold of fewest."""
    _, place, counts = np.unique(people, return_inverse=True, return_counts=True)
    fold, size = np.zeros(len(counts), np.int64), np.zeros(folds, np.int64)
    for person in np.argsort(counts, kind="stable")[::-1]:
        fold[person] = np.argmin(size)
        size[fold[person]] += counts[person]
    return fold[place]


def _log_odds(known: Floats, member: Mask, asked: Floats) -> Floats:
    """Log odds of being a member, by a logistic regression on standardised features.

    Both kinds weigh alike, and half the squared length of the coefficients, all but the
    intercept's, is added to the negative log-likelihood. It is minimised by Newton's method with
    steps that are halved until they help (Armijo).

    Args:
        known: (n, features) of records of which it is known.
        member: (n,) what they are; some of each.
        asked: (m, features) of others.

    Returns:
        (m,) log odds.
    """
    from scipy.special import expit

    count = len(known)
    mean, variance = known.mean(axis=0), known.var(axis=0)
    scale = np.where(
        variance > (count * np.finfo(np.float64).eps * mean) ** 2, np.sqrt(variance), 1.0
    )
    x = np.column_stack([(known - mean) / scale, np.ones(count)])
    weight = 1 / (2 * np.where(member, member.sum(), count - member.sum()))
    penalty = np.append(np.full(known.shape[1], 1 / count), 0.0)
    best = np.zeros(x.shape[1])

    def loss(w: Floats) -> float:
        z = x @ w
        return float(weight @ (np.logaddexp(0, z) - member * z) + penalty @ w**2 / 2)

    def slope(w: Floats) -> Floats:
        return np.asarray(x.T @ (weight * (expit(x @ w) - member)) + penalty * w, np.float64)

    downhill = slope(best)
    for _ in range(MOST_STEPS):
        p = expit(x @ best)
        curvature = (x.T * (weight * p * (1 - p))) @ x + np.diag(penalty)
        step = -np.linalg.solve(curvature, downhill)
        before, length = loss(best), 1.0
        while (
            loss(best + length * step) > before + length * 2**-11 * (downhill @ step)
            and length > SHORTEST
        ):
            length /= 2
        best = best + length * step
        downhill = slope(best)
        if np.abs(downhill).max() <= CLOSE and step @ curvature @ step / 2 <= CLOSE:
            break
    return np.asarray((asked - mean) / scale @ best[:-1] + best[-1], np.float64)


def _class_means(phi: Floats, labels: Ints, rows: Mask) -> Floats:
    """(..., n) mean score of those of `rows` that have the record's class; of all `rows` where none
    of them has."""
    base = np.empty_like(phi)
    for label in np.unique(labels):
        own = labels == label
        peers = rows & own if (rows & own).any() else rows
        base[..., own] = phi[..., peers].mean(axis=-1, keepdims=True)
    return base


def _some(rows: Ints) -> Ints:
    """At most MOST_RECORDS of the rows, always the same: every k-th would beat with any order of
    the manifest."""
    return (
        rows
        if len(rows) <= MOST_RECORDS
        else np.random.default_rng(0).permutation(rows)[:MOST_RECORDS]
    )


def _finite(*arrays: Floats) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise EvidenceError(
            say(
                "got scores that are NaN or infinite, expected finite ones; has a training "
                "diverged?"
            )
        )


# What an attack reaches


@dataclass(frozen=True)
class Roc:
    """The receiver operating characteristic, from (0, 0) to (1, 1): flag what scores at least the
    threshold."""

    fpr: Floats
    """(k,) share of non-members flagged, rising"""
    tpr: Floats
    """(k,) share of members flagged, rising"""
    thresholds: Floats
    """(k,) falling, the first of them infinite"""


def roc(members: Floats, non_members: Floats) -> Roc:
    """All points of the curve, one for each different score.

    Raises:
        EvidenceError: either side is empty, or a score is not finite.
    """
    _both(members, non_members)
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
    _both(members, non_members)
    return float(
        _placements(members, np.sort(non_members)).sum() / (len(members) * len(non_members))
    )


def _placements(scores: Floats, others: Floats) -> Floats:
    """(m,) how many of the others (k,), sorted, are below each score (m,), those that are equal
    half."""
    return (
        np.searchsorted(others, scores, side="left") + np.searchsorted(others, scores, side="right")
    ) / 2


def auc_interval(
    members: Floats, non_members: Floats, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of the AUC over records: the hull of two that fail in different places.

    DeLong, DeLong and Clarke-Pearson (1988) on the log-odds scale takes the variance from the data:
    right where members spread more than non-members, too narrow near 1 and empty at 1. Newcombe's
    (2006, part 2) method 5 solves (A - theta)^2 = z^2 V(theta) with

        V(theta) = theta (1 - theta) [1 + (N - 1) ((1 - theta) / (2 - theta) + theta / (1 + theta))]
        / (m k),

    N = (m + k) / 2, after Hanley and McNeil (1982): right near 1. Either mirrors when the two sides
    are swapped.

    It takes records for independent. Those of one person under one model are not, so as a statement
    about the model it is too narrow; the band over retrained models is the yardstick.

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
    z = float(norm.ppf((1 + _share(confidence, "confidence")) / 2))
    low, high = _newcombe(area, len(members), len(non_members), z)
    deviation = _delong(members, non_members)
    if deviation > 0 and 0 < area < 1:
        odds, reach = math.log(area / (1 - area)), z * deviation / (area * (1 - area))
        low, high = min(low, _sigmoid(odds - reach)), max(high, _sigmoid(odds + reach))
    return low, high


def _delong(members: Floats, non_members: Floats) -> float:
    """Standard error of the AUC from the placements of each side in the other; 0 where a side has
    one record."""
    m, k = len(members), len(non_members)
    if min(m, k) < 2:
        return 0.0
    above = _placements(members, np.sort(non_members)) / k
    below = (m - _placements(non_members, np.sort(members))) / m
    return math.sqrt(float(above.var(ddof=1)) / m + float(below.var(ddof=1)) / k)


def _newcombe(area: float, m: int, k: int, z: float) -> tuple[float, float]:
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
    """The least threshold that at most a share `rate` of the non-members exceed; what exceeds it is
    flagged.

    It is one of the non-members' scores, their (1 - rate) quantile.

    Raises:
        EvidenceError: no non-members, or a rate that is not between 0 and 1.
    """
    _both(non_members, non_members)
    # the small addition undoes the rounding of products such as 0.1 * 30
    allowed = math.floor(_share(rate, "rate") * len(non_members) + 1e-9)
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
    tail = (1 - _share(confidence, "confidence")) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = (
        float(beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    )
    return low, high


@dataclass(frozen=True)
class RatePoint:
    """True-positive rate at a false-positive rate."""

    fpr: float
    """what was asked for; the threshold lets through at most so many non-members"""
    tpr: float
    low: float
    """Clopper-Pearson bounds given the threshold, records taken for independent"""
    high: float
    false_positives_expected: float


def rate_points(members: Floats, non_members: Floats) -> tuple[RatePoint, ...]:
    """TPR at the RATES for which there are non-members enough to set a threshold by; the others are
    left out.

    Raises:
        EvidenceError: either side is empty, or a score is not finite.
    """
    _both(members, non_members)
    points = []
    for rate in RATES:
        expected = rate * len(non_members)
        if expected >= FEWEST_FALSE_POSITIVES - 1e-9:
            hits = _flagged(members, non_members, rate)
            points.append(
                RatePoint(rate, hits / len(members), *clopper_pearson(hits, len(members)), expected)
            )
    return tuple(points)


def _flagged(members: Floats, non_members: Floats, rate: float) -> int:
    return int((members > threshold(non_members, rate)).sum())


def _both(members: Floats, non_members: Floats) -> None:
    if not len(members) or not len(non_members):
        raise EvidenceError(
            say(
                "got {members} members and {others} non-members, expected some of each",
                members=len(members),
                others=len(non_members),
            )
        )
    _finite(members, non_members)


def _share(value: float, name: str) -> float:
    if not 0 < value < 1:
        raise EvidenceError(f"got {name} {value}, expected a share between 0 and 1")
    return value


# One request


@dataclass(frozen=True)
class Attack:
    """What one attack finds on one request's records, for the models judged and as a band over
    retrained ones."""

    name: str
    title: str
    source: str
    auc: dict[str, float]
    """by role: original, unlearned, retrained; members are the forget records"""
    auc_interval: tuple[float, float]
    """of the unlearned model, over records"""
    auc_band: tuple[float, float]
    """lowest and highest AUC of the `without` references, each judged by the others"""
    flagged: dict[str, int]
    """by role: forget records that score above the (1 - flagged_rate) quantile of the
    non-members"""
    flagged_band: tuple[int, int]
    flagged_rate: float
    records: int
    non_members: int
    """scores of non-members that the unlearned model was judged with"""
    tpr_at_fpr: tuple[RatePoint, ...]
    """of the unlearned model"""
    curve: Roc
    """of the unlearned model; not part of the JSON form"""

    @property
    def outside_band(self) -> bool:
        """Is the AUC above (remembered) or below (over-forgotten) that of every retrained model?"""
        return not self.auc_band[0] <= self.auc["unlearned"] <= self.auc_band[1]

    def as_json(self) -> dict[str, object]:
        """Plain values, without the curve."""
        from dataclasses import asdict

        plain = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        del plain["curve"]
        return {**plain, "outside_band": self.outside_band}


@dataclass(frozen=True)
class Examination:
    """All attacks on one request's records."""

    references: dict[str, int]
    """how many there are: with, without"""
    attacks: tuple[Attack, ...]

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "references": self.references,
            "confidence": CONFIDENCE,
            "attacks": [attack.as_json() for attack in self.attacks],
        }


def examine(
    scores: Scores, request: str, alpha: float, memory: Memory | None = None
) -> Examination:
    """Run all attacks on one request's records, on the models judged and on every model retrained
    without them.

    For LiRA and RMIA the non-members are the same records under `without` references, each judged
    by the remaining ones. Every model judged has one fewer such reference than there are: a
    reference lacks itself, and a model from outside goes without the last one, so that its figure
    and the band are made alike. For the population attack the non-members are unseen people's
    records under the same model; they may be easier or harder than the forget records, which the
    band shows.

    Args:
        scores: all scores of the audit.
        request: id of the request, as in `scores.requests`.
        alpha: share of non-members that may be flagged wrongly, 0 < alpha < 1.
        memory: of the same scores, kept from request to request.

    Returns:
        The attacks lira_online, lira_offline, rmia and population, in this order.

    Raises:
        EvidenceError: the request has no record, a score is NaN, or there are too few references,
            retained records or unseen subjects.
    """
    rows, memory = Rows.of(scores, request), {} if memory is None else memory
    _check(scores, rows.forget | rows.retained | rows.unseen)
    within = np.flatnonzero(scores.model_roles == "with")
    without = _references(scores)
    if len(within) < 2:
        raise EvidenceError(
            say(
                "got {count} references trained with everybody, expected at least 2; add blocks",
                count=len(within),
            )
        )
    _share(alpha, "alpha")
    lira, carlini = scores.phi[:, rows.forget], "Carlini et al. 2022"
    scorers: tuple[tuple[str, str, str, Scorer], ...] = (
        (
            "lira_online",
            "LiRA, online",
            carlini,
            lambda t, out: lira_online(lira[t], lira[within], lira[out]),
        ),
        ("lira_offline", "LiRA, offline", carlini, lambda t, out: lira_offline(lira[t], lira[out])),
        ("rmia", "RMIA", "Zarifzadeh et al. 2024", _rmia_scorer(scores, rows, memory)),
    )
    attacks = [
        _attack(name, title, source, _one_left_out(score, without), scores, alpha)
        for name, title, source, score in scorers
    ]
    title, source = say("Population attack (logistic regression)"), say("after Ye et al. 2022")
    attacks.append(
        _attack(
            "population",
            title,
            source,
            lambda t: population_attack(scores, t, rows, memory),
            scores,
            alpha,
        )
    )
    return Examination({"with": len(within), "without": len(without)}, tuple(attacks))


def _check(scores: Scores, rows: Mask) -> None:
    """Refuse scores that are not finite on the rows, and name the models."""
    scores.check()
    if scores.finite:
        return
    broken = ~np.isfinite(scores.phi[:, rows]).all(axis=1)
    if broken.any():
        names = ", ".join(sorted(set(scores.model_roles[broken].tolist())))
        raise EvidenceError(
            say(
                "got NaN or infinite scores of the models {models}, expected finite ones; train "
                "them anew",
                models=names,
            )
        )


def _references(scores: Scores) -> Ints:
    without = np.flatnonzero(scores.model_roles == "without")
    if len(without) < FEWEST_REFERENCES:
        raise EvidenceError(
            say(
                "got {count} references without the forget set, expected at least {least}; add "
                "blocks to "
                "references.without_blocks",
                count=len(without),
                least=FEWEST_REFERENCES,
            )
        )
    return without


def _rmia_scorer(scores: Scores, rows: Rows, memory: Memory) -> Scorer:
    """RMIA, online, with the unseen records as population."""
    from scipy.special import log_expit

    unseen = np.flatnonzero(rows.unseen)
    if not len(unseen):
        raise EvidenceError(
            say("got no record of a control or test subject, expected some; enlarge split.control")
        )
    within, without = (np.flatnonzero(scores.model_roles == role) for role in ("with", "without"))
    judges = np.concatenate([within, without])
    x = scores.phi[:, rows.forget]

    def shares(out: Ints) -> Floats:
        """(p, judges) weight of each reference, where (p, k) of those without judge; both kinds
        count alike."""
        weights = np.zeros((len(out), len(judges)))
        weights[:, : len(within)] = 0.5 / len(within)
        weights[np.arange(len(out))[:, None], len(within) + np.searchsorted(without, out)] = (
            0.5 / out.shape[1]
        )
        return weights

    def population(models: Ints, out: Ints) -> Floats:
        """(p, z) sorted log ratios of the population."""
        key = "population", rows.key[1], models.tobytes(), out.tobytes()
        if key not in memory:
            z = scores.phi[:, _some(unseen)]
            memory[key] = np.sort(log_expit(z[models]) - _log_mean(z[judges], shares(out)), axis=1)
        return memory[key]

    def score(models: Ints, out: Ints) -> Floats:
        ratios = log_expit(x[models]) - _log_mean(x[judges], shares(out))
        return np.stack(
            [_beaten(*pair) for pair in zip(ratios, population(models, out), strict=True)]
        )

    return score


def _one_left_out(score: Scorer, without: Ints) -> Callable[[int], tuple[Floats, Floats]]:
    """How (members, non-members) score under a model: the forget records, and the same under each
    of its references.

    A reference is judged by the other ones. What they come to is made once for all models that
    share them.
    """
    known: dict[bytes, Floats] = {}

    def judge(model: int) -> tuple[Floats, Floats]:
        others = without[without != model] if model in without else without[:-1]
        if others.tobytes() not in known:
            rest = np.stack([others[others != other] for other in others])
            known[others.tobytes()] = score(others, rest).ravel()
        return score(np.array([model]), others[None])[0], known[others.tobytes()]

    return judge


def _attack(
    name: str,
    title: str,
    source: str,
    judge: Callable[[int], tuple[Floats, Floats]],
    scores: Scores,
    alpha: float,
) -> Attack:
    """One attack, given how it scores (members, non-members) under a model."""
    found = {role: judge(_row(scores, role)) for role in JUDGED}
    band = [judge(int(row)) for row in _references(scores)]
    areas, counts = [auc(*pair) for pair in band], [_flagged(*pair, alpha) for pair in band]
    released = found["unlearned"]
    return Attack(
        name,
        title,
        source,
        {role: auc(*pair) for role, pair in found.items()},
        auc_interval(*released),
        (min(areas), max(areas)),
        {role: _flagged(*pair, alpha) for role, pair in found.items()},
        (min(counts), max(counts)),
        alpha,
        len(released[0]),
        len(released[1]),
        rate_points(*released),
        roc(*released),
    )


def _row(scores: Scores, role: str) -> int:
    return int(np.flatnonzero(scores.model_roles == role)[0])


# Those who stay


@dataclass(frozen=True)
class Exposure:
    """How well retained people can be told from unseen ones, against retrained models. It names and
    numbers nobody."""

    auc: dict[str, float]
    """of retained against unseen records, by role: original, unlearned, retrained"""
    auc_band: tuple[float, float]
    auc_mean: float
    """over the `without` references"""
    p_worse: float
    """of such an AUC of the unlearned model, or a higher one, were it one more retrained model"""
    subjects: int
    """retained data subjects"""
    subjects_worse: int
    """of them, those more exposed than under retraining, beyond doubt (Holm) at `level`"""
    largest: float
    """largest t value of a subject"""
    level: float
    """error rate of each of the two questions, alpha / 2"""
    alpha: float

    @property
    def worsened(self) -> bool:
        """Did unlearning expose those who stay? Wrongly yes for a retrained model at most as often
        as alpha."""
        return self.p_worse < self.level or self.subjects_worse > 0

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        from dataclasses import asdict

        return {**asdict(self), "auc_band": list(self.auc_band), "worsened": self.worsened}


def exposure(scores: Scores, alpha: float) -> Exposure:
    """Are retained people more exposed by the unlearned model than they would be by a retrained
    one?

    To remove some can expose others: Carlini, Jagielski, Zhang, Papernot, Terzis and Tramer (2022),
    "The Privacy Onion Effect: Memorization is Relative" (NeurIPS), warn of it for machine
    unlearning. All models were trained on the retained records, so "in or out" is no question;
    asked is whether those records stand out from unseen ones more than in the models that exact
    deletion yields. Scores are centred by control records of the class. Two questions, each at
    alpha / 2: the AUC of all retained records, and each person's mean score, the people by Holm
    (1979). Each compares one model with M retrained ones,

        t = (x - mean) / (s sqrt(1 + 1 / M)),   Student's t with M - 1 degrees of freedom.

    s is never below what one retained record can move (AUC), or a hundredth of the people's typical
    spread (person): references that agree by chance are no certainty.

    Args:
        scores: all scores of the audit.
        alpha: error rate of the whole, 0 < alpha < 1.

    Returns:
        The exposure, without anything that points to a person.

    Raises:
        EvidenceError: a score is NaN, there are too few references, no retained, control or unseen
            record, or the references do not differ.
    """
    kept, controls, unseen = scores.retained, scores.roles == "control", scores.unseen
    _check(scores, kept | unseen)
    without, level = _references(scores), _share(alpha, "alpha") / 2
    if not kept.any() or not controls.any():
        raise EvidenceError(
            say(
                "got {retained} retained and {control} control records, expected some of each; "
                "enlarge the data or "
                "split.control",
                retained=kept.sum(),
                control=controls.sum(),
            )
        )
    judged = [_row(scores, role) for role in JUDGED]
    phi = scores.phi[np.concatenate([judged, without])]
    centred = phi - _class_means(phi, scores.labels, controls)
    areas = np.array([auc(row[kept], row[unseen]) for row in centred])
    people = _person_means(centred[:, kept], scores.subjects[kept])
    place = JUDGED.index("unlearned")
    _, p_worse = _excess(areas[place], areas[len(JUDGED) :], np.float64(1 / kept.sum()))
    t, p = _excess(
        people[place], people[len(JUDGED) :], _typical_spread(people[len(JUDGED) :]) / 100
    )
    band = areas[len(JUDGED) :]
    return Exposure(
        {role: float(area) for role, area in zip(JUDGED, areas[: len(JUDGED)], strict=True)},
        (float(band.min()), float(band.max())),
        float(band.mean()),
        float(p_worse),
        len(p),
        sum(holm(p.tolist(), level)),
        float(t.max()),
        level,
        alpha,
    )


def _person_means(phi: Floats, subjects: Ints) -> Floats:
    """(m, people) mean score of each person's records."""
    _, codes, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    return np.stack([np.bincount(codes, row) for row in phi]) / counts


def _typical_spread(people: Floats) -> np.float64:
    spread = np.sqrt(people.var(axis=0, ddof=1).mean())
    if not spread > 0:
        raise EvidenceError(
            say("the references score every record alike; models that do not differ cannot judge")
        )
    return np.float64(spread)


def _excess(x: Floats | np.float64, references: Floats, least: np.float64) -> tuple[Floats, Floats]:
    """t and one-sided p of values (...) being no higher than one more of the references (M,
    ...)."""
    from scipy import stats

    m = len(references)
    spread = np.maximum(references.std(axis=0, ddof=1), least)
    t = np.asarray((x - references.mean(axis=0)) / (spread * math.sqrt(1 + 1 / m)), np.float64)
    return t, np.asarray(stats.t.sf(t, m - 1), np.float64)
