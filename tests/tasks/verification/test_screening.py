"""Screening without references: it may accuse, and never clear."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tasks.common.errors import EvidenceError
from tasks.verification import screening
from tasks.verification.scoring import Scores


def world(seed: int, known: float, strangers: int = 12) -> Scores:
    """One person who asks, people whom no model saw and people who stay, 20 records each; no
    reference at all.

    `known` is how much higher than a stranger's the person's records score; those who stay are 3
    higher.
    """
    rng = np.random.default_rng(seed)
    people = 1 + strangers + 20
    subjects = np.repeat(np.arange(people), 20)
    kind = np.where(
        subjects == 0, "training", np.where(subjects <= strangers, "control", "training")
    )
    phi = rng.normal(2, 1.0, len(subjects)) + np.repeat(rng.normal(0, 0.4, people), 20)
    phi += np.where(subjects > strangers, 3.0, 0.0)
    phi[subjects == 0] += known
    labels = np.arange(len(subjects)) % 4
    predicted = np.where(phi > 0, labels, (labels + 1) % 4)
    return Scores(
        np.array(["original", "unlearned"]),
        np.stack([phi, phi]),
        np.stack([predicted, predicted]),
        labels,
        kind,
        np.where(subjects == 0, "r", ""),
        subjects,
        np.empty(0, "<U1"),
        np.empty((len(subjects), 0), "<U1"),
    )


def test_a_person_who_is_still_known_fails() -> None:
    found = screening.screen(world(0, 3.0), "r", 0.05)
    assert found.verdict == "fail"
    assert "still knows" in found.reason


def test_a_person_who_stands_out_as_unknown_fails() -> None:
    found = screening.screen(world(0, -4.0), "r", 0.05)
    assert found.verdict == "fail"
    assert "over-forgotten" in found.reason


def test_nothing_found_is_inconclusive_and_says_that_it_is_no_pass() -> None:
    found = screening.screen(world(1, 0.0), "r", 0.05)
    assert found.verdict == "inconclusive"
    assert "cannot pass" in found.reason
    assert all(gate.p_good == 1.0 and gate.state != "good" for gate in found.gates)


@pytest.mark.parametrize("known", [3.0, -4.0, 0.0, 0.5, 1.0, 1.5, -1.0, -1.5])
def test_the_reason_has_the_number_of_its_question_and_the_limit_that_decides(known: float) -> None:
    found = screening.screen(world(1, known), "r", 0.05)
    named = max(found.gates, key=lambda gate: gate.observed or 0.0)
    assert named.observed is not None
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", found.reason)]
    assert numbers == [round(named.observed, 2), round(named.threshold, 2)]
    assert (named.observed >= named.threshold) == (found.verdict == "fail")
    assert {gate.threshold for gate in found.gates} == {named.threshold}


def test_one_more_stranger_is_accused_no_more_often_than_alpha() -> None:
    accused = sum(
        screening.screen(world(seed, 0.0), "r", 0.05).verdict == "fail" for seed in range(120)
    )
    assert accused <= stats.binom.ppf(0.999, 120, 0.05)


def test_too_few_strangers_and_records_of_nobody_are_errors() -> None:
    with pytest.raises(EvidenceError, match="at least 4"):
        screening.screen(world(0, 0.0, strangers=3), "r", 0.05)
    with pytest.raises(EvidenceError, match="no record"):
        screening.screen(world(0, 0.0), "another", 0.05)


def test_a_model_that_answers_all_alike_cannot_be_screened() -> None:
    scores = world(0, 0.0)
    with pytest.raises(EvidenceError, match="alike"):
        screening.screen(
            replace(scores, phi=np.ones_like(scores.phi), predicted=scores.predicted * 0), "r", 0.05
        )


def test_a_screening_may_lie_beside_models_trained_with_everybody_and_finds_the_same() -> None:
    scores = world(0, 3.0)
    beside = replace(
        scores,
        model_roles=np.array(["original", "unlearned", "with"]),
        phi=scores.phi[[0, 1, 0]],
        predicted=scores.predicted[[0, 1, 0]],
    )
    beside.check()
    assert screening.screen(beside, "r", 0.05) == screening.screen(scores, "r", 0.05)


def test_models_without_the_forget_set_need_a_retrained_one_among_them() -> None:
    scores = world(0, 3.0)
    with pytest.raises(EvidenceError, match="role retrained, expected 1"):
        replace(
            scores,
            model_roles=np.array(["original", "unlearned", "without"]),
            phi=scores.phi[[0, 1, 0]],
            predicted=scores.predicted[[0, 1, 0]],
        ).check()
