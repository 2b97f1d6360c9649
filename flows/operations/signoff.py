"""Sign-off: people approve or reject what a batch's audit found; nothing is released before.

Decisions are events of the register, which is the truth; `ledger/decisions/<batch>.json`, which the
report quotes, is made from them. Of each person the last decision stands. A rejection ends the
batch: what becomes of its requests is part of the decision. A batch never changes, so whoever wants
another audit gets another batch.
"""

from __future__ import annotations

import json
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from flows.pipeline import close_batch
from flows.pipeline.console import counted
from flows.register.register import Case, Event, Register, State, UnknownRequestError
from flows.workspace import git, shell
from tasks.common import settings
from tasks.common.errors import AuditError
from tasks.requests import decisions

Original = Literal["unlearned", "retrained"]
"""The model that is released: the one that was made to forget, or the exact retrain."""
Decision = Literal["approve", "reject"]
Next = Literal["more_references", "another_method", "requeue", "refuse"]
"""What becomes of rejected requests: they wait for the next batch, audited with more references, by
another method or as before; or they are refused for good."""

BatchState = Literal["waiting", "approved", "on_hold", "rejected", "released"]

NOT_IN_TRAINING = "not_in_training"
"""Instead of a verdict: no model saw the records, so that only the data have to go."""
BY_HAND = "run by hand"
"""Source of requests that were audited by `erasure-audit run` before the register knew of them."""
WAITS = (State.AUDITED, State.AWAITING_SIGNOFF)
LEASE = "release"
"""What decides and releases is done one after the other."""


class SignoffError(AuditError):
    """A decision cannot be taken as asked."""


@dataclass(frozen=True)
class ReleaseRules:
    """What a release needs.

    Attributes:
        approvals: of how many different people.
        audit: commit of the audit that they have to have seen.
    """

    approvals: int
    audit: str


@dataclass(frozen=True)
class Waiting:
    """One request of a batch, and what people said of it.

    Attributes:
        request_id: which.
        state: as the register shows it.
        verdict: of the audit.
        approvals: different people who approve.
        lacking: approvals that are missing.
    """

    request_id: str
    state: str
    verdict: str | None
    approvals: int
    lacking: int


@dataclass(frozen=True)
class Choice:
    """Something that can be decided, and the command that decides it."""

    text: str
    command: str


