"""Draws the subjects that each model of a pool is trained without.

Round r divides the training subjects at random into K folds; model r·K + f is trained without fold
f. So every subject is left out of one model of each round, and is in all the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.common import seeds
from tasks.common.errors import EvidenceError
from tasks.verification.scoring import Ints

TRIES = 200
"""Partitions that are drawn until one leaves each model a record of every class."""


def absent_subjects(
    subjects: Ints, labels: Ints, classes: int, folds: int, seed: int, number: int
) -> Ints:
    """The subjects that one model is trained without.

    Args:
        subjects: (n,) subject of each training record, any whole numbers.
        labels: (n,) classes of the records.
        classes: how many there are.
        folds: K >= 2, the number of folds of a round.
        seed: root of the random streams.
        number: of the model, 0 or more; its round is number // K.

    Returns:
        Sorted subject numbers.

    Raises:
        EvidenceError: fewer subjects than folds, a class that only one subject has, or no
            partition that leaves every class in every model.
    """
    people = np.unique(subjects)
    if len(people) < folds:
        raise EvidenceError(
            f"got {len(people)} training subjects, expected at least pool.folds = {folds}; "
            "lower pool.folds"
        )
    owners = [np.unique(subjects[labels == label]) for label in range(classes)]
    rare = [str(label) for label, people_of_class in enumerate(owners) if len(people_of_class) < 2]
    if rare:
        raise EvidenceError(
            f"classes {', '.join(rare)}: got records of fewer than two training subjects, expected "
            "two or more, since a model without the only one cannot know the class; "
            "use references.mode=batch"
        )
    rank, fold = divmod(number, folds)
    fold_of = _partition(people, owners, folds, seed, rank)
    return np.asarray(people[fold_of == fold], np.int64)


def _partition(people: Ints, owners: list[Ints], folds: int, seed: int, rank: int) -> Ints:
    """(subjects,) fold of each, so that no class has all of its subjects in one fold."""
    for attempt in range(TRIES):
        stream = seeds.derive(seed, "pool", "folds", rank, attempt)
        order = np.random.Generator(np.random.PCG64(stream)).permutation(len(people))
        fold_of = np.empty(len(people), np.int64)
        fold_of[order] = np.arange(len(people)) % folds
        shares = (fold_of[np.searchsorted(people, people_of_class)] for people_of_class in owners)
        if all(len(np.unique(share)) > 1 for share in shares):
            return fold_of
    raise EvidenceError(
        f"got no partition into pool.folds = {folds} folds that leaves every class in every model; "
        "raise pool.folds, or use references.mode=batch"
    )


def membership(
    subjects: Ints, training: NDArray[np.bool_], absent: list[Ints]
) -> NDArray[np.bool_]:
    """(m, n) whether each model was trained on each record.

    Args:
        subjects: (n,) subject of each record.
        training: (n,) records of the training subjects.
        absent: for each of m models the subjects that it was trained without.
    """
    return np.stack([training & ~np.isin(subjects, out) for out in absent])
