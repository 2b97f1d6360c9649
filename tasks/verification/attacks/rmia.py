"""RMIA, robust membership inference (Zarifzadeh, Liu, Shokri 2024), online, with the unseen
records as population.

    score(x) = share of z with LR(x, z) >= gamma,
    LR(x, z) = [p(x | model) / p(x)] / [p(z | model) / p(z)],
    p(x) = [mean p(x | references in) + mean p(x | references out)] / 2,   p = sigmoid(phi).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.verification.attacks.rows import Memory, RecordMasks, sample
from tasks.verification.scoring import Floats, Ints, Scores

Scorer = Callable[[Ints, Ints], Floats]
"""(p,) models and (p, k) rows of the `without` references that judge each -> (p, f) scores of the
forget records"""
GAMMA = 1.0
"""RMIA counts the population records that x beats by at least this factor. With 2 most records of a
well-trained model beat none or tie: on models of digits it told members apart with an AUC of .57
(retrained models: .15 to .84), with 1, which the authors' library uses too, .78 (.41 to .60)."""
SMALLEST = 1e-290
"""A mean below it may have lost terms that are too small for a float64; its logarithm is then
computed from the terms' logarithms."""


def log_mean(phi: Floats, shares: Floats) -> Floats:
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
    """The same for means below 1/2: sums the mean itself and not its complement."""
    from scipy.special import expit, log_expit, logsumexp

    mean: Floats = np.einsum("...k,kn->...n", shares, expit(phi))
    lost = mean < SMALLEST
    result: Floats = np.log(np.maximum(mean, SMALLEST))
    for *row, column in np.argwhere(lost):
        result[(*row, column)] = logsumexp(log_expit(phi[:, column]), b=shares[tuple(row)])
    return result


def beaten(ratio: Floats, population: Floats, gamma: float = GAMMA) -> Floats:
    """Share of the population that each record beats by the factor gamma; a tie counts as beaten.

    Args:
        ratio: (n,) log p(x | model) / p(x).
        population: (z,) the same of the population, sorted.
        gamma: factor > 0.

    Returns:
        (n,) shares in 0 ... 1, in O((n + z) log z), without an n x z table.
    """
    below = np.searchsorted(population, ratio - math.log(gamma), side="right")
    return np.asarray(below / len(population), np.float64)


def scorer(scores: Scores, rows: RecordMasks, memory: Memory) -> Scorer:
    """Prepare RMIA for one request.

    Args:
        scores: all scores; both kinds of references count alike, however many there are of each.
        rows: of the request.
        memory: of the same scores, kept from request to request; filled by the scorer.

    Returns:
        A function of models (p,) and the `without` references that judge each (p, k), which gives
        each forget record's share of the population that it beats (p, f).

    Raises:
        EvidenceError: nobody is unseen.
    """
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
            z = scores.phi[:, sample(unseen)]
            memory[key] = np.sort(log_expit(z[models]) - log_mean(z[judges], shares(out)), axis=1)
        return memory[key]

    def score(models: Ints, out: Ints) -> Floats:
        ratios = log_expit(x[models]) - log_mean(x[judges], shares(out))
        return np.stack(
            [beaten(*pair) for pair in zip(ratios, population(models, out), strict=True)]
        )

    return score
