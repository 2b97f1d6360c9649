"""Who is left out of which model of a pool."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.common.errors import EvidenceError
from tasks.pooling import folds

SUBJECTS = np.repeat(np.arange(10), 4).astype(np.int64)
LABELS = np.tile(np.arange(2), 20).astype(np.int64)


def test_every_subject_is_left_out_of_exactly_one_model_of_a_round() -> None:
    for rank in range(3):
        absent = [
            folds.absent_subjects(SUBJECTS, LABELS, 2, 4, 7, rank * 4 + fold) for fold in range(4)
        ]
        assert sorted(np.concatenate(absent).tolist()) == list(range(10))


def test_rounds_part_the_subjects_differently() -> None:
    first, second = (folds.absent_subjects(SUBJECTS, LABELS, 2, 4, 7, number) for number in (0, 4))
    assert first.tolist() != second.tolist()


def test_every_model_knows_every_class() -> None:
    labels = np.where(SUBJECTS < 2, 1, 0).astype(np.int64)  # two people have the rare class
    for number in range(40):
        absent = folds.absent_subjects(SUBJECTS, labels, 2, 4, 7, number)
        assert set(labels[~np.isin(SUBJECTS, absent)].tolist()) == {0, 1}


def test_a_class_that_only_one_subject_has_is_named() -> None:
    labels = np.where(SUBJECTS < 1, 1, 0).astype(np.int64)
    with pytest.raises(EvidenceError, match="classes 1: got records of fewer than two"):
        folds.absent_subjects(SUBJECTS, labels, 2, 4, 7, 0)


def test_fewer_people_than_folds_are_refused() -> None:
    with pytest.raises(EvidenceError, match=r"got 10 training subjects.*pool\.folds = 12"):
        folds.absent_subjects(SUBJECTS, LABELS, 2, 12, 7, 0)


def test_membership_is_of_training_records_only() -> None:
    training = SUBJECTS < 8
    seen = folds.membership(SUBJECTS, training, [np.array([1, 2]), np.empty(0, np.int64)])
    assert seen[0].tolist() == (training & ~np.isin(SUBJECTS, [1, 2])).tolist()
    assert seen[1].tolist() == training.tolist()
