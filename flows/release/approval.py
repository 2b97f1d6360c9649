"""Sign-off: people approve or reject what a batch's audit found; nothing is released before.

Decisions are events of the register, which is the truth; `ledger/decisions/<batch>.json`, which the
report quotes, is made from them. Of each person the last decision stands. A rejection ends the
batch: what becomes of its requests is part of the decision. A batch never changes, so whoever wants
another audit gets another batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.pipeline.console import counted
from flows.register.register import Case, Register, State, UnknownRequestError
from flows.release import by_hand, next_audit
from flows.release.by_hand import audit_commit
from flows.release.standing import (
    NOT_IN_TRAINING,
    WAITS,
    Next,
    Original,
    ReleaseRules,
    SignoffError,
    Standing,
    evaluate,
    last_rejection,
    person,
)
from tasks.common import settings
from tasks.requests import decisions

LEASE = "release"
"""What decides and releases is done one after the other."""


def approve(
    home: Path,
    register: Register,
    target: str,
    by: str,
    comment: str,
    role: str = "approver",
    model: Original | None = None,
) -> Standing:
    """Approve a batch, or one request of it. The same person's approval counts once.

    Args:
        home: the workspace.
        register: its register.
        target: name of a batch, or id of a request that waits for its sign-off.
        by: who approves.
        comment: why; free text, which gets into the report.
        role: as which he does.
        model: the model to release; None: the one that passes for every request, the unlearned one
            or, where the audit's ladder proposes it, the exact retrain.

    Raises:
        SignoffError: nothing waits there, or the model may not be released.
    """
    by, comment, role = (
        _checked_text("by", by, 200),
        _checked_text("comment", comment, 2000, may_be_empty=True),
        _checked_text("role", role, 200),
    )
    batch, request = _batch_and_request(home, register, target, by)
    current = standing(home, register, batch)
    if current.state in ("rejected", "released"):
        raise SignoffError(f"{current.line}; there is nothing to approve")
    if current.data_only:
        chosen_model = None
    elif model == "retrained" or current.unlearned_may_go:
        chosen_model = model or "unlearned"
    elif model is None and current.retrain_proposed:
        chosen_model = "retrained"
    else:
        raise SignoffError(
            f"batch {batch}: not every request passed, so the unlearned model cannot be released; "
            f"you can\n" + current.offered
        )
    if chosen_model == "retrained":
        next_audit.refuse_without_retrain(home, batch)
    register.note(
        "decision",
        by,
        request_id=request,
        batch=batch,
        decision="approve",
        role=role,
        comment=comment,
        model=chosen_model,
        audit=audit_commit(home, batch),
    )
    return standing(home, register, batch)


def reject(
    home: Path,
    register: Register,
    target: str,
    by: str,
    comment: str,
    next: Next,
    method: str | None = None,
    role: str = "approver",
) -> Standing:
    """Reject a batch, or one request of it; either ends the batch, whose model forgets all of them
    together.

    With `refuse` the request, or every one of the batch, is refused for good; all others wait for
    the next batch.

    Args:
        home: the workspace.
        register: its register.
        target: name of a batch, or id of a request that waits for its sign-off.
        by: who rejects.
        comment: why; free text, which gets into the report and, for those refused, into the
            register as the reason.
        next: what becomes of the requests.
        method: with `another_method`, which.
        role: as which he does.

    Raises:
        SignoffError: nothing waits there, or the next audit cannot be as asked for.
        BusyError: a release is at work.
    """
    by, comment, role = (
        _checked_text("by", by, 200),
        _checked_text("comment", comment, 2000),
        _checked_text("role", role, 200),
    )
    batch, request = _batch_and_request(home, register, target, by)
    with register.lease(LEASE):
        current = standing(home, register, batch)
        if current.state in ("rejected", "released"):
            raise SignoffError(f"{current.line}; there is nothing to reject")
        next_audit_settings = next_audit.next_settings(home, batch, next, method)
        register.note(
            "decision",
            by,
            request_id=request,
            batch=batch,
            decision="refuse",
            role=role,
            comment=comment,
            next=next,
            settings=next_audit_settings,
            audit=audit_commit(home, batch),
        )
        settle(register, batch)
    return standing(home, register, batch)


def split_off(home: Path, register: Register, batch: str, by: str, comment: str) -> str:
    """Put the requests of a batch that passed into a batch of their own, which is audited next.

    The batch is rejected, because its one model forgets all of its requests together; those that
    did not pass wait for a later batch. The audit so far counts as an earlier one of each request.

    Returns:
        The name of the new batch, which `nightly` audits.

    Raises:
        SignoffError: nothing waits there, or it is not so that some passed and others did not.
        BusyError: a release is at work.
    """
    batch = batch.removeprefix("audit/")
    current = standing(home, register, batch)
    passed = [request.request_id for request in current.requests if request.verdict == "pass"]
    in_training = [request for request in current.requests if request.verdict != NOT_IN_TRAINING]
    if not passed or len(passed) == len(in_training):
        raise SignoffError(
            f"batch {batch}: {len(passed)} of {len(in_training)} requests passed; expected some "
            "that passed and some that did not"
        )
    count = f"{len(passed)} of {len(in_training)}"
    reason = f"{count} requests passed and get a batch of their own. {comment}"
    reject(home, register, batch, by, reason.strip(), "requeue")
    name = f"{batch}-passed"
    register.move(passed, State.BATCHED, _checked_text("by", by, 200), batch=name)
    return name


def settle(register: Register, batch: str) -> bool:
    """Do what the rejection of a batch says with its requests; what was done before is left alone.

    Returns:
        Whether the batch was rejected.
    """
    rejection = last_rejection(register.history(batch=batch, kind="decision"))
    if rejection is None:
        return False
    undecided = [case.request_id for case in register.cases(WAITS, batch=batch)]
    # a request that was judged but not yet put before anybody moves on first: that is the one way
    # out of `audited`
    register.move(undecided, State.AWAITING_SIGNOFF, rejection.actor)
    next_step = rejection.details["next"]
    refused = [
        request
        for request in undecided
        if next_step == "refuse" and rejection.request_id in (None, request)
    ]
    register.move(
        refused,
        State.REJECTED,
        rejection.actor,
        reason=f"refused at sign-off: {rejection.details['comment']}",
    )
    requeued = [request for request in undecided if request not in refused]
    register.move(
        requeued,
        State.IDENTITY_VERIFIED,
        rejection.actor,
        reason=f"batch {batch} was rejected",
        then=next_step,
    )
    return True


def standing(home: Path, register: Register, batch: str) -> Standing:
    """Where a batch stands: who approved what, and what can be decided.

    Raises:
        SignoffError: the register has no such batch, or it is not audited yet.
    """
    cases = [case for case in register.cases(batch=batch) if not _is_left_out(case)]
    decision_events = register.history(batch=batch, kind="decision")
    if last_rejection(decision_events) is None:
        # what was set aside is in the queue again, and no part of the batch
        cases = [case for case in cases if case.state != State.IDENTITY_VERIFIED]
        _require_audited(batch, cases)
    four_eyes = settings.load(home / "params.yaml").operate.four_eyes
    rules = ReleaseRules(
        2 if four_eyes else 1, audit_commit(home, batch), by_hand.proposed(home, batch)
    )
    return evaluate(batch, cases, decision_events, rules)


def _require_audited(batch: str, cases: Sequence[Case]) -> None:
    if not cases:
        raise SignoffError(
            f"the register has no request in a batch {batch} that waits for its sign-off; see "
            "`erasure-audit status`"
        )
    unready = [case for case in cases if case.state in (State.BATCHED, State.AUDITED)]
    if unready:
        raise SignoffError(
            f"batch {batch} is not audited yet ({counted(len(unready), 'request')}); wait for its "
            "audit"
        )


def decided(register: Register, batch: str, commit: str) -> list[dict[str, Any]]:
    """Everything that was decided on a batch, as `ledger/decisions/<batch>.json` lists approvals.

    One spelling of a name stands for all of the same person's.

    Args:
        register: of the workspace.
        batch: its name.
        commit: of its tag; a decision counts for what its author saw.
    """
    spelling: dict[str, str] = {}
    approvals = []
    for event in register.history(batch=batch, kind="decision"):
        if event.details.get("audit") != commit:
            continue
        entry = {
            "at": event.at,
            "by": spelling.setdefault(person(event.actor), event.actor),
            "role": event.details["role"],
            "decision": event.details["decision"],
            "comment": _comment_with_decision(event.details),
            **({"request": event.request_id} if event.request_id else {}),
        }
        approvals.append(decisions.Approval.model_validate(entry).model_dump(exclude_none=True))
    return approvals


def _comment_with_decision(details: Mapping[str, Any]) -> str:
    """A decision's comment with what the decision says beyond yes and no."""
    outcome = ""
    if details.get("model") == "retrained":
        outcome = "The exact retrain is released instead of the unlearned model."
    elif details["decision"] == "refuse":
        outcome = {
            "more_references": "The requests are audited again with more references.",
            "another_method": "The requests are audited again by another method.",
            "requeue": "The requests are audited again with the next batch.",
            "refuse": "Refused for good.",
        }[str(details["next"])]
    return f"{outcome} {details['comment']}".strip()[:2000]


def _is_left_out(case: Case) -> bool:
    """A request that was set aside, or refused, is not part of what is released."""
    return case.state == State.REJECTED or (case.state == State.CLOSED and case.verdict is None)


def _checked_text(name: str, text: str, limit: int, may_be_empty: bool = False) -> str:
    """Free text of a person: trimmed, printable, of a length that the register and the report
    take."""
    trimmed = text.strip()
    if (
        (not trimmed and not may_be_empty)
        or len(trimmed) > limit
        or any(not (letter.isprintable() or letter in "\n\t") for letter in trimmed)
    ):
        raise SignoffError(
            f"{name}: expected {0 if may_be_empty else 1} to {limit} printable characters"
        )
    return trimmed


def _batch_and_request(
    home: Path, register: Register, name: str, by: str
) -> tuple[str, str | None]:
    """The batch that a person means, and the request if he means a single one."""
    name = name.removeprefix("audit/")
    try:
        case = register.case(name.lower())
    except UnknownRequestError:
        by_hand.adopt(home, register, name, by)
        return name, None
    if case.batch is None or case.state not in WAITS:
        raise SignoffError(
            f"request {case.request_id} is {case.shown}; expected one that awaits its sign-off"
        )
    return case.batch, case.request_id
