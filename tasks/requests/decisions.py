"""People's decisions and actions on a batch: `ledger/decisions/<batch>.json`, which the stage
`report` reads.

The audit writes it empty, beside the batch's record, and never reads it for a verdict. It has four
lists: approvals, erasures of copies with their receipts, notices to recipients of the data, and
claimed exceptions. An entry is about one request, or about the whole batch if it names none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.common.errors import EvidenceError

FOLDER = Path("ledger/decisions")
EMPTY: dict[str, list[Any]] = {"approvals": [], "erasure": [], "exceptions": [], "notices": []}


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("expected a time stamp with its zone, like 2026-11-21T01:02:03Z")
    return text


def _day(text: str) -> str:
    return date.fromisoformat(text).isoformat()


Moment = Annotated[str, AfterValidator(_moment), Field(description="RFC 3339")]
Day = Annotated[str, AfterValidator(_day), Field(description="ISO date")]
Words = Annotated[str, Field(min_length=1, max_length=2000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Entry(_Strict):
    """The fields of every entry: by whom, and when."""

    at: Moment
    by: Words = Field(description="who answers for it")
    request: str | None = Field(
        None, description="the id of one request; null: every request of the batch"
    )


class Approval(Entry):
    """A person's decision on the release of the model and the completion of the request."""

    role: Words = Field(description="as which the person decides")
    decision: Literal["approve", "refuse"]
    comment: str = Field("", max_length=2000)
    ground: str | None = Field(
        None, max_length=200, description="the provision that the decision rests on"
    )


class Erasure(Entry):
    """A copy that was erased, that will be gone on a known day, or that stays. Hashing or masking
    is no erasure."""

    store: Words = Field(description="key of the store, as part 7 of the report lists it")
    state: Literal["erased", "expires", "held"]
    expires_on: Day | None = None
    receipt: Words = Field(
        description="what shows it: a hash, a ticket, a log's line; no personal data"
    )

    @model_validator(mode="after")
    def _says_when_it_expires(self) -> Erasure:
        if (self.state == "expires") != (self.expires_on is not None):
            raise ValueError(
                "expires_on: expected a date where the state is expires, and only there"
            )
        return self


class Notice(Entry):
    """A recipient or a processor was told of the erasure (Art. 19 GDPR)."""

    to: Words = Field(description="name of the recipient or processor, as in the settings")
    comment: str = Field("", max_length=2000)


class Claim(Entry):
    """An exception that is claimed against the erasure, as a legal hold (Art. 17(3) GDPR)."""

    ground: Words = Field(description="the provision")
    reason: Words


class _Recorded(_Strict):
    at: Moment
    by: Words


class RecordedIdentityCheck(_Recorded):
    """How the identity behind a request was checked, as the register has it; never whose."""

    how: Words


class RecordedExtension(_Recorded):
    """A deadline that was extended, as the register has it."""

    reason: Words
    to: Day = Field(description="the new last day")


class RecordedRefusal(_Recorded):
    """A request that people refused for good, as the register has it."""

    reason: Words
    ground: str | None = Field(
        None, max_length=200, description="the provision that the refusal rests on"
    )


class RecordedLetter(_Recorded):
    """A letter to the data subject that was sent, as the register has it."""

    how: Words = Field(description="by which way it was sent; no address and no name")
    kind: Literal["answer", "extension", "refusal"]


class Registered(_Strict):
    """Facts of one request from the register of requests, for its report."""

    identity: RecordedIdentityCheck | None = None
    extension: RecordedExtension | None = None
    ground: str | None = Field(
        None, max_length=200, description="why the data subject asks, as Art. 17(1)(b) GDPR"
    )
    refusal: RecordedRefusal | None = None
    letters: list[RecordedLetter] = []


class Decisions(_Strict):
    """All decisions about one batch."""

    released: Literal["unlearned", "retrained"] | None = Field(
        None, description="the model that is released; null: none is, or nothing is decided yet"
    )
    registered: dict[str, Registered] = Field({}, description="by the id of the request")
    approvals: list[Approval] = []
    erasure: list[Erasure] = []
    notices: list[Notice] = []
    exceptions: list[Claim] = []

    def of(self, request_id: str) -> Decisions:
        """The decisions about one request, each list sorted by time."""
        return Decisions(
            released=self.released,
            registered={
                name: facts for name, facts in self.registered.items() if name == request_id
            },
            approvals=_own(self.approvals, request_id),
            erasure=_own(self.erasure, request_id),
            notices=_own(self.notices, request_id),
            exceptions=_own(self.exceptions, request_id),
        )


def parse(
    values: Mapping[str, Any], request_ids: Sequence[str], where: str = "decisions"
) -> Decisions:
    """The decisions of a batch.

    Args:
        values: what the file holds.
        request_ids: the ids of the batch's requests.
        where: the file's name, for the message.

    Raises:
        EvidenceError: an entry lacks something, has an unknown key, or names a request that is not
            of the batch.
    """
    try:
        decisions = Decisions.model_validate(values)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:3]
        ]
        raise EvidenceError(
            f"{where}: {'; '.join(faults)}. docs/concepts.md says what the file holds"
        ) from None
    entries: list[Entry] = [
        *decisions.approvals,
        *decisions.erasure,
        *decisions.notices,
        *decisions.exceptions,
    ]
    for entry in entries:
        if entry.request is not None and entry.request not in request_ids:
            raise EvidenceError(
                f"{where}: an entry of {entry.at} names a request that is not of this batch"
            )
    return decisions


def progress(
    status: str, approvals: Sequence[Approval], copies: Sequence[Mapping[str, Any]]
) -> str:
    """How far a request is: `set_aside`, `awaiting_signoff`, `refused`, `released` or `erased`.

    Each person's last decision counts; one refusal refuses the request. A request is erased if no
    copy of its records, and no model that saw them, is held any more, or only until a known day.
    """
    states = [copy["state"] for copy in copies if copy["holds"] in ("records", "influence")]
    if states and "held" not in states:
        return "erased"
    if status == "rejected":
        return "set_aside"
    standing = {approval.by: approval.decision for approval in approvals}
    if "refuse" in standing.values():
        return "refused"
    return "released" if standing else "awaiting_signoff"


def latest(moments: Iterable[str]) -> str:
    """The latest of time stamps, whose zones may differ."""
    return max(moments, key=datetime.fromisoformat)


_Some = TypeVar("_Some", bound=Entry)


def _own(entries: Sequence[_Some], request_id: str) -> list[_Some]:
    of_request = [entry for entry in entries if entry.request in (None, request_id)]
    return sorted(of_request, key=lambda entry: datetime.fromisoformat(entry.at))
