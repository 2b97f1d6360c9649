"""Nothing is audited on a misread model: an original that does not know its own training records
stops the run."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.training import original_check
from tasks.training.original_check import OriginalCheck

CLASSES, COUNT = 12, 240
LABELS = np.arange(COUNT) % CLASSES
TRAINED = np.arange(COUNT) < 160


def check(predicted: np.ndarray, labels: np.ndarray = LABELS) -> OriginalCheck:
    logits = np.eye(CLASSES, dtype=np.float32)[predicted]
    return original_check.judge(logits, labels, TRAINED)


def spoiled(share: float) -> np.ndarray:
    """Predictions of which a share is drawn by chance."""
    rng = np.random.default_rng(1)
    return np.where(rng.random(COUNT) < share, rng.integers(CLASSES, size=COUNT), LABELS)


def test_a_model_that_knows_its_records_goes_on_and_is_told_apart_by_seen_and_unseen() -> None:
    predicted = np.where(TRAINED, LABELS, (LABELS + 1) % CLASSES)
    found = check(predicted)
    assert (found.training, found.unseen, found.reordered) == (1, 0, 1)
    assert found.fault(CLASSES, None) is None
    assert check(spoiled(0.5)).fault(CLASSES, None) is None


def test_a_model_at_chance_is_refused() -> None:
    assert "no better than" in str(check(spoiled(1)).fault(CLASSES, None))


def test_a_model_that_names_the_commonest_class_is_refused_however_often_it_is_right() -> None:
    labels = np.where(np.arange(COUNT) % 10 == 0, LABELS, 3)
    fault = str(check(np.full(COUNT, 3), labels).fault(CLASSES, None))
    assert "naming the commonest class (0.9" in fault


def test_classes_sorted_as_words_are_found_and_the_right_order_is_told() -> None:
    as_words = sorted(range(CLASSES), key=str)  # 0, 1, 10, 11, 2, …
    position = np.array([as_words.index(label) for label in range(CLASSES)])
    fault = str(check(position[LABELS]).fault(CLASSES, None))
    assert "and 1.000 if" in fault
    assert "outputs 0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3" in fault


@pytest.mark.parametrize(("least", "refused"), [(0.4, False), (0.9, True)])
def test_below_what_the_user_says_it_should_reach_it_is_refused(
    least: float, refused: bool
) -> None:
    fault = check(spoiled(0.5)).fault(CLASSES, least)
    assert (fault is not None) is refused
    assert not refused or "original.accuracy=0.9" in str(fault)