@dataclass(frozen=True)
class Standing:
    """Where a batch stands.

    Attributes:
        batch: its name.
        state: `waiting`, `approved`, `rejected` or `released`; `on_hold` where a hold keeps an
            approved one back.
        requests: those that the decision is about.
        model: the one that everybody who approves wants; None: nobody approves, they differ, or
            there is none.
        data_only: no model saw anybody of the batch, so none is released.
        unlearned_may_go: whether all passed, so that the unlearned model may be released.
        disagree: those who approve want different models.
        choices: what can be decided now.
    """

    batch: str
    state: BatchState
    requests: tuple[Waiting, ...]
    model: Original | None
    data_only: bool
    unlearned_may_go: bool
    disagree: bool
    choices: tuple[Choice, ...]

    @property
    def line(self) -> str:
        """The standing as one line."""
        verdicts = [one.verdict or "no verdict" for one in self.requests]
        counted = ", ".join(
            f"{verdicts.count(name)} {name}" for name in dict.fromkeys(sorted(verdicts))
        )
        if self.state == "waiting":
            most = max((one.lacking for one in self.requests), default=0)
            lack = "1 approval missing" if most == 1 else f"{most} approvals missing"
            why = "those who approve want different models" if self.disagree else lack
            return f"Batch {self.batch} awaits sign-off ({counted}): {why}"
        told = {
            "approved": "is approved and waits for its release",
            "on_hold": "is approved, and a legal hold keeps it back",
            "rejected": "was rejected",
            "released": "is released",
        }
        return f"Batch {self.batch} {told[self.state]} ({counted})"

    @property
    def offered(self) -> str:
        """What can be decided now, as lines of text."""
        return "\n".join(f"  {choice.text}:\n    {choice.command}" for choice in self.choices)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"line": self.line}


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
        model: the model to release; None: the unlearned one.

    Raises:
        SignoffError: nothing waits there, or the model may not be released.
    """
    by, comment, role = (
        _words("by", by, 200),
        _words("comment", comment, 2000, empty=True),
        _words("role", role, 200),
    )
    batch, request = _target(home, register, target, by)
    before = standing(home, register, batch)
    if before.state in ("rejected", "released"):
        raise SignoffError(f"{before.line}; there is nothing to approve")
    if before.data_only:
        wanted = None
    elif model == "retrained" or before.unlearned_may_go:
        wanted = model or "unlearned"
    else:
        raise SignoffError(
            f"batch {batch}: not every request passed, so the unlearned model cannot be released; "
            f"you can\n" + before.offered
        )
    if wanted == "retrained":
        _refuse_without_retrain(home, batch)
    register.note(
        "decision",
        by,
        request_id=request,
        batch=batch,
        decision="approve",
        role=role,
        comment=comment,
        model=wanted,
        audit=_commit(home, batch),
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
        _words("by", by, 200),
        _words("comment", comment, 2000),
        _words("role", role, 200),
    )
    batch, request = _target(home, register, target, by)
    with register.lease(LEASE):
        before = standing(home, register, batch)
        if before.state in ("rejected", "released"):
            raise SignoffError(f"{before.line}; there is nothing to reject")
        wanted = _next_settings(home, batch, next, method)
        register.note(
            "decision",
            by,
            request_id=request,
            batch=batch,
            decision="refuse",
            role=role,
            comment=comment,
            next=next,
            settings=wanted,
            audit=_commit(home, batch),
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
    before = standing(home, register, batch)
    passed = [one.request_id for one in before.requests if one.verdict == "pass"]
    judged = [one for one in before.requests if one.verdict != NOT_IN_TRAINING]
    if not passed or len(passed) == len(judged):
        raise SignoffError(
            f"batch {batch}: {len(passed)} of {len(judged)} requests passed; expected some that "
            "passed beside some that did not"
        )
    told = f"{len(passed)} of {len(judged)} requests passed and get a batch of their own. {comment}"
    reject(home, register, batch, by, told.strip(), "requeue")
    name = f"{batch}-passed"
    register.move(passed, State.BATCHED, _words("by", by, 200), batch=name)
    return name


def settle(register: Register, batch: str) -> bool:
    """Do what the rejection of a batch says with its requests; what was done before is left alone.

    Returns:
        Whether the batch was rejected.
    """
    last = _last_rejection(register.history(batch=batch, kind="decision"))
    if last is None:
        return False
    waiting = [case.request_id for case in register.cases(WAITS, batch=batch)]
    # a request that was judged but not yet put before anybody moves on first: that is the one way
    # out of `audited`
    register.move(waiting, State.AWAITING_SIGNOFF, last.actor)
    then = last.details["next"]
    refused = [one for one in waiting if then == "refuse" and last.request_id in (None, one)]
    register.move(
        refused,
        State.REJECTED,
        last.actor,
        reason=f"refused at sign-off: {last.details['comment']}",
    )
    back = [one for one in waiting if one not in refused]
    register.move(
        back, State.IDENTITY_VERIFIED, last.actor, reason=f"batch {batch} was rejected", then=then
    )
    return True


def standing(home: Path, register: Register, batch: str) -> Standing:
    """Where a batch stands: who approved what, and what can be decided.

    Raises:
        SignoffError: the register has no such batch, or it is not audited yet.
    """
    cases = [case for case in register.cases(batch=batch) if not _left_out(case)]
    noted = register.history(batch=batch, kind="decision")
    if _last_rejection(noted) is None:
        # what was set aside is in the queue again, and no part of the batch
        cases = [case for case in cases if case.state != State.IDENTITY_VERIFIED]
        _require_audited(batch, cases)
    four_eyes = settings.load(home / "params.yaml").operate.four_eyes
    return evaluate(batch, cases, noted, ReleaseRules(2 if four_eyes else 1, _commit(home, batch)))


def evaluate(
    batch: str, cases: Sequence[Case], noted: Sequence[Event], rules: ReleaseRules
) -> Standing:
    """Where a batch stands, as it follows from what is in the register.

    Of each person the last decision on a request counts, if it was taken on this audit. A rejection
    ends the batch.

    Args:
        batch: its name.
        cases: the requests that the decision is about.
        noted: all decisions on the batch, the oldest first.
        rules: what a release needs.
    """
    approvals = [_approvals(case, noted, rules.audit) for case in cases]
    requests = tuple(
        Waiting(
            case.request_id,
            case.shown,
            case.verdict,
            len(events),
            max(rules.approvals - len(events), 0),
        )
        for case, events in zip(cases, approvals, strict=True)
    )
    models = {event.details["model"] for events in approvals for event in events}
    data_only = bool(cases) and all(case.verdict == NOT_IN_TRAINING for case in cases)
    passed = bool(cases) and not data_only
    passed = passed and all(case.verdict in ("pass", NOT_IN_TRAINING) for case in cases)
    enough = bool(cases) and not any(each.lacking for each in requests) and len(models) <= 1
    state = _state(cases, rejected=_last_rejection(noted) is not None, enough=enough)
    return Standing(
        batch,
        state,
        requests,
        models.pop() if len(models) == 1 else None,
        data_only,
        passed,
        len(models) > 1,
        _choices(batch, passed, data_only) if state in ("waiting", "approved", "on_hold") else (),
    )


def _approvals(case: Case, noted: Sequence[Event], audit: str) -> list[Event]:
    """The approvals of a request, one for each person whose last word it is."""
    last_words = {
        person(event.actor): event
        for event in noted
        if event.details.get("audit") == audit and event.request_id in (None, case.request_id)
    }
    return [event for event in last_words.values() if event.details["decision"] == "approve"]


def _state(cases: Sequence[Case], *, rejected: bool, enough: bool) -> BatchState:
    if rejected:
        return "rejected"
    if cases and all(case.state not in WAITS for case in cases):
        return "released"
    if not enough:
        return "waiting"
    return "on_hold" if any(case.held for case in cases) else "approved"


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


def wishes(register: Register) -> dict[str, Any]:
    """Settings that the next batch is to be audited with, because the one before it was rejected
    for them.

    They hold until a batch is audited with them.
    """
    return _wished(register.history())


def wishes_of(register: Register, batch: str) -> dict[str, Any]:
    """The settings that a batch was audited with because the one before it was rejected for
    them."""
    events = register.history()
    first = next(
        (place for place, event in enumerate(events) if _is_audit(event) and event.batch == batch),
        None,
    )
    return _wished(events[:first]) if first is not None else {}


def decided(register: Register, batch: str, commit: str) -> list[dict[str, Any]]:
    """Everything that was decided on a batch, as `ledger/decisions/<batch>.json` lists approvals.

    One spelling of a name stands for all of the same person's.

    Args:
        register: of the workspace.
        batch: its name.
        commit: of its tag; a decision counts for what its author saw.
    """
    spelling: dict[str, str] = {}
    found = []
    for event in register.history(batch=batch, kind="decision"):
        if event.details.get("audit") != commit:
            continue
        entry = {
            "at": event.at,
            "by": spelling.setdefault(person(event.actor), event.actor),
            "role": event.details["role"],
            "decision": event.details["decision"],
            "comment": _told(event.details),
            **({"request": event.request_id} if event.request_id else {}),
        }
        found.append(decisions.Approval.model_validate(entry).model_dump(exclude_none=True))
    return found


def page(found: Standing) -> str:
    """The standing in Markdown, for Prefect's page."""
    rows = [
        f"| {one.request_id} | {one.verdict or '—'} | {one.state} | {one.lacking} |"
        for one in found.requests
    ]
    offered = [f"- {choice.text}: `{choice.command}`" for choice in found.choices]
    how = "Here: deployment **sign-off**, Custom run. On the command line:" if offered else ""
    return "\n".join(
        [
            f"# {found.line}",
            "",
            "| request | verdict | state | approvals missing |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            how,
            "",
            *offered,
        ]
    )


