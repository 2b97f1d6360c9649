"""The population attack, which needs no reference model (after Ye et al. 2022)."""

from __future__ import annotations

import numpy as np

from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.verification.attacks.rows import (
    Mask,
    Memory,
    RecordMasks,
    class_means,
    require_finite,
    sample,
)
from tasks.verification.scoring import Floats, Ints, Scores

FOLDS = 5
MOST_STEPS = 100
"""The regression stops after so many steps."""
CLOSE = 1e-4
"""The regression stops where slope and expected gain are at most this."""
SHORTEST = 2**-20
"""A step is halved until it helps, or is as short as this."""


def attack(
    scores: Scores, model: int, rows: RecordMasks, memory: Memory | None = None
) -> tuple[Floats, Floats]:
    """Attack one model without reference models: a classifier learns how members and non-members
    score under it.

    After attack P of Ye et al. 2022 ("Enhanced membership inference attacks against machine
    learning models", CCS), with a logistic regression in the place of one threshold. Features of a
    record, all from the model's own answer: phi; whether the answer is right; phi minus the mean
    phi of unseen records of the class (of all unseen records where the class has none). Retained
    records are members, unseen people's records are non-members, and both kinds weigh alike. Unseen
    people are split into folds. Nobody is scored by a classifier, or centred by a mean, that was
    fitted on that person; the forget records, on which none was fitted, get the mean over the
    folds. The same scores give the same result.

    Args:
        scores: all scores.
        model: row of the model attacked.
        rows: of the request.
        memory: of the same scores, kept from request to request; filled here.

    Returns:
        (f,) scores of the forget records and (u,) of the unseen records, log odds, higher = more
        member-like.

    Raises:
        EvidenceError: no retained record, or fewer than two unseen subjects.
    """
    if not scores.finite:
        require_finite(scores.phi[model, rows.forget | rows.retained | rows.unseen])
    memory = {} if memory is None else memory
    key = "ratings", model, rows.key
    if key not in memory:
        memory[key] = _ratings(scores, model, rows)
    return memory[key][rows.forget], memory[key][rows.unseen]


def _ratings(scores: Scores, model: int, rows: RecordMasks) -> Floats:
    """(n,) log odds of every record: of unseen people by the fold that did not see them, else the
    mean over folds."""
    members, unseen = sample(np.flatnonzero(rows.retained)), np.flatnonzero(rows.unseen)
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
    # other requests' scores may be NaN; `attack` refuses NaN where it belongs to this request
    phi = np.nan_to_num(scores.phi[model])
    correct = (scores.predicted[model] == scores.labels).astype(np.float64)
    ratings, held_out = np.zeros(len(phi)), np.empty(len(unseen))
    folds = min(FOLDS, people)
    fold = split_people(scores.subjects[unseen], folds)
    for number in range(folds):
        fitted, held = unseen[fold != number], fold == number
        fitted_mask = np.zeros(len(phi), bool)
        fitted_mask[fitted] = True
        features = np.column_stack(
            [phi, correct, phi - class_means(phi, scores.labels, fitted_mask)]
        )
        train = np.concatenate([members, fitted])
        odds = log_odds(features[train], np.arange(len(train)) < len(members), features)
        held_out[held] = odds[unseen[held]]
        ratings += odds / folds
    ratings[unseen] = held_out
    return ratings


def split_people(people: Ints, folds: int) -> Ints:
    """(n,) fold of each record. All records of a person are in one fold: people are taken by
    falling number of records, and each goes to the fold with the fewest records."""
    _, person_of, counts = np.unique(people, return_inverse=True, return_counts=True)
    fold, size = np.zeros(len(counts), np.int64), np.zeros(folds, np.int64)
    for person in np.argsort(counts, kind="stable")[::-1]:
        fold[person] = np.argmin(size)
        size[fold[person]] += counts[person]
    return fold[person_of]


def log_odds(train: Floats, member: Mask, features: Floats) -> Floats:
    """Log odds of being a member, by a logistic regression on standardised features.

    Both kinds weigh alike. The loss is the negative log-likelihood plus half the squared length of
    the coefficients without the intercept. It is minimised by Newton's method with steps that are
    halved until they help (Armijo).

    Args:
        train: (n, k) features of records whose membership is train.
        member: (n,) their membership; some of each.
        features: (m, k) features of the records to rate.

    Returns:
        (m,) log odds.
    """
    from scipy.special import expit

    count = len(train)
    mean, variance = train.mean(axis=0), train.var(axis=0)
    scale = np.where(
        variance > (count * np.finfo(np.float64).eps * mean) ** 2, np.sqrt(variance), 1.0
    )
    x = np.column_stack([(train - mean) / scale, np.ones(count)])
    weight = 1 / (2 * np.where(member, member.sum(), count - member.sum()))
    penalty = np.append(np.full(train.shape[1], 1 / count), 0.0)
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
    return np.asarray((features - mean) / scale @ best[:-1] + best[-1], np.float64)
