"""The standing of a batch, derived from its requests, the decisions and the rules of a release. It
has no state of its own, and does no I/O."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from flows.register.register import Case, Event, State
from tasks.common.errors import AuditError

Original = Literal["unlearned", "retrained"]
"""The kind of the released model: the unlearned one, or the exact retrain."""

Decision = Literal["approve", "reject"]

Next = Literal["more_references", "another_method", "requeue", "refuse"]
"""What happens to rejected requests: they wait for the next batch, which is audited with more
references, by another method or as before; or they are refused for good."""

BatchState = Literal["waiting", "approved", "on_hold", "rejected", "released"]

NOT_IN_TRAINING = "not_in_training"
"""In place of a verdict: no model saw the records, so only the data are erased."""

WAITS = (State.AUDITED, State.AWAITING_SIGNOFF)


class SignoffError(AuditError):
    """A decision is not possible."""


_BLANKS = "\u115f\u1160\u2800\u3164\uffa0"
"""Characters that look like a blank but are letters or symbols in Unicode."""
_SELECTORS = frozenset(
    ["\u034f", "\u17b4", "\u17b5"]
    + [chr(code) for code in (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10))]
    + [chr(code) for code in range(0xE0100, 0xE01F0)]
)
"""Invisible characters that are not in Unicode's category of formatting."""
_LOOKS_LIKE = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0455"
    "\u0456\u0458\u04bb\u0501\u051b\u051d\u03b1\u03b2\u03b5\u03b7\u03b9\u03ba"
    "\u03bc\u03bd\u03bf\u03c1\u03c3\u03c4\u03c5\u03c7\u0131",
    "abekmhopctyxsijhdqwabenikmvopotyxi",
)
"""Cyrillic and Greek letters that look like Latin ones, in lower or upper case."""


@dataclass(frozen=True)
class ReleaseRules:
    """The conditions of a release.

    Attributes:
        approvals: number of different people who must approve.
        audit: commit of the audit that they must have decided on.
        proposed: the kind of the model that passes for every request, from the audit's ladder;
            None: no model passes, or there is no ladder.
    """

    approvals: int
    audit: str
    proposed: Original | None = None


@dataclass(frozen=True)
class Waiting:
    """One request of a batch, with its approvals.

    Attributes:
        request_id: of the request.
        state: as the register shows it.
        verdict: of the audit.
        approvals: number of people who approve.
        lacking: number of missing approvals.
    """

    request_id: str
    state: str
    verdict: str | None
    approvals: int
    lacking: int


@dataclass(frozen=True)
class Choice:
    """A possible decision, with its command."""

    text: str
    command: str


@dataclass(frozen=True)
class Standing:
    """The standing of a batch.

    Attributes:
        batch: its name.
        state: `waiting`, `approved`, `rejected` or `released`; `on_hold` if it is approved and a
            request is on hold.
        requests: of the decision.
        model: the one that everybody who approves wants; None: nobody approves, they differ, or
            there is no request.
        data_only: no model saw anybody of the batch, so none is released.
        unlearned_may_go: whether all passed, so that the unlearned model may be released.
        retrain_proposed: no unlearned model passed for every request, and the exact retrain did.
        disagree: those who approve want different models.
        choices: what can be decided now.
    """

    batch: str
    state: BatchState
    requests: tuple[Waiting, ...]
    model: Original | None
    data_only: bool
    unlearned_may_go: bool
    retrain_proposed: bool
    disagree: bool
    choices: tuple[Choice, ...]

    @property
    def line(self) -> str:
        """The standing as one line."""
        verdicts = [request.verdict or "no verdict" for request in self.requests]
        counted = ", ".join(
            f"{verdicts.count(name)} {name}" for name in dict.fromkeys(sorted(verdicts))
        )
        if self.state == "waiting":
            missing = max((request.lacking for request in self.requests), default=0)
            lack = "1 approval missing" if missing == 1 else f"{missing} approvals missing"
            why = "those who approve want different models" if self.disagree else lack
            return f"Batch {self.batch} awaits sign-off ({counted}): {why}"
        texts = {
            "approved": "is approved and waits for its release",
            "on_hold": "is approved, and a legal hold keeps it back",
            "rejected": "was rejected",
            "released": "is released",
        }
        return f"Batch {self.batch} {texts[self.state]} ({counted})"

    @property
    def choices_text(self) -> str:
        """What can be decided now, as lines of text."""
        return "\n".join(f"  {choice.text}:\n    {choice.command}" for choice in self.choices)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"line": self.line}


def evaluate(
    batch: str, cases: Sequence[Case], decisions: Sequence[Event], rules: ReleaseRules
) -> Standing:
    """The standing of a batch, derived from the register.

    Of each person the last decision on a request counts, if it was taken on this audit. A rejection
    ends the batch.

    Args:
        batch: its name.
        cases: the requests that the decision is about.
        decisions: all decisions on the batch, the oldest first.
        rules: the conditions of a release.
    """
    approvals = [_approvals(case, decisions, rules.audit) for case in cases]
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
    retrain = bool(cases) and not data_only and not passed and rules.proposed == "retrained"
    has_approvals = (
        bool(cases) and not any(request.lacking for request in requests) and len(models) <= 1
    )
    choices = _choices(batch, passed, data_only, retrain)
    state = _state(cases, rejected=last_rejection(decisions) is not None, enough=has_approvals)
    return Standing(
        batch,
        state,
        requests,
        models.pop() if len(models) == 1 else None,
        data_only,
        passed,
        retrain,
        len(models) > 1,
        choices if state in ("waiting", "approved", "on_hold") else (),
    )


def page(standing: Standing) -> str:
    """The standing in Markdown, for Prefect's page."""
    rows = [
        f"| {request.request_id} | {request.verdict or '—'} | {request.state} | {request.lacking} |"
        for request in standing.requests
    ]
    offered = [f"- {choice.text}: `{choice.command}`" for choice in standing.choices]
    how = "Here: deployment **sign-off**, Custom run. On the command line:" if offered else ""
    return "\n".join(
        [
            f"# {standing.line}",
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
    """A key of a person's name. Spellings that differ only in case, spaces, encoding of accents
    (Unicode's NFC and NFD), invisible characters, or similar letters of other scripts have the same
    key."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    visible = "".join(" " if sign in _BLANKS else sign for sign in folded if not _is_unseen(sign))
    return " ".join(visible.translate(_LOOKS_LIKE).split())


def _is_unseen(sign: str) -> bool:
    """Whether a character is invisible: formatting, or a variation selector."""
    return unicodedata.category(sign) in ("Cf", "Co", "Cn") or sign in _SELECTORS


def last_rejection(decisions: Sequence[Event]) -> Event | None:
    """The decision that ended the batch; None: it was not rejected."""
    rejections = [event for event in decisions if event.details["decision"] == "refuse"]
    return rejections[-1] if rejections else None


def _approvals(case: Case, decisions: Sequence[Event], audit: str) -> list[Event]:
    """The approvals of a request: each is its author's last decision."""
    last_words = {
        person(event.actor): event
        for event in decisions
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


def _choices(
    batch: str, may_go: bool, data_only: bool, retrain_proposed: bool
) -> tuple[Choice, ...]:
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
    if retrain_proposed:
        passes = "release the exact retrain, which passes for every request"
        return (Choice(passes, command("approve")), *again, refuse)
    return (*again, retrain, refuse)
