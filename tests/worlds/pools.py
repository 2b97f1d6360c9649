"""A fabricated pool: scores with a known truth, of people with two classes each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.pooling import folds
from tasks.verification.gates import GateRules
from tasks.verification.scoring import Scores

RULES = GateRules(alpha=0.05, rho0=0.5, memorised=0.7, utility_margin=0.05, min_references=6)
REQUEST = "request-0"
PEOPLE, OWN, CONTROLS, CLASSES = 24, 12, 8, 2


def scores(
    influence: float = 0.0,
    *,
    seed: int = 0,
    models: int = 64,
    fold_count: int = 8,
    everybody: int = 8,
    gap: float = 3.0,
    confidence: float = 0.0,
    accuracy: float = 0.9,
    people_gain: float = 0.0,
    baseline: bool = False,
    spread: float = 0.3,
    fresh: int = 0,
    batch_mates: float = 0.0,
) -> Scores:
    """An audit in which person 0 asks to be forgotten, and 64 + 8 models of a pool judge.

    Args:
        influence: rho of the unlearned model.
        seed: of everything.
        models: of the pool, each without a fold.
        fold_count: folds of a round.
        everybody: further models, trained with everybody.
        gap: how much higher a record is scored by models that saw it.
        confidence: of the unlearned model, above the pool's on everything.
        accuracy: of the unlearned model, on everything.
        people_gain: how much more accurate a model is that saw everybody than one that saw nobody.
        baseline: whether an exact retrain was made.
        spread: of how sure models are of everything, a standard deviation.
        fresh: further models retrained for the batch.
        batch_mates: by how much models retrained for the batch, and the unlearned one, are less
            sure of the person's records than models of the pool without the person.
    """
    random = np.random.default_rng(seed)
    subjects = np.repeat(np.arange(PEOPLE + CONTROLS), OWN)
    labels = np.arange(len(subjects)) % CLASSES
    training = subjects < PEOPLE
    roles = np.where(training, "training", "control")
    requests = np.where(subjects == 0, REQUEST, "")
    absent = [
        folds.absent_subjects(
            subjects[training], labels[training], CLASSES, fold_count, seed, number
        )
        for number in range(models)
    ] + [np.empty(0, np.int64)] * everybody
    seen = folds.membership(subjects, training, absent)
    level = random.normal(0, 1, len(subjects))
    judged = {"original": 1.0, "unlearned": influence, **({"retrained": 0.0} if baseline else {})}
    shares = [*judged.values(), *[0.0] * fresh]
    own = [np.where(subjects == 0, share, training * 1.0) for share in shares]
    inside = np.concatenate([np.stack(own), seen.astype(np.float64)])
    sure = random.normal(0, spread, len(inside))
    sure[list(judged).index("unlearned")] += confidence
    phi = level + gap * inside + random.normal(0, 1, inside.shape) + sure[:, None]
    names = [*judged, *["fresh"] * fresh, *["pool"] * len(absent)]
    anew = np.array([name in ("unlearned", "retrained", "fresh") for name in names])
    phi[np.ix_(anew, subjects == 0)] -= batch_mates
    correct = _correct(seen, names, training, accuracy, people_gain, random)
    return Scores(
        np.array(names),
        phi,
        np.where(correct, labels, 1 - labels),
        labels,
        roles,
        requests,
        subjects,
        np.array([], np.str_),
        np.empty((len(subjects), 0), np.str_),
        np.concatenate([np.zeros((len(shares), len(subjects)), bool), seen]),
    )


def _correct(
    seen: NDArray[np.bool_],
    names: list[str],
    training: NDArray[np.bool_],
    accuracy: float,
    people_gain: float,
    random: np.random.Generator,
) -> NDArray[np.bool_]:
    """(m, n) which answers are right: as many as the accuracy says, and the same in each group."""
    share = np.array([1.0] * (len(names) - len(seen)) + (seen[:, training].mean(axis=1)).tolist())
    wanted = accuracy - people_gain * (1 - share) + random.normal(0, 0.004, len(names))
    right = np.empty((len(names), len(training)), bool)
    for group in (training, ~training):
        rows = np.flatnonzero(group)
        for row, part in enumerate(wanted):
            order = random.permutation(rows)
            right[row, order] = np.arange(len(rows)) < part * len(rows)
    return right


def with_unlearned_accuracy(given: Scores, accuracy: float) -> Scores:
    """The same, but the unlearned model answers such a share rightly."""
    predicted = given.predicted.copy()
    row = int(np.flatnonzero(given.model_roles == "unlearned")[0])
    for group in (given.roles == "training", given.roles == "control"):
        rows = np.flatnonzero(group)
        wrong = np.arange(len(rows)) >= accuracy * len(rows)
        predicted[row, rows] = np.where(wrong, 1 - given.labels[rows], given.labels[rows])
    return replace(given, predicted=predicted)
