"""The reason of a verdict names every question that failed, with its number, and nothing else."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from tasks.verification import reasons
from tasks.verification.contrast import Contrast, InfluenceInterval
from tasks.verification.gates import GateTest, JudgedModel, Measured
from tests.tasks.verification.test_verdicts import RULES

SPAN = InfluenceInterval(0.87, 0.71, 1.03, 0.9)
NUMBERS = {
    "influence": (0.87, 0.5, "0.87"),
    "memorised": (0.93, 0.5, "0.93"),
    "over_forgetting": (-0.87, -0.5, "3.4 standard deviations"),
    "utility_control": (0.612, 0.807, "61.2%"),
    "utility_retain": (0.743, 0.939, "74.3%"),
}
"""Of each question: its number, its limit, and how the reason writes the number."""
SUBSETS = [subset for size in (1, 2, 3, 4, 5) for subset in itertools.combinations(NUMBERS, size)]


def judged(state: str, names: tuple[str, ...]) -> JudgedModel:
    """A model of which these questions have that state, and all others are shown good."""
    gates = [
        GateTest(
            name,
            reasons.say("Is it?"),
            observed,
            limit,
            0.5,
            0.5,
            state if name in names else "good",
        )
        for name, (observed, limit, _) in NUMBERS.items()
    ]
    return JudgedModel("fail" if state == "bad" else "inconclusive", SPAN, tuple(gates))


def measured() -> Measured:
    """A model that lies 3.4 standard deviations below retrained ones."""
    without = np.array([-1.0, 0.0, 1.0])
    contrast = Contrast(without + 10, without, -3.4, equal_p=1.0, normal_p=1.0)
    return Measured(contrast, contrast, centred=False)


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_a_fail_names_each_question_that_failed_by_its_number(names: tuple[str, ...]) -> None:
    text = reasons.failed(judged("bad", names), measured(), RULES)
    for name, (_, _, number) in NUMBERS.items():
        assert (number in text) == (name in names), (name, text)
    assert ("interval" in text) == ("influence" in names)


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_what_is_not_decided_is_named_and_an_interval_only_where_it_is_about_influence(
    names: tuple[str, ...],
) -> None:
    text = reasons.undecided(judged("open", names), 24, 17)
    about_influence = bool({"influence", "over_forgetting"} & set(names))
    assert ("interval 0.71 to 1.03" in text) == about_influence
    for name in ("memorised", "utility_control", "utility_retain"):
        assert (NUMBERS[name][2] in text) == (name in names)
    assert len(re.findall(r"; ", text.split(". ")[0])) == len(names) - 1