def person(name: str) -> str:
    """What is the same for two spellings of one name: neither capitals, spaces nor the way in which
    accents are encoded (Unicode's NFC and NFD) make another person."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(folded.split())


def _told(details: Mapping[str, Any]) -> str:
    """A decision's comment with what the decision says beyond yes and no."""
    said = ""
    if details.get("model") == "retrained":
        said = "The exact retrain is released instead of the unlearned model."
    elif details["decision"] == "refuse":
        said = {
            "more_references": "The requests are audited again with more references.",
            "another_method": "The requests are audited again by another method.",
            "requeue": "The requests are audited again with the next batch.",
            "refuse": "Refused for good.",
        }[str(details["next"])]
    return f"{said} {details['comment']}".strip()[:2000]


def _last_rejection(noted: Sequence[Event]) -> Event | None:
    rejections = [event for event in noted if event.details["decision"] == "refuse"]
    return rejections[-1] if rejections else None


def _left_out(case: Case) -> bool:
    """A request that was set aside, or refused, is not part of what is released."""
    return case.state == State.REJECTED or (case.state == State.CLOSED and case.verdict is None)


def _is_audit(event: Event) -> bool:
    return event.kind == State.AUDITED


def _wished(events: Sequence[Event]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for event in events:
        if event.kind == "decision" and event.details["decision"] == "refuse":
            found = dict(event.details.get("settings") or {})
        elif _is_audit(event):
            found = {}
    return found


def _choices(batch: str, may_go: bool, data_only: bool) -> tuple[Choice, ...]:
    def command(word: str, *options: str) -> str:
        return " ".join(
            ["erasure-audit", word, shlex.quote(batch), *options, '--by "NAME"', '--comment "WHY"']
        )

    again = (
        Choice("audit again with more references", command("reject", "--next more_references")),
        Choice(
            "audit again by another method",
            command("reject", "--next another_method", "--method retrain"),
        ),
    )
    refuse = Choice("refuse the requests for good", command("reject", "--next refuse"))
    if data_only:
        return (
            Choice("approve; only data have to go, no model saw them", command("approve")),
            refuse,
        )
    retrain = Choice(
        "release the exact retrain, which is trained already",
        command("approve", "--model retrained"),
    )
    if may_go:
        return (Choice("release the unlearned model", command("approve")), retrain, *again, refuse)
    return (*again, retrain, refuse)


def _next_settings(home: Path, batch: str, then: Next, method: str | None) -> dict[str, Any]:
    """The settings of the next audit that differ from those of this one.

    Raises:
        SignoffError: there are none such.
    """
    if (method is not None) != (then == "another_method"):
        raise SignoffError("a method is named with --next another_method, and only there")
    if then == "another_method":
        known = [name for name in get_args(settings.Method) if name != "none"]
        now = _settings(home, batch).unlearn.method
        if method not in known or method == now:
            others = ", ".join(name for name in known if name != now)
            raise SignoffError(
                f"this batch was unlearned by {now}; expected one of {others} as another method"
            )
        return {"unlearn.method": method}
    if then != "more_references":
        return {}
    now_set = _settings(home, batch)
    if now_set.verify.mode == "screening":
        raise SignoffError(
            "the batch was only screened, for which no references are used; set "
            "verify.mode=references and "
            "references.* in params.yaml, commit, and reject with --next requeue"
        )
    more = len(now_set.references.without_blocks) + 1
    # references that an earlier batch left cannot be added to, so a larger set of them is trained
    # anew
    return {
        **({"references.mode": "batch"} if now_set.references.mode != "batch" else {}),
        "references.with_from": settings.TRAINED,
        "references.with_blocks": list(range(more)),
        "references.without_blocks": list(range(more)),
    }


def _refuse_without_retrain(home: Path, batch: str) -> None:
    if not _settings(home, batch).references.without_blocks:
        raise SignoffError(
            f"batch {batch} was only screened, so nothing was retrained; reject it with --next "
            "another_method "
            "--method retrain"
        )


def _settings(home: Path, batch: str) -> settings.Settings:
    """The settings that a batch was audited with."""
    from ruamel.yaml import YAML

    text = shell.git(home, "show", f"{close_batch.tag_of(batch)}:./params.yaml")
    return settings.parse(
        YAML(typ="safe").load(text), where=f"params.yaml of {close_batch.tag_of(batch)}"
    )


def _commit(home: Path, batch: str) -> str:
    """The commit of a batch's audit: what whoever decides has seen."""
    tag = close_batch.tag_of(batch)
    commit = git.commit_of(home, f"refs/tags/{tag}")
    if commit is None:
        raise SignoffError(
            f"there is no tag {tag}; a batch that is not audited cannot be decided on"
        )
    return commit


def _words(name: str, text: str, most: int, empty: bool = False) -> str:
    """Free text of a person: trimmed, printable, of a length that the register and the report
    take."""
    found = text.strip()
    if (
        (not found and not empty)
        or len(found) > most
        or any(not (c.isprintable() or c in "\n\t") for c in found)
    ):
        raise SignoffError(f"{name}: expected {0 if empty else 1} to {most} printable characters")
    return found


def _target(home: Path, register: Register, name: str, by: str) -> tuple[str, str | None]:
    """The batch that a person means, and the request if he means a single one."""
    name = name.removeprefix("audit/")
    try:
        case = register.case(name.lower())
    except UnknownRequestError:
        _adopt(home, register, name, by)
        return name, None
    if case.batch is None or case.state not in WAITS:
        raise SignoffError(
            f"request {case.request_id} is {case.shown}; expected one that awaits its sign-off"
        )
    return case.batch, case.request_id


def _adopt(home: Path, register: Register, batch: str, by: str) -> None:
    """Take the requests of a batch that was run by hand into the register; who decides on it
    answers for them.

    Those that are in the register already, or that a nightly batch is working on, are left to it.

    Raises:
        SignoffError: another batch is in flight.
    """
    if any(
        case.source != BY_HAND or case.state not in (State.BATCHED, State.AUDITED)
        for case in register.cases(batch=batch)
    ):
        return
    flying = register.in_flight()
    if flying not in (None, batch):
        raise SignoffError(
            f"batch {flying} is in flight; decide on it and finalize it before {batch}"
        )
    _commit(home, batch)
    evidence = _evidence(home, close_batch.tag_of(batch), batch)
    ids = _receive_by_hand(home, register, batch, by, set(evidence))
    _judge_by_hand(register, batch, by, {request: evidence[request] for request in ids})


def _receive_by_hand(
    home: Path, register: Register, batch: str, by: str, judged: set[str]
) -> list[str]:
    """Take the requests of a batch's file into the register. What is malformed, or named twice, was
    set aside by its position, and is no request of its own."""
    from flows.intake import pseudonymise

    text = shell.git(home, "show", f"{close_batch.tag_of(batch)}:./requests/{batch}.json")
    ids: list[str] = []
    for value in json.loads(text):
        named = str(value.get("subject_request_id", "")).lower() if isinstance(value, dict) else ""
        if named not in judged or named in ids:
            continue
        case, _ = register.receive(pseudonymise.take_in(home, value), by, BY_HAND)
        ids.append(case.request_id)
        if case.state == State.RECEIVED:
            register.verify_identity(case.request_id, by, BY_HAND)
    return ids


def _judge_by_hand(
    register: Register, batch: str, by: str, evidence: Mapping[str, Mapping[str, Any]]
) -> None:
    """Bring requests to their sign-off, and set aside those that the audit set aside."""

    def now(*states: State) -> list[str]:
        return [request for request in evidence if register.case(request).state in states]

    register.move(now(State.IDENTITY_VERIFIED), State.BATCHED, by, batch=batch)
    for request in now(State.BATCHED, State.AUDITED):
        code = evidence[request]["request"].get("code")
        if evidence[request]["status"] == "rejected" and code != NOT_IN_TRAINING:
            register.move([request], State.REJECTED, by, reason=str(code))
    verdicts = {request: _verdict(evidence[request]) for request in now(State.BATCHED)}
    register.move(list(verdicts), State.AUDITED, by, verdicts=verdicts, how=BY_HAND)
    register.move(now(State.AUDITED), State.AWAITING_SIGNOFF, by, how=BY_HAND)


def _verdict(evidence: Mapping[str, Any]) -> str:
    return NOT_IN_TRAINING if evidence["status"] == "rejected" else str(evidence["verdict"])


def _evidence(home: Path, tag: str, batch: str) -> dict[str, dict[str, Any]]:
    """The evidence of every request of a batch, as its tag holds it."""
    listed = shell.git(
        home, "ls-tree", "-r", "--name-only", tag, "--", f"reports/{batch}/"
    ).splitlines()
    found = [
        json.loads(shell.git(home, "show", f"{tag}:./{path}"))
        for path in listed
        if path.endswith("/evidence.json")
    ]
    return {str(one["request"]["id"]): one for one in found}
