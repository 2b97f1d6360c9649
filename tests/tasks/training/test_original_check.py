"""Nothing is audited on a misread model: an original that does not know its own training records
stops the run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.training import original_check
from tasks.training.original_check import OriginalCheck
from tasks.training.other_readings import OtherReading

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
    result = check(predicted)
    assert (result.training, result.unseen, result.reordered) == (1, 0, 1)
    assert result.fault(CLASSES, None) is None
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


MISREAD = OtherReading("model.mean=0.2", 200, configured=0.5, accuracy=0.97)


def test_a_model_that_another_reading_makes_right_is_refused_and_told_which() -> None:
    fault = str(replace(check(spoiled(0.5)), other=MISREAD).fault(CLASSES, None))
    assert "with model.mean=0.2 it is right on 0.970 of 200 training records" in fault
    assert "set original.accuracy" in fault


def test_a_reading_that_is_only_a_little_less_wrong_stops_nothing() -> None:
    half_right = replace(MISREAD, accuracy=0.75)
    assert replace(check(spoiled(0.5)), other=half_right).fault(CLASSES, None) is None


def test_who_says_what_the_model_reaches_is_believed_and_told_where_it_does_not() -> None:
    result = replace(check(spoiled(0.5)), other=MISREAD)
    assert result.fault(CLASSES, 0.4) is None
    assert "model.mean=0.2" in str(result.fault(CLASSES, 0.9))


def test_at_chance_a_reading_that_is_better_is_named_however_little_it_helps() -> None:
    result = replace(check(spoiled(1)), other=replace(MISREAD, accuracy=0.4))
    assert "it is right on 0.400" in str(result.fault(CLASSES, None))


def test_another_reading_is_told_rather_than_an_order_of_classes_that_explains_less() -> None:
    result = replace(check(spoiled(0.5)), reordered=0.8, other=MISREAD)
    assert "model.mean=0.2" in str(result.fault(CLASSES, None))
    result = replace(result, reordered=0.99)
    assert "the order of classes" in str(result.fault(CLASSES, None))
