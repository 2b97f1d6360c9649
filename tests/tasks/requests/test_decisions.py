"""What people decided about a batch: typed, quoted, and never a reason for a verdict."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.common.errors import EvidenceError
from tasks.reporting import build_evidence
from tasks.requests import decisions
from tests.worlds import fabricated


def of(request_id: str, decided: dict[str, Any]) -> dict[str, Any]:
    """The evidence of a request after these decisions."""
    evidence = build_evidence.build_all(
        fabricated.sources({**fabricated.inputs(), "decisions": decided})
    )
    return next(item for item in evidence if item["request"]["id"] == request_id)


def test_without_decisions_every_copy_is_held_and_the_request_waits_for_sign_off() -> None:
    result = of(fabricated.PASS, {})
    assert (result["progress"], result["completed"], result["approvals"]) == (
        "awaiting_signoff",
        None,
        [],
    )
    assert {copy["state"] for copy in result["copies"]} == {"held"}
    assert [copy["store"] for copy in result["copies"]] == [
        *("workspace", "dvc_cache", "dvc_remote:archive", "backup:weekly tape"),
        *("original_model", "reference_models", "artifacts"),
    ]


def test_a_request_is_erased_when_no_copy_and_no_model_that_saw_it_is_held_and_only_then() -> None:
    decided = fabricated.erased()
    result = of(fabricated.PASS, decided)
    assert (result["progress"], result["completed"]) == ("erased", "2026-11-24T10:00:00Z")
    assert result["recipients"][0]["told_at"] == "2026-11-24T11:00:00Z"
    assert result["processors"][0]["told_at"] is None
    for folder in range(len(decided["erasure"])):
        part = {
            **decided,
            "erasure": decided["erasure"][:folder] + decided["erasure"][folder + 1 :],
        }
        assert (of(fabricated.PASS, part)["progress"], of(fabricated.PASS, part)["completed"]) == (
            "released",
            None,
        )
    assert of(fabricated.FAIL, decided)["progress"] == "awaiting_signoff"


def test_decisions_change_no_verdict() -> None:
    before, after = of(fabricated.FAIL, {}), of(fabricated.FAIL, fabricated.erased(fabricated.FAIL))
    for key in ("verdict", "outcome", "reason", "gates", "residual_influence", "register"):
        assert before[key] == after[key]


def test_one_refusal_that_stands_is_a_refusal_and_a_persons_last_decision_stands() -> None:
    def progress(*made: tuple[str, str]) -> str:
        entries = [fabricated.approval(fabricated.PASS, decision, by) for by, decision in made]
        for hour, entry in enumerate(entries):
            entry["at"] = f"2026-11-23T{10 + hour}:00:00Z"
        return str(of(fabricated.PASS, {"approvals": entries})["progress"])

    assert progress(("A", "approve")) == "released"
    assert progress(("A", "refuse"), ("B", "approve")) == "refused"
    assert progress(("A", "refuse"), ("A", "approve")) == "released"
    assert progress(("A", "approve"), ("A", "refuse")) == "refused"


def test_a_request_that_was_set_aside_is_never_erased_by_what_was_done_for_the_batch() -> None:
    decided = fabricated.erased()
    for entry in decided["erasure"]:
        entry["request"] = None
    result = of(fabricated.SET_ASIDE, decided)
    assert result["progress"] == "set_aside"
    assert {copy["state"] for copy in result["copies"]} == {"held"}
    assert of(fabricated.PASS, decided)["progress"] == "erased"


ENTRY = {"at": "2026-11-24T10:00:00Z", "by": "A"}


@pytest.mark.parametrize(
    ("decided", "words"),
    [
        ({"approval": []}, "approval"),
        ({"approvals": [{**ENTRY, "role": "DPO", "decision": "maybe"}]}, "decision"),
        (
            {"approvals": [{**ENTRY, "at": "2026-11-24", "role": "DPO", "decision": "approve"}]},
            "zone",
        ),
        (
            {"approvals": [{**ENTRY, "role": "DPO", "decision": "approve", "request": "x"}]},
            "not of this batch",
        ),
        (
            {"erasure": [{**ENTRY, "store": "workspace", "state": "erased", "receipt": ""}]},
            "receipt",
        ),
        (
            {"erasure": [{**ENTRY, "store": "workspace", "state": "masked", "receipt": "r"}]},
            "state",
        ),
        (
            {"erasure": [{**ENTRY, "store": "workspace", "state": "expires", "receipt": "r"}]},
            "expires_on",
        ),
        ({"erasure": [{**ENTRY, "store": "attic", "state": "erased", "receipt": "r"}]}, "attic"),
        ({"notices": [{**ENTRY, "to": "nobody"}]}, "nobody"),
    ],
)
def test_what_is_not_whole_or_names_what_is_not_known_is_an_error(
    decided: dict[str, Any], words: str
) -> None:
    with pytest.raises(EvidenceError, match=words):
        of(fabricated.PASS, decided)


def test_of_moments_in_different_zones_the_latest_is_found() -> None:
    assert (
        decisions.latest(["2026-11-24T10:00:00Z", "2026-11-24T10:30:00+01:00"])
        == "2026-11-24T10:00:00Z"
    )
