"""The states of requests, the allowed moves between them, and the data of a request.

received → identity_verified → batched → audited → awaiting_signoff → released → erased → closed, or
rejected → closed. A legal hold is independent of the state: it keeps a request out of batches, and
keeps its batch from release and erasure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Any
from uuid import UUID

from flows.register.encoding import digest
from tasks.common.errors import AuditError


class RegisterError(AuditError):
    """The register refuses an operation, or is damaged."""


class UnknownRequestError(RegisterError):
    """No such request or batch is in the register."""


class ConflictError(RegisterError):
    """The register has a request with this id and another content."""


class BusyError(AuditError):
    """Another process does this work now."""


class LostLeaseError(AuditError):
    """A lease ran out because the database was away too long; another process may do the work."""


class State(StrEnum):
    """The state of a request."""

    RECEIVED = "received"
    IDENTITY_VERIFIED = "identity_verified"
    BATCHED = "batched"
    AUDITED = "audited"
    AWAITING_SIGNOFF = "awaiting_signoff"
    RELEASED = "released"
    ERASED = "erased"
    REJECTED = "rejected"
    CLOSED = "closed"


MOVES: dict[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.IDENTITY_VERIFIED, State.REJECTED}),
    State.IDENTITY_VERIFIED: frozenset({State.BATCHED, State.REJECTED}),
    State.BATCHED: frozenset({State.AUDITED, State.IDENTITY_VERIFIED, State.REJECTED}),
    State.AUDITED: frozenset({State.AWAITING_SIGNOFF, State.IDENTITY_VERIFIED, State.REJECTED}),
    State.AWAITING_SIGNOFF: frozenset({State.RELEASED, State.IDENTITY_VERIFIED, State.REJECTED}),
    State.RELEASED: frozenset({State.ERASED}),
    State.ERASED: frozenset({State.CLOSED}),
    State.REJECTED: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}
"""The allowed moves. From a batch back to identity_verified: the request is queued for the next
batch."""
IN_BATCH = (State.BATCHED, State.AUDITED, State.AWAITING_SIGNOFF, State.RELEASED)
"""States of requests whose batch is in flight; the next batch begins once it is erased."""
HELD, LIFTED, EXTENDED, CORRECTED = "on_hold", "hold_lifted", "extended", "corrected"
CHANGES = frozenset({*map(str, State), HELD, LIFTED, EXTENDED, CORRECTED})
"""Kinds of events that record a change of a request."""
SET_ASIDE = "set aside by the audit"
"""Ground of the hold on a request that could not be acted on. A person lifts it, corrects the
request under its id, or rejects it."""
OPEN = tuple(state for state in State if state not in (State.ERASED, State.REJECTED, State.CLOSED))
BLOCKED = (State.BATCHED, State.RELEASED, State.ERASED)
"""States that a request on hold cannot enter."""
OUTWARD = {
    State.RECEIVED: "pending",
    State.IDENTITY_VERIFIED: "pending",
    State.BATCHED: "in_progress",
    State.AUDITED: "in_progress",
    State.AWAITING_SIGNOFF: "in_progress",
    State.RELEASED: "in_progress",
    State.ERASED: "completed",
    State.CLOSED: "completed",
    State.REJECTED: "cancelled",
}
"""OpenDSR's request_status of a state. A closed request that was rejected is cancelled."""


@dataclass(frozen=True)
class Intake:
    """A well-formed request without identities in the clear.

    Attributes:
        request_id: UUID version 4, in lower case.
        regulation: gdpr, ccpa, lgpd or pipl.
        submitted: RFC 3339, with its offset; its day is the day of receipt, unless the request
            arrived earlier.
        identities: `{identity_type, identity_value, identity_format}` with keyed pseudonyms.
        wishes: `{"record_pseudonyms": […], "languages": […]}`, either may be missing.
        callbacks: addresses that are told of changes.
    """

    request_id: str
    regulation: str
    submitted: str
    identities: tuple[Mapping[str, str], ...] = field(repr=False)
    wishes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    callbacks: tuple[str, ...] = field(default=(), repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the content; it distinguishes a repetition from a contradiction."""
        identities = list(map(dict, self.identities))
        content = [self.regulation, self.submitted, identities, self.wishes, self.callbacks]
        return digest(content)


@dataclass(frozen=True)
class Case:
    """The current state of one request."""

    request_id: str
    regulation: str
    submitted: str
    source: str
    identities: tuple[Mapping[str, str], ...] = field(repr=False)
    wishes: Mapping[str, Any] = field(repr=False)
    callbacks: tuple[str, ...] = field(repr=False)
    due: date | None
    extended: bool
    state: State
    held: bool
    batch: str | None
    verdict: str | None
    duplicate_of: str | None

    @property
    def shown(self) -> str:
        """The state for people: an open request on hold is `on_hold`."""
        return "on_hold" if self.held and self.state in OPEN else str(self.state)

    def days_left(self, today: date) -> int | None:
        """Days until the deadline, negative after it; None: no deadline, or the request is done."""
        return None if self.due is None or self.state not in OPEN else (self.due - today).days

    def plain(self) -> dict[str, Any]:
        """As JSON values, without pseudonyms and addresses."""
        return {
            "request_id": self.request_id,
            "regulation": self.regulation,
            "submitted": self.submitted,
            "source": self.source,
            "due": None if self.due is None else self.due.isoformat(),
            "extended": self.extended,
            "state": str(self.state),
            "shown": self.shown,
            "held": self.held,
            "batch": self.batch,
            "verdict": self.verdict,
            "duplicate_of": self.duplicate_of,
        }


def refuse_move(case: Case, state: State, batch: str | None) -> None:
    """Check that a request may move to a state.

    Args:
        case: the request.
        state: its new state.
        batch: the batch that it enters, or that the move belongs to; None: its own.

    Raises:
        RegisterError: it may not.
    """
    if (state is State.BATCHED and batch is None) or (
        state is not State.BATCHED and None not in (batch, case.batch) and batch != case.batch
    ):
        raise RegisterError(
            f"request {case.request_id} is in batch {case.batch}, got {batch} for {state}"
        )
    if state not in MOVES[case.state]:
        next_states = ", ".join(sorted(MOVES[case.state])) or "nothing"
        raise RegisterError(
            f"request {case.request_id} is {case.shown}; expected next: {next_states}; got {state}"
        )
    if case.held and state in BLOCKED:
        raise RegisterError(
            f"request {case.request_id} is on hold; lift the hold before it is {state}"
        )


def printable_id(request_id: str) -> str:
    """An id for a message. An id that is not a UUID may be personal data, so it is masked."""
    try:
        return str(UUID(request_id))
    except ValueError:
        return "of that name (expected a UUID)"
