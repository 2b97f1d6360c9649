"""The evidence of one made-up request for each way in which a report can end."""

from __future__ import annotations

from typing import Any

from tasks.reporting import build_evidence
from tasks.resolve import REASONS
from tests.worlds import fabricated

EXTENSION = {
    "at": "2026-11-15T08:00:00Z",
    "by": "Ada Clerk",
    "reason": "many requests at once",
    "to": "2027-02-10",
}
REFUSAL = {
    "at": "2026-11-24T08:00:00Z",
    "by": "M. Laurent",
    "reason": "a pending lawsuit",
    "ground": "Cal. Civ. Code § 1798.105(d)(8)",
}
GROUND = "withdrawn consent (Art. 17(1)(b) GDPR)"
IDENTITY = {"at": "2026-11-12T08:00:00Z", "by": "Ada Clerk", "how": "login and e-mail code"}


def all_of_them() -> dict[str, dict[str, Any]]:
    """Evidence by the name of its ending."""
    batch = evidence()
    return {
        "pass": batch[fabricated.PASS],
        "weak pass": batch[fabricated.WEAK],
        "fail": batch[fabricated.FAIL],
        "inconclusive": batch[fabricated.OPEN],
        "below the detection limit": batch[fabricated.BELOW],
        "set aside": batch[fabricated.SET_ASIDE],
        "not judged": batch[fabricated.UNJUDGED],
        "screened, nothing seen": screened("open"),
        "screened, seen": screened("bad"),
        "rejected": decided(fabricated.FAIL, "refuse"),
        "refused": decided(fabricated.FAIL, "refuse", refusal=REFUSAL),
        "extended": registered(fabricated.PASS, extension=EXTENSION, identity=IDENTITY),
        "data only": data_only(),
        "retrain proposed": climbed("retrain"),
        "later rung proposed": climbed("more"),
        "no rung passes": climbed(None),
        "approved": decided(fabricated.PASS, "approve"),
        "erased": finished(),
        "erased and answered": finished(
            letters=[{**said("2026-11-25T08:00:00Z"), "how": "registered post", "kind": "answer"}]
        ),
    }


def evidence(inputs: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The evidence of the made-up batch by request."""
    items = build_evidence.build_all(fabricated.sources(inputs))
    return {item["request"]["id"]: item for item in items}


def said(at: str) -> dict[str, str]:
    """When, and by whom."""
    return {"at": at, "by": "Ada Clerk"}


def registered(request: str, **facts: Any) -> dict[str, Any]:
    """A request of which the register knows something."""
    inputs = fabricated.inputs()
    inputs["decisions"]["registered"] = {request: facts}
    return evidence(inputs)[request]


def decided(request: str, decision: str, **facts: Any) -> dict[str, Any]:
    """A request that somebody decided on."""
    inputs = fabricated.inputs()
    inputs["decisions"]["approvals"] = [fabricated.approval(request, decision)]
    inputs["decisions"]["registered"] = {request: facts} if facts else {}
    return evidence(inputs)[request]


def screened(state: str) -> dict[str, Any]:
    """A request that was only screened: `open` or `bad`."""
    return evidence(fabricated.screening(state))[fabricated.PASS]


def data_only() -> dict[str, Any]:
    """A request whose records were in no training."""
    inputs = fabricated.inputs()
    (entry,) = (
        entry
        for entry in inputs["register"]["batch_requests"]
        if entry["request_id"] == fabricated.SET_ASIDE
    )
    entry |= {
        "code": "not_in_training",
        "reason": REASONS["not_in_training"],
        "records": 24,
        "labels": {"3": 24},
        "whole_subject": True,
        "subject_pseudonym": fabricated.digest(fabricated.SET_ASIDE)[:12],
    }
    return evidence(inputs)[fabricated.SET_ASIDE]


def finished(**facts: Any) -> dict[str, Any]:
    """A request on which all was done; one processor was not told yet."""
    inputs = fabricated.inputs()
    inputs["decisions"] = fabricated.erased()
    about = {"identity": IDENTITY, "ground": GROUND, **facts}
    inputs["decisions"]["registered"] = {fabricated.PASS: about}
    return evidence(inputs)[fabricated.PASS]


def climbed(proposed: str | None) -> dict[str, Any]:
    """A request of a batch of two, of which only the model of one rung passes for both.

    Args:
        proposed: `more`, `retrain`, or None where none does.
    """
    request = fabricated.PASS if proposed == "more" else fabricated.OPEN
    item = evidence()[request]
    beyond = proposed == "more"
    rungs = [
        rung("first", "inconclusive", 1, method="fcalb", cost=0.6),
        rung(
            "more",
            "pass" if beyond else "inconclusive",
            2 if beyond else 1,
            method="fcalb",
            cost=16.6,
            references={"mode": "batch", "added": 16},
        ),
        rung("retrain", "pass", 2 if proposed == "retrain" else 1, method="retrain", cost=0.0),
    ]
    if beyond:
        rungs[-1] |= {"state": "not_needed", "verdict": None, "passed": None, "seconds": None}
    item["ladder"] = {
        "alpha": 0.05,
        "alpha_each": 0.025,
        "shared_over": 2,
        "budget": 20.0,
        "requests": 2,
        "rungs": rungs,
        "proposed": proposed,
        "model": {"more": "unlearned", "retrain": "retrained", None: None}[proposed],
        "stopped": "passed" if proposed else "exhausted",
    }
    item["held_back_by"] = 0
    item["advice"] = [] if beyond else item["advice"]
    return item


def rung(name: str, verdict: str, passed: int, **facts: Any) -> dict[str, Any]:
    """A rung that was tried, as the evidence has it."""
    return {
        "name": name,
        "state": "tried",
        "changes": {},
        "references": None,
        "seconds": 1.0,
        "verdict": verdict,
        "passed": passed,
        **facts,
    }
