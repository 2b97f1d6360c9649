"""When a pool has to be renewed."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.pooling import renewal
from tasks.pooling.renewal import JudgedRetrain


def retrains(bias: float, count: int = 10, people: int = 4, failed: int = 0) -> list[JudgedRetrain]:
    """Retrains whose requests move together, by a standard deviation of 0.15 in rho."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        rho = bias + random.normal(0, 0.1) + random.normal(0, 0.1, people)
        found.append(
            JudgedRetrain(f"batch-{number}", tuple(rho), tuple(rho / 0.15), failed if number else 0)
        )
    return found


def test_a_pool_whose_retrains_lie_at_0_stays() -> None:
    found = renewal.assess(retrains(0.0), 0.5, 0.05)
    assert not found.renew
    assert found.bias == pytest.approx(0, abs=0.1)
    assert found.p is not None
    assert found.p > 0.05


def test_a_pool_whose_retrains_look_remembered_is_renewed() -> None:
    found = renewal.assess(retrains(0.3), 0.5, 0.05)
    assert found.renew
    assert "instead of 0" in found.reason


def test_a_bias_that_is_shown_but_small_renews_nothing() -> None:
    found = renewal.assess(retrains(0.06, count=200), 0.5, 0.05)
    assert found.p is not None
    assert found.p < 0.05
    assert not found.renew


def test_the_error_rate_does_not_depend_on_how_retrains_of_one_batch_hang_together() -> None:
    """Twenty requests of one retrain that all say the same count as one."""
    alarms = 0
    for seed in range(400):
        values = np.random.default_rng(seed).normal(0, 0.5, 6)
        same = [JudgedRetrain(str(v), (float(v),) * 20, (float(v),) * 20, 0) for v in values]
        alarms += renewal.assess(same, 0.5, 0.05).renew
    assert alarms / 400 < 0.08


def test_retrains_that_fail_more_often_than_chance_renew_a_pool_at_once() -> None:
    found = renewal.assess(retrains(0.0, count=2, failed=3), 0.5, 0.05)
    assert found.renew
    assert "failed on 3 of 8 requests" in found.reason


@pytest.mark.parametrize(("count", "words"), [(0, "make one"), (2, "at least 3")])
def test_too_few_retrains_say_nothing_and_say_so(count: int, words: str) -> None:
    found = renewal.assess(retrains(0.5, count=count), 0.5, 0.05)
    assert not found.renew
    assert words in found.reason
