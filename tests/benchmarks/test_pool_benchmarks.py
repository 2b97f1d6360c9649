"""The benchmarks of a pool: who is in which planted model, and what their tables say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks import pool_batches, pool_cost, worlds
from tasks.common.errors import EvidenceError
from tests.worlds import pools


def test_half_of_the_newest_people_is_left_in_and_nobody_who_left_before() -> None:
    given = worlds.load("digits-sequence")
    step = 4
    rows = pool_batches.half_left_in(given, step, 0, seed=1)
    before, newest = given.batches[step - 2], set(given.batches[step - 1])
    assert not rows[np.isin(given.subjects, before)].any()
    for person in newest - set(before):
        own = given.subjects == person
        assert rows[own].sum() == pytest.approx(own.sum() / 2, abs=0.5)
    others = (given.roles == "training") & ~np.isin(given.subjects, given.batches[step - 1])
    assert rows[others].all()
    assert not rows[given.roles != "training"].any()


def test_records_of_people_who_left_are_in_no_score() -> None:
    scores = pools.scores()
    rows = scores.subjects != 5
    left = pool_batches.only(scores, rows)
    assert 5 not in left.subjects
    assert left.phi.shape == (len(scores.model_roles), rows.sum())


def test_a_pool_is_needed_to_judge_batch_after_batch() -> None:
    with pytest.raises(EvidenceError, match="without a pool"):
        pool_batches.only(replace(pools.scores(), seen=None), np.ones(3, bool))


def case(passed: int, failed: int, judged: int = 6) -> dict[str, Any]:
    rest = judged - passed - failed
    return {
        "judged": judged,
        "pass": passed,
        "fail": failed,
        "inconclusive": rest,
        "influence": [-0.1, 0.0, 0.2],
    }


def test_the_table_of_ten_batches_counts_passes_up_to_40_percent_forgotten() -> None:
    step = {
        "retrain": case(5, 0),
        "half": case(1, 2),
        "unchanged": case(0, 6),
        "renewal": {"renew": False},
    }
    result = {
        "about": "digits",
        "command": "c",
        "pool": {"models": 64, "folds": 4, "with_everybody": 4},
        "steps": [{**step, "forgotten": 0.1}, {**step, "forgotten": 0.5}],
        "versions": {"processor": "p", "torch": "t"},
    }
    text = pool_batches.table(result)
    assert "| 2 | 50% | 5 / 0 / 1 | 0.00 (-0.10 … 0.20) | 1 / 2 / 3 | 0 / 6 / 0 | no |" in text
    assert "Passes up to 10% forgotten" in text
    assert "exact retrain 5 of 6" in text


def test_the_pool_of_a_cost_has_a_row_for_each_of_its_models() -> None:
    given = worlds.load("digits")
    phi, predicted, seen = pool_cost.random_pool(given)
    count = pool_cost.FOLDS * pool_cost.BLOCKS + pool_cost.WHOLE
    assert phi.shape == predicted.shape == seen.shape == (count, len(given.labels))
    assert seen[-pool_cost.WHOLE :, given.roles == "training"].all()
    assert not seen[:, given.roles != "training"].any()


def test_the_table_of_costs_has_a_row_a_world() -> None:
    spread = {"median": 1.0, "low": 0.9, "high": 1.1, "runs": 3}
    row = {
        "epochs": 120,
        "people": 4,
        **dict.fromkeys(("unlearning", "scoring", "judging", "retrain"), spread),
        "share": {"median": 0.15, "low": 0.14, "high": 0.16, "runs": 3},
    }
    text = pool_cost.text({"digits-long": row})
    assert (
        "| digits-long: 120 epochs | 4 | 1.00 | 1.00 | 1.00 | 1.00 | 0.15 (0.14 to 0.16) |" in text
    )


def test_many_batches_cost_what_their_models_and_unlearnings_cost() -> None:
    spread = {"median": 2.0}
    row = dict.fromkeys(("unlearning", "scoring", "judging", "retrain"), spread)
    costs = pool_cost.of_batches(row)
    assert costs[1][0] == (34, 34 * 3.0 + 4.0)
    assert costs[10][0] == (34 + 9 * 17, 187 * 3.0 + 40.0)
    assert costs[100][1] == (69, 69 * 3.0 + 400.0)
