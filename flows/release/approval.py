"""Sign-off: people approve or reject an audited batch; nothing is released before.

Decisions are events of the register; `ledger/decisions/<batch>.json`, which the report quotes, is
made from them. The last decision of each person counts. A rejection ends the batch, and says what
happens to its requests. A batch never changes: another audit is another batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from tasks.requests import decisions, provisions

LEASE = "release"
"""Only one process at a time rejects or releases."""


def approve(
    home: Path,
    register: Register,
    target: str,
    by: str,
    comment: str,
    role: str = "approver",
    model: Original | None = None,
    ground: str = "",
) -> Standing:
    """Approve a batch, or one request of it. A person's approval counts once.

    Args:
        home: the workspace.
        register: its register.
        target: name of a batch, or id of a request that awaits sign-off.
        by: the approver.
        comment: the reason; the report quotes it.
        role: of the approver.
        model: the model to release; None: the one that passes for every request, which is the
            unlearned one or, if the audit's ladder proposes it, the exact retrain.
        ground: the provision that the decision rests on, as Art. 17(1)(b) GDPR; empty: none is
            named.

    Raises:
        SignoffError: the target does not await sign-off, or the model may not be released.
    """
    by, role = _checked_text("by", by, 200), _checked_text("role", role, 200)
    comment = _checked_text("comment", comment, 2000, may_be_empty=True)
    batch, request = _batch_and_request(home, register, target, by)
    provision = _provision(ground, register.cases(batch=batch))
    current = standing(home, register, batch)
    if current.state in ("rejected", "released"):
        raise SignoffError(f"{current.line}; there is nothing to approve")
    chosen_model = _model_to_release(current, batch, model)
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
        **provision,
    )
    return standing(home, register, batch)


def _model_to_release(current: Standing, batch: str, model: Original | None) -> Original | None:
    """The model that an approval chooses; None: the batch erases data only."""
    if current.data_only:
        return None
    if model == "retrained" or current.unlearned_may_go:
        return model or "unlearned"
    if model is None and current.retrain_proposed:
        return "retrained"
    raise SignoffError(
        f"batch {batch}: not every request passed, so the unlearned model cannot be released; "
        f"you can\n{current.choices_text}"
    )


def reject(
    home: Path,
    register: Register,
    target: str,
    by: str,
    comment: str,
    next: Next,
    method: str | None = None,
    role: str = "approver",
    ground: str = "",
) -> Standing:
    """Reject a batch, or one request of it. Both end the batch: its one model forgets all requests
    together.

    With `refuse`, the request, or every request of the batch, is refused for good; all others wait
    for the next batch.

    Args:
        home: the workspace.
        register: its register.
        target: name of a batch, or id of a request that awaits sign-off.
        by: the person who rejects.
        comment: the reason; the report quotes it, and for refused requests the register.
        next: what happens to the requests.
        method: the method, with `another_method`.
        role: of the person.
        ground: the provision that the decision rests on, as Art. 17(3)(e) GDPR; empty: none is
            named.

    Raises:
        SignoffError: the target does not await sign-off, or the next audit is impossible.
        BusyError: a release is running.
    """
    by, role = _checked_text("by", by, 200), _checked_text("role", role, 200)
    comment = _checked_text("comment", comment, 2000)
    batch, request = _batch_and_request(home, register, target, by)
    provision = _provision(ground, register.cases(batch=batch))
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
            **provision,
        )
        carry_out_rejection(register, batch)
    return standing(home, register, batch)


def split_off(home: Path, register: Register, batch: str, by: str, comment: str) -> str:
    """Put the requests of a batch that passed into a batch of their own, which is audited next.

    The batch is rejected, because its one model forgets all its requests together. Requests that
    did not pass wait for a later batch. The audit counts as an earlier one of each request.

    Returns:
        The name of the new batch, which `nightly` audits.

    Raises:
        SignoffError: the batch does not await sign-off, or all or none of its requests passed.
        BusyError: a release is running.
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


def carry_out_rejection(register: Register, batch: str) -> bool:
    """Move the requests of a rejected batch as its rejection says. May be repeated.

    Returns:
        Whether the batch was rejected.
    """
    rejection = last_rejection(register.history(batch=batch, kind="decision"))
    if rejection is None:
        return False
    undecided = [case.request_id for case in register.cases(WAITS, batch=batch)]
    # from `audited` the only way on is `awaiting_signoff`
    register.move(undecided, State.AWAITING_SIGNOFF, rejection.actor)
    next_step = rejection.details["next"]
    refused = [
        request
        for request in undecided
        if next_step == "refuse" and rejection.request_id in (None, request)
    ]
    details: dict[str, Any] = _provision(rejection.details.get("ground", ""))
    details["reason"] = f"refused at sign-off: {rejection.details['comment']}"
    register.move(refused, State.REJECTED, rejection.actor, **details)
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
    """The standing of a batch: approvals, and what can be decided.

    Raises:
        SignoffError: the register has no such batch, or it is not audited yet.
    """
    cases = [case for case in register.cases(batch=batch) if not _is_left_out(case)]
    decision_events = register.history(batch=batch, kind="decision")
    if last_rejection(decision_events) is None:
        # requests that were set aside are in the queue again, and not part of the batch
        cases = [case for case in cases if case.state != State.IDENTITY_VERIFIED]
        _require_audited(batch, cases)
    four_eyes = settings.load(home / "params.yaml").operate.four_eyes
    rules = ReleaseRules(
        2 if four_eyes else 1, audit_commit(home, batch), by_hand.proposed_model(home, batch)
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


def all_decisions(register: Register, batch: str, commit: str) -> list[dict[str, Any]]:
    """All decisions on a batch, in the form of `ledger/decisions/<batch>.json`.

    Each person appears with one spelling of the name.

    Args:
        register: of the workspace.
        batch: its name.
        commit: of its tag; only decisions on this audit count.
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
            **_provision(event.details.get("ground", "")),
        }
        approvals.append(decisions.Approval.model_validate(entry).model_dump(exclude_none=True))
    return approvals


def _comment_with_decision(details: Mapping[str, Any]) -> str:
    """A decision's comment, preceded by the model or the next step that it chose."""
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


def _provision(ground: str, cases: Iterable[Case] = ()) -> dict[str, str]:
    """The provision that a decision rests on, as its event has it; empty where none is named. A
    decision is on every request of its batch, so it names the law of each."""
    text = _checked_text("ground", ground, 200, may_be_empty=True)
    for case in cases:
        provisions.check(text, case.regulation, case.request_id)
    return {"ground": text} if text else {}


def _is_left_out(case: Case) -> bool:
    """Whether a request was set aside or refused, so it is not part of the release."""
    return case.state == State.REJECTED or (case.state == State.CLOSED and case.verdict is None)


def _checked_text(name: str, text: str, limit: int, may_be_empty: bool = False) -> str:
    """A person's text, trimmed. Raises `SignoffError` if it is not printable or too long."""
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
    """The batch of a target, and the request if the target is a single one."""
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
