"""When a full retrain is advised: at a limit and not before it, and never because the test was too
weak."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.pipeline import results
from tasks.common import files
from tasks.common.errors import EvidenceError
from tasks.common.settings import AdviceLimits
from tasks.reporting import advice, build_evidence
from tasks.reporting.advice import BatchFacts
from tasks.training import release_lineage
from tasks.training.history import FROM_SCRATCH, History
from tasks.verification import gates, utility
from tasks.verification.scoring import Scores
from tests.worlds.fabricated import sources

LIMITS = AdviceLimits(unlearnings=3, forgotten_share=0.25, accuracy_loss=0.02)
FRESH = History(1, 10, 1000)
NO_LOSS = {"estimate": 0.0, "low": -0.02, "high": 0.02, "confidence": 0.9}


def verdict(name: str, low: float | None = -0.2) -> dict[str, Any]:
    return {
        "verdict": name,
        "residual_influence": {"estimate": 0.1, "low": low, "high": 0.4, "confidence": 0.9},
    }


PASSED = (verdict("pass"),)


def codes(
    method: Any = "fcalb",
    history: History = FRESH,
    verdicts: Any = PASSED,
    loss: Any = NO_LOSS,
    limits: AdviceLimits = LIMITS,
) -> list[str]:
    return [
        one["code"] for one in advice.advise(method, BatchFacts(verdicts, loss, history, limits))
    ]


def test_nothing_is_advised_where_all_is_well_or_the_loss_is_not_known() -> None:
    assert codes() == []
    assert codes(loss=None) == []


@pytest.mark.parametrize(
    ("unlearnings", "expected"), [(2, []), (3, ["unlearnings"]), (4, ["unlearnings"])]
)
def test_a_retrain_is_advised_from_the_limit_of_unlearnings_on(
    unlearnings: int, expected: list[str]
) -> None:
    assert codes(history=History(unlearnings, 10, 1000)) == expected


@pytest.mark.parametrize(
    ("forgotten", "expected"), [(249, []), (250, ["forgotten_share"]), (999, ["forgotten_share"])]
)
def test_a_retrain_is_advised_from_the_limit_of_forgotten_records_on(
    forgotten: int, expected: list[str]
) -> None:
    assert codes(history=History(1, forgotten, 1000)) == expected


@pytest.mark.parametrize(
    ("estimate", "low", "expected"),
    [
        (0.02, 0.001, ["accuracy_lost"]),
        (0.019, 0.001, []),  # shown, but below the limit
        (0.03, 0.0, []),  # above the limit, but chance explains it
        (-0.03, -0.05, []),
    ],
)
def test_a_loss_of_accuracy_has_to_be_large_and_shown(
    estimate: float, low: float, expected: list[str]
) -> None:
    assert (
        codes(loss={"estimate": estimate, "low": low, "high": 0.1, "confidence": 0.9}) == expected
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (verdict("fail", 0.6), ["failed"]),
        (verdict("inconclusive", 0.01), ["influence_left"]),
        (
            verdict("inconclusive", 0.0),
            [],
        ),  # not ruled out, but not shown either: more references would tell
        (verdict("inconclusive", None), []),
        (verdict("pass", 0.01), []),  # some is left, below the margin
    ],
)
def test_influence_that_is_shown_to_be_left_asks_for_a_retrain(
    found: dict[str, Any], expected: list[str]
) -> None:
    assert codes(verdicts=[verdict("pass"), found]) == expected


def test_after_an_exact_retrain_nothing_is_advised_whatever_was_found() -> None:
    loss = {"estimate": 0.2, "low": 0.1, "high": 0.3, "confidence": 0.9}
    found = [verdict("fail"), verdict("inconclusive", 0.4)]
    assert codes("retrain", History(9, 900, 1000), found, loss) == []
    every = ["failed", "influence_left", "accuracy_lost", "unlearnings", "forgotten_share"]
    assert codes("fcalb", History(9, 900, 1000), found, loss) == every


def test_what_is_told_names_the_counts_the_shares_and_the_limits() -> None:
    loss = {"estimate": 0.0312, "low": 0.011, "high": 0.0514, "confidence": 0.9}
    facts = BatchFacts([verdict("fail"), verdict("pass")], loss, History(3, 300, 1000), LIMITS)
    found = advice.advise("fcalb", facts)
    told = {one["code"]: one for one in found}
    assert "1 of 2 requests failed" in told["failed"]["text"]
    assert "by 3.1% (1.1% to 5.1%); the limit is 2.0%" in told["accuracy_lost"]["text"]
    assert "included: 3; the limit is 3" in told["unlearnings"]["text"]
    assert "30.0% of the records" in told["forgotten_share"]["text"]
    assert told["forgotten_share"]["values"] == {"share": 0.3, "limit": 0.25}
    assert all("{" not in one["text"] for one in found)


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 1000))
def test_a_history_counts_unlearnings_until_a_model_is_trained_from_scratch(
    sizes: list[int], retained: int
) -> None:
    history = start = History(0, 0, 1000)
    for size in sizes:
        history = history.after("fcalb", size, retained)
    assert history == History(len(sizes), sum(sizes), start.trained)
    for method in FROM_SCRATCH:
        assert history.after(method, 5, retained) == History(0, 0, retained)
    assert (
        history.after("distil", 5, retained).unlearnings == len(sizes) + 1
    )  # it learns from the model before


@pytest.mark.parametrize("history", [(-1, 0, 10), (1, 11, 10), (1, -1, 10), (0, 0, 0)])
def test_a_history_that_cannot_be_is_refused(history: tuple[int, int, int]) -> None:
    with pytest.raises(EvidenceError, match="history"):
        History(*history)


def answers(shares: list[float], unlearned: float, records: int = 400) -> Scores:
    """Scores of which only the accuracy on unseen people matters."""
    roles = ["original", "unlearned", "retrained", *["with"] * 2, *["without"] * len(shares)]
    right = [1.0, unlearned, 1.0, 1.0, 1.0, *shares]
    labels = np.zeros(records, np.int64)
    predicted = np.array([np.arange(records) >= round(share * records) for share in right]).astype(
        np.int64
    )
    return Scores(
        np.array(roles),
        np.zeros((len(roles), records)),
        predicted,
        labels,
        np.full(records, "control"),
        np.full(records, ""),
        labels,
        np.empty(0, np.str_),
        np.empty((records, 0), np.str_),
    )


@hypothesis.settings(deadline=None)  # the first call imports scipy
@given(
    st.lists(st.integers(340, 380), min_size=2, max_size=12),
    st.integers(300, 400),
    st.floats(0.01, 0.2),
)
def test_a_loss_is_shown_exactly_where_the_gate_without_a_margin_is_bad(
    right: list[int], own: int, alpha: float
) -> None:
    shares = [count / 400 for count in right]
    loss = utility.control_loss(answers(shares, own / 400), alpha)
    assert loss["estimate"] == pytest.approx(np.mean(shares) - own / 400)
    assert loss["confidence"] == pytest.approx(1 - 2 * alpha)
    rules = gates.GateRules(alpha, 0.5, 0.7, 0.0, 2)
    gate = gates.utility_gate("g", "?", own / 400, np.array(shares), rules)
    if abs(loss["low"]) > 1e-9:
        assert (loss["low"] > 0) == (gate.p_bad < alpha)
    if abs(loss["high"]) > 1e-9:
        assert (loss["high"] < 0) == (gate.p_good < alpha)


def test_a_loss_needs_retrained_models_and_unseen_people() -> None:
    with pytest.raises(EvidenceError, match="got 1 references"):
        utility.control_loss(answers([0.9], 0.9), 0.05)
    nobody = answers([0.9, 0.8], 0.9)
    nobody.roles[:] = "training"
    with pytest.raises(EvidenceError, match="0 records of unseen"):
        utility.control_loss(nobody, 0.05)


def test_evidence_says_what_is_advised_from_what_the_stages_wrote() -> None:
    def found(unlearnings: int) -> list[str]:
        history = {"unlearnings": unlearnings, "forgotten": 0, "trained": 5000}
        given = sources()
        given.lineage["history"].update(history)  # type: ignore[attr-defined]
        given.verdicts["batch"]["control_loss"] = {"reason": "no references"}
        return [one["code"] for one in build_evidence.build_all(given)[0]["advice"]]

    limit = AdviceLimits().unlearnings
    assert found(limit - 2) == ["failed"]
    assert found(limit - 1) == ["failed", "unlearnings"]


def test_lineage_without_a_history_is_an_error_and_no_good_news() -> None:
    with pytest.raises(EvidenceError, match="run the stage score again"):
        release_lineage.released({"models": []}, "fcalb")
    with pytest.raises(EvidenceError, match="says nothing of how often"):
        release_lineage.released({"batch": {"forgotten": 1, "retained": 2}}, "fcalb")


def test_the_console_tells_a_batch_s_advice_once(tmp_path: Any) -> None:
    told = {"advice": [{"code": "failed", "text": "A full retrain is advised.", "values": {}}]}
    for name in ("one", "two"):
        files.write_json(tmp_path / "reports" / "b" / name / "evidence.json", told)
    assert results.advice(tmp_path, "b") == ["A full retrain is advised."]
    assert results.explanation(told)[-1] == "  A full retrain is advised."
    assert results.advice(tmp_path, "c") == []
