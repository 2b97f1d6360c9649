"""What the report's pictures are drawn from: scales, round ticks, hills of scores, and events in
order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.common.errors import EvidenceError
from tasks.reporting import charts
from tasks.verification import utility
from tests.tasks.verification.test_verdicts import world

NUMBERS = st.floats(-1e4, 1e4, allow_nan=False)


@given(low=NUMBERS, width=st.floats(1e-3, 1e4))
def test_ticks_are_few_evenly_spaced_and_inside(low: float, width: float) -> None:
    ticks = charts.round_values(low, low + width)
    assert 1 <= len(ticks) <= 7
    assert all(low - 1e-6 <= tick <= low + width + 1e-6 for tick in ticks)
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[:1].repeat(len(steps)), atol=1e-6)


@given(low=NUMBERS, width=st.floats(1e-3, 1e4), value=NUMBERS)
def test_a_scale_stays_within_its_ends_and_keeps_order(
    low: float, width: float, value: float
) -> None:
    axis = charts.LinearScale(low, low + width, 8, 392)
    assert 8 <= axis(value) <= 392
    assert axis.beyond(value) == (not low <= value <= low + width)
    assert axis(low) <= axis(low + width / 2) <= axis(low + width)


def test_hills_hold_every_record_once_and_their_middles_are_medians() -> None:
    scores = world(0.0, np.random.default_rng(0))
    rows = scores.requests != ""
    found = utility.score_distribution(scores, rows)
    retrained = np.isin(scores.model_roles, ("retrained", "without"))
    for name, models in (("original", scores.model_roles == "original"), ("retrained", retrained)):
        values = scores.phi[models][:, rows].ravel()
        assert sum(found[name]) == pytest.approx(1)
        assert found["median"][name] == np.median(values)
        low, high = found["edges"][2], found["edges"][3]
        assert found[name][2] == pytest.approx(((values >= low) & (values < high)).mean())
    middles = np.median(scores.phi[retrained][:, rows], axis=1)
    assert found["median"]["band"] == [middles.min(), middles.max()]


def test_hills_of_a_screening_have_no_retrained_one_and_nan_is_named() -> None:
    scores = world(0.0, np.random.default_rng(0))
    alone = np.isin(scores.model_roles, ("original", "unlearned"))
    few = replace(
        scores,
        model_roles=scores.model_roles[alone],
        phi=scores.phi[alone].copy(),
        predicted=scores.predicted[alone],
    )
    found = utility.score_distribution(few, few.requests != "")
    assert (found["retrained"], found["median"]["retrained"], found["median"]["band"]) == (
        None,
        None,
        None,
    )
    few.phi[0, np.flatnonzero(few.requests != "")[0]] = np.nan
    with pytest.raises(EvidenceError, match="NaN"):
        utility.score_distribution(few, few.requests != "")
