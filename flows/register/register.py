"""The register: every request's life, from its receipt to its closing, each step with time and
actor.

What happened is a chain of events that nobody can change unseen; what is so now follows from it. A
request is received → identity_verified → batched → audited → awaiting_signoff → released → erased →
closed, or rejected → closed. A legal hold stands beside the state: it keeps a request out of
batches, and its batch from being released and erased. Pseudonyms of a closed request are dropped;
nothing that stays says whom it was about.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flows.register import database
from flows.register.database import callbacks, events, identities, leases, requests
from tasks.common import files
from tasks.common.errors import AuditError, PseudonymError
from tasks.requests import deadlines, pseudonyms

GENESIS = "0" * 64
"""What the first event names as the one before it."""
LONGEST = 2000
"""Characters of a text in an event at most, as a reason that a person gives; what is more is cut
off."""
HEADS = Path("ledger/chain")
"""Where git keeps the chain's end as it was when a batch was committed, `<batch>.json`."""


class RegisterError(AuditError):
    """The register does not allow what was asked for, or is damaged."""


class UnknownRequestError(RegisterError):
    """No such request or batch is in the register."""


class ConflictError(RegisterError):
    """A request with this id is there already, with another content."""


class BusyError(AuditError):
    """Somebody else does this work right now."""


class LostLeaseError(AuditError):
    """Exclusive work went on for too long without the database, and somebody else may do it by
    now."""


class State(StrEnum):
    """How far a request is."""

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
"""Which state may follow which. From a batch back to identity_verified: the request is queued for
the next batch."""
IN_BATCH = (State.BATCHED, State.AUDITED, State.AWAITING_SIGNOFF, State.RELEASED)
"""States of requests whose batch is in flight: no other batch is begun before it is erased."""
HELD, LIFTED, EXTENDED = "on_hold", "hold_lifted", "extended"
CHANGES = frozenset({*map(str, State), HELD, LIFTED, EXTENDED})
"""Kinds of events that come with a change of a request."""
OPEN = tuple(state for state in State if state not in (State.ERASED, State.REJECTED, State.CLOSED))
BLOCKED = (State.BATCHED, State.RELEASED, State.ERASED)
"""What a request on hold does not become."""
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
"""What a state is called outside (OpenDSR's request_status). A closed request that was rejected is
cancelled."""


@dataclass(frozen=True)
class Intake:
    """A well-formed request without any identity in the clear.

    Attributes:
        request_id: UUID version 4, in small letters.
        regulation: gdpr, ccpa, lgpd or pipl.
        submitted: RFC 3339, with its offset; its day is the day of receipt.
        identities: `{identity_type, identity_value, identity_format}` with keyed pseudonyms.
        wishes: `{"record_pseudonyms": […], "languages": […]}`, either may be missing.
        callbacks: addresses that want to hear of changes.
    """

    request_id: str
    regulation: str
    submitted: str
    identities: tuple[Mapping[str, str], ...] = field(repr=False)
    wishes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    callbacks: tuple[str, ...] = field(default=(), repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the content, by which a repetition is told from a contradiction."""
        who = list(map(dict, self.identities))
        return _sha256(
            _canonical([self.regulation, self.submitted, who, self.wishes, self.callbacks])
        )


@dataclass(frozen=True)
class Case:
    """What is so now of one request."""

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
        """The state as people see it: a hold covers what lies under it."""
        return "on_hold" if self.held and self.state in OPEN else str(self.state)

    def days_left(self, today: date) -> int | None:
        """Days until the deadline, below zero after it; None where there is none or the request is
        done."""
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


@dataclass(frozen=True)
class Event:
    """Something that happened. `details` hold no personal data."""

    seq: int
    at: str
    actor: str
    request_id: str | None
    batch: str | None
    kind: str
    details: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True)
class Head:
    """The end of the chain: whoever has it can tell later whether anything before it was
    changed."""

    seq: int
    hash: str


class Lease:
    """Exclusive work that one holds. It is renewed in the background; `check` says whether it still
    counts."""

    def __init__(self, engine: sa.Engine, name: str, seconds: float) -> None:
        """Args:
        engine: the register's database.
        name: of the work.
        seconds: how long it holds without being renewed.
        """
        self._engine, self.name, self._seconds = engine, name, seconds
        self._holder = f"{_machine()}:{os.getpid()}:{_started(os.getpid())}:{os.urandom(4).hex()}"
        self._over, self._held_until = threading.Event(), 0.0
        self._renewal = threading.Thread(
            target=self._renew_often, name=f"lease {name}", daemon=True
        )

    def check(self) -> None:
        """To be called before what cannot be undone: a lease that ran out while the database was
        away is noticed.

        Raises:
            LostLeaseError: somebody else may do the work by now; stop, and leave the rest to him.
            WorkspaceError: the lease ran out, and the database cannot be asked.
        """
        if time.time() >= self._held_until and not self._renew():
            raise LostLeaseError(
                f"{self.name}: its lease ran out while the database was away, and another process "
                "took it over; "
                "this one stops, and what it finished is kept"
            )

    def take(self) -> None:
        """Raises `BusyError` if somebody else holds it."""
        now = datetime.now(UTC)
        with database.writing(self._engine) as connection:
            row = connection.execute(sa.select(leases).where(leases.c.name == self.name)).first()
            if row is not None and row.until > _text(now) and not _gone(row.holder):
                raise BusyError(
                    f"{self.name}: another process works on it since {row.since}; wait for its end"
                )
            connection.execute(leases.delete().where(leases.c.name == self.name))
            until = _text(now + timedelta(seconds=self._seconds))
            values = {
                "name": self.name,
                "holder": self._holder,
                "since": _text(now),
                "until": until,
            }
            self._held_until = time.time() + self._seconds
            connection.execute(leases.insert().values(**values))
        self._renewal.start()

    def release(self) -> None:
        """Give it back; if the database is away, it runs out by itself."""
        self._over.set()
        self._renewal.join()
        with contextlib.suppress(AuditError), database.writing(self._engine) as connection:
            connection.execute(
                leases.delete().where(leases.c.name == self.name, leases.c.holder == self._holder)
            )

    def _renew(self) -> bool:
        held_until = time.time() + self._seconds
        until = _text(datetime.now(UTC) + timedelta(seconds=self._seconds))
        own = leases.update().where(leases.c.name == self.name, leases.c.holder == self._holder)
        with database.writing(self._engine) as connection:
            if not connection.execute(own.values(until=until)).rowcount:
                self._held_until = 0.0
                return False
        self._held_until = held_until
        return True

    def _renew_often(self) -> None:
        while not self._over.wait(self._seconds / 4):
            with contextlib.suppress(
                AuditError
            ):  # a database that is gone for a moment is asked again in a moment
                if not self._renew():
                    return


class Register:
    """The register of one workspace. All methods may be called from several threads and
    processes."""

    def __init__(self, home: Path, holidays: Collection[date] = ()) -> None:
        """Args:
        home: the workspace.
        holidays: public holidays, for deadlines; `settings.report.holidays`.

        Raises:
            WorkspaceError: the database cannot be used.
        """
        self._engine = database.connect(home)
        self._holidays = frozenset(holidays)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    # -- requests come in -------------------------------------------------------------------------

    def receive(self, request: Intake, actor: str, source: str) -> tuple[Case, bool]:
        """Take a request in; the same one again changes nothing.

        The day of receipt is that of the request's own time stamp, by the offset that it names.

        Returns:
            The case, and whether it is new. A case whose identities meet those of an open one is
            marked as its duplicate and kept all the same: a person decides.

        Raises:
            ConflictError: the id is known with another content.
            RequestError: the deadline cannot be counted.
            PseudonymError: its pseudonyms are of another key than those of the open requests.
        """
        day = datetime.fromisoformat(request.submitted).date()
        due = deadlines.deadline(request.regulation, day, self._holidays).date
        with database.writing(self._engine) as connection:
            known = _row(connection, request.request_id)
            if known is not None:
                if known.digest != request.digest:
                    raise ConflictError(
                        f"request {request.request_id} is in the register already with another "
                        "content; "
                        "send a changed request under an id of its own"
                    )
                return _case(known), False
            names = {str(identity["identity_value"]) for identity in request.identities}
            _refuse_other_key(connection, names)
            twin = _twin(connection, names)
            connection.execute(
                requests.insert().values(
                    request_id=request.request_id,
                    digest=request.digest,
                    regulation=request.regulation,
                    submitted=request.submitted,
                    source=source,
                    identities=[dict(identity) for identity in request.identities],
                    wishes=dict(request.wishes),
                    callbacks=list(request.callbacks),
                    due=None if due is None else due.isoformat(),
                    extended=False,
                    state=str(State.RECEIVED),
                    held=False,
                    duplicate_of=twin,
                )
            )
            connection.execute(
                identities.insert(),
                [{"pseudonym": name, "request_id": request.request_id} for name in sorted(names)],
            )
            details = {
                "source": source,
                "regulation": request.regulation,
                "submitted": request.submitted,
                "digest": request.digest,
                "due": due and due.isoformat(),
                **({"duplicate_of": twin} if twin else {}),
            }
            _append(
                connection,
                actor,
                request.request_id,
                None,
                str(State.RECEIVED),
                details,
                request.callbacks,
            )
            return _case(_known(connection, request.request_id)), True

    def verify_identity(self, request_id: str, actor: str, how: str) -> Case:
        """The person is who he says; `how` it was checked, never who it is."""
        return self.move([request_id], State.IDENTITY_VERIFIED, actor, how=how)[0]

    def reject(self, request_id: str, actor: str, reason: str) -> Case:
        """Refuse a request for good."""
        return self.move([request_id], State.REJECTED, actor, reason=reason)[0]

    def cancel(self, request_id: str, actor: str, reason: str) -> Case:
        """Withdraw a request that is in no batch yet; one that is rejected already is left alone.

        Raises:
            RegisterError: it is in a batch, or past one.
        """
        with database.writing(self._engine) as connection:
            case = _case(_known(connection, request_id))
            if case.state not in (State.RECEIVED, State.IDENTITY_VERIFIED, State.REJECTED):
                raise RegisterError(
                    f"request {request_id} is {case.shown}; it can be cancelled before it is "
                    "batched"
                )
            return _move(
                connection, [request_id], State.REJECTED, actor, details={"reason": reason}
            )[0]

    def hold(
        self, request_id: str, actor: str, reason: str, ground: str = "GDPR Art. 17(3)(e)"
    ) -> Case:
        """Put a legal hold on a request: nothing of it is released or erased until the hold is
        lifted.

        Raises:
            RegisterError: there is a hold already, or the request is past erasing.
        """
        return self._flag(request_id, actor, True, {"reason": reason, "ground": ground})

    def lift(self, request_id: str, actor: str, reason: str) -> Case:
        """Lift a legal hold."""
        return self._flag(request_id, actor, False, {"reason": reason})

    def extend(self, request_id: str, actor: str, reason: str) -> Case:
        """Extend the deadline as the regulation allows, once; the subject has to be told why.

        Raises:
            RegisterError: it was extended already, is closed, or the regulation knows no extension.
        """
        with database.writing(self._engine) as connection:
            case = _case(_known(connection, request_id))
            due = deadlines.extended(
                case.regulation, datetime.fromisoformat(case.submitted).date(), self._holidays
            )
            if due is None or case.extended or case.state not in OPEN:
                raise RegisterError(
                    f"request {request_id}: its deadline cannot be extended ({case.regulation}, "
                    f"{case.shown}"
                    f"{', extended before' if case.extended else ''})"
                )
            _change(connection, request_id, due=due.isoformat(), extended=True)
            details = {
                "reason": reason,
                "from": case.due and case.due.isoformat(),
                "to": due.isoformat(),
            }
            if case.due is not None and datetime.now(UTC).date() > case.due:
                details["late"] = "the first deadline had passed"
            _append(connection, actor, request_id, case.batch, EXTENDED, details, case.callbacks)
            return _case(_known(connection, request_id))

    # -- the way through --------------------------------------------------------------------------

    def move(
        self,
        request_ids: Sequence[str],
        state: State,
        actor: str,
        *,
        batch: str | None = None,
        verdicts: Mapping[str, str] | None = None,
        **details: Any,
    ) -> list[Case]:
        """Bring requests to a state, all of them or none. Those that are there already are left
        alone.

        Args:
            request_ids: which.
            state: where to.
            actor: who does it.
            batch: the batch that they get into, or whose event this is; None: the one they are in.
            verdicts: by request, for `audited`.
            details: further facts for the event; no personal data.

        Raises:
            UnknownRequestError: there is no such request.
            RegisterError: a request may not go there from where it is, or is on hold.
        """
        with database.writing(self._engine) as connection:
            return _move(connection, request_ids, state, actor, batch, verdicts or {}, details)

    def close_rejected(self, actor: str) -> list[Case]:
        """Close the rejected requests that belong to no batch in flight; those of one are closed
        when it ends."""
        with database.writing(self._engine) as connection:
            flying = sa.select(requests.c.batch).where(
                requests.c.state.in_(list(map(str, IN_BATCH)))
            )
            done = (
                sa.select(requests.c.request_id)
                .where(requests.c.state == str(State.REJECTED))
                .where(requests.c.batch.is_(None) | requests.c.batch.not_in(flying))
                .order_by(requests.c.request_id)
            )
            found = list(connection.scalars(done))
            return _move(connection, found, State.CLOSED, actor)

    def collect(self, batch: str, actor: str, most: int = 1000) -> list[Case]:
        """Put all requests that wait for a batch into one, those with the nearest deadline first.

        Args:
            batch: its name.
            actor: who does it.
            most: requests at most.

        Returns:
            The cases; none if none waits.

        Raises:
            RegisterError: another batch is in flight, or the name was used before.
        """
        with database.writing(self._engine) as connection:
            flying = connection.scalar(
                sa.select(requests.c.batch)
                .where(requests.c.state.in_(list(map(str, IN_BATCH))))
                .limit(1)
            )
            if flying is not None:
                raise RegisterError(
                    f"batch {flying} is not erased yet; the next one starts from the model that "
                    "it releases"
                )
            if (
                connection.scalar(sa.select(events.c.seq).where(events.c.batch == batch).limit(1))
                is not None
            ):
                raise RegisterError(
                    f"there was a batch {batch} before; give the new one a name of its own"
                )
            waiting = (
                sa.select(requests.c.request_id)
                .where(requests.c.state == str(State.IDENTITY_VERIFIED), requests.c.held.is_(False))
                .order_by(sa.func.coalesce(requests.c.due, "9999"), requests.c.request_id)
                .limit(most)
            )
            found = list(connection.scalars(waiting))
            return _move(connection, found, State.BATCHED, actor, batch)

    def note(
        self,
        kind: str,
        actor: str,
        *,
        request_id: str | None = None,
        batch: str | None = None,
        **details: Any,
    ) -> Event:
        """Write down something that changes no state: a decision, a failure, a warning that was
        sent, a promotion.

        Raises:
            UnknownRequestError: there is no such request.
            RegisterError: events of this kind come with a change of state.
        """
        if request_id is not None and kind in CHANGES:
            raise RegisterError(
                f"got {kind} as a note on a request; it comes with a change, so change the request"
            )
        with database.writing(self._engine) as connection:
            if request_id is not None:
                _known(connection, request_id)
            return _append(connection, actor, request_id, batch, kind, details)

    # -- looking ----------------------------------------------------------------------------------

    def case(self, request_id: str) -> Case:
        """One request.

        Raises:
            UnknownRequestError: there is no such request.
        """
        with database.reading(self._engine) as connection:
            return _case(_known(connection, request_id))

    def find(self, beginning: str) -> str:
        """The id of the request that begins so.

        Raises:
            UnknownRequestError: none does, or several do.
        """
        start = beginning.lower()
        if len(start) < 36 and re.fullmatch(r"[0-9a-f-]{4,}", start):
            query = (
                sa.select(requests.c.request_id)
                .where(requests.c.request_id.startswith(start))
                .limit(2)
            )
            with database.reading(self._engine) as connection:
                found = list(connection.scalars(query))
            if len(found) > 1:
                raise UnknownRequestError(
                    f"several requests begin with {start}; write more of the id"
                )
            start = found[0] if found else start
        return self.case(start).request_id

    def cases(
        self, states: Collection[State] | None = None, batch: str | None = None
    ) -> list[Case]:
        """Requests, the nearest deadline first; all, or those in some states or of one batch."""
        if not _askable(batch):
            return []
        with database.reading(self._engine) as connection:
            return [_case(row) for row in connection.execute(_urgent_first(_wanted(states, batch)))]

    def page(
        self,
        states: Collection[State] | None = None,
        batch: str | None = None,
        *,
        held: bool = False,
        first: int = 0,
        most: int = 100,
    ) -> tuple[int, list[Case]]:
        """How many requests there are, as `cases` gives them, and some of them.

        Args:
            states: only those in one of them.
            batch: only those in it.
            held: only those on hold.
            first: how many to pass over.
            most: how many to give at most.
        """
        if not _askable(batch):
            return 0, []
        where = _wanted(states, batch) + ([requests.c.held.is_(True)] if held else [])
        with database.reading(self._engine) as connection:
            total = connection.scalar(
                sa.select(sa.func.count()).select_from(requests).where(*where)
            )
            rows = connection.execute(_urgent_first(where).offset(first).limit(most))
            return int(total or 0), [_case(row) for row in rows]

    def in_flight(self) -> str | None:
        """The batch that is neither erased nor given up, if there is one."""
        found = self.cases(IN_BATCH)
        return found[0].batch if found else None

    def history(
        self, request_id: str | None = None, batch: str | None = None, kind: str | None = None
    ) -> list[Event]:
        """Events in their order; all, or those of a request, of a batch (its requests' events
        included), of a kind."""
        if not all(map(_askable, (request_id, batch, kind))):
            return []
        query = sa.select(events).order_by(events.c.seq)
        for column, wanted in (
            (events.c.request_id, request_id),
            (events.c.batch, batch),
            (events.c.kind, kind),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        with database.reading(self._engine) as connection:
            return [_event(row) for row in connection.execute(query)]

    def latest(self, kind: str | None = None, first: int = 0, most: int = 100) -> list[Event]:
        """The last events, the newest first; all, or those of a kind.

        Args:
            kind: which.
            first: how many to pass over.
            most: how many to give at most.
        """
        query = sa.select(events).order_by(events.c.seq.desc()).offset(first).limit(most)
        if kind is not None:
            query = query.where(events.c.kind == kind)
        with database.reading(self._engine) as connection:
            return [_event(row) for row in connection.execute(query)]

    def head(self) -> Head:
        """The end of the chain."""
        with database.reading(self._engine) as connection:
            return _head(connection)

    def file_head(self, path: Path) -> Head:
        """Write the end of the chain into a file that git will keep,
        `ledger/chain/<batch>.json`."""
        head = self.head()
        files.write_json(path, {"seq": head.seq, "hash": head.hash})
        return head

    def check_chain(self, known: Sequence[Head] = ()) -> Head:
        """Go through the whole chain, and see that the requests are as their events say.

        Args:
            known: earlier ends, as `heads` finds them: a chain that was cut off or rewritten as a
                whole lacks them.

        Raises:
            RegisterError: an event is missing, changed or out of place, or a request is not as its
                events say.
        """
        wanted = {head.seq: head.hash for head in known}
        previous, seq = GENESIS, 0
        said: dict[str, dict[str, Any]] = {}
        with database.snapshot(self._engine) as connection:
            for row in _rows(connection, sa.select(events).order_by(events.c.seq)):
                seq += 1
                try:
                    event = _event(row)
                except ValueError:
                    raise RegisterError(
                        f"event {seq} of the register was changed; restore a backup"
                    ) from None
                facts = (
                    event.at,
                    event.actor,
                    event.request_id,
                    event.batch,
                    event.kind,
                    row.details,
                )
                if (event.seq, event.previous, event.hash) != (
                    seq,
                    previous,
                    _hash(previous, seq, *facts),
                ):
                    raise RegisterError(
                        f"event {seq} of the register is missing or was changed; restore a backup"
                    )
                if wanted.pop(seq, event.hash) != event.hash:
                    raise RegisterError(
                        f"the chain up to event {seq} is not the one that git holds the end of"
                    )
                if event.request_id is not None:
                    _replay(said.setdefault(event.request_id, {}), event)
                previous = event.hash
            for row in _rows(connection, sa.select(*_FOLLOWING)):
                if said.pop(row.request_id, None) != {**row._mapping, "held": bool(row.held)}:
                    raise RegisterError(
                        f"request {row.request_id} is not as its events say; restore a backup"
                    )
        if wanted:
            raise RegisterError(
                f"the register ends before event {max(wanted)}, which git holds the hash of"
            )
        if said:
            raise RegisterError(
                f"request {min(said)} is gone, and its events are there; restore a backup"
            )
        return Head(seq, previous)

    def backup(self, target: Path) -> Head:
        """Copy the register into a new file while others work, and check the copy's chain; for
        SQLite only.

        Raises:
            RegisterError: the register is in PostgreSQL, the file is there already or cannot be
                written.
        """
        if self._engine.dialect.name != "sqlite":
            raise RegisterError(
                "the register is in PostgreSQL; pg_dump backs it up, see docs/requests.md"
            )
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise RegisterError(
                f"{target}: cannot be written ({error.strerror}); name a new file"
            ) from error
        with database.reading(self._engine) as connection:
            connection.exec_driver_sql("VACUUM INTO ?", (str(target),))
        copy = Register.__new__(Register)
        copy._engine = sa.create_engine(f"sqlite:///{target.absolute()}")
        try:
            return copy.check_chain()
        finally:
            copy.close()

    # -- who works --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lease(self, name: str, seconds: float = 600.0) -> Iterator[Lease]:
        """Do exclusive work inside the block, wherever the others run.

        The lease is renewed as long as the process lives; after it died, the lease holds for
        `seconds` at most, or no longer at all for somebody on the same machine who can see that the
        process is gone. Call `check` of what is yielded before a step that cannot be undone.
        Machines' clocks may differ by a few seconds and not by minutes.

        Raises:
            BusyError: somebody else holds it.
        """
        held = Lease(self._engine, name, seconds)
        held.take()
        try:
            yield held
        finally:
            held.release()

    def working(self) -> list[tuple[str, str, str]]:
        """Leases that hold: name, since when, and until when if nobody renews it."""
        with database.reading(self._engine) as connection:
            rows = connection.execute(sa.select(leases).order_by(leases.c.name))
            return [(row.name, row.since, row.until) for row in rows if row.until > _now()]

    # -- who is told ------------------------------------------------------------------------------

    def undelivered(
        self, at: datetime | None = None, most: int = 100
    ) -> list[tuple[Event, str, int]]:
        """Status callbacks whose time has come: the event, the address, and the tries so far.

        Of a request's events that wait for the same address, only the first is given, so that their
        order is kept. The longest due come first, so that addresses that always fail do not keep
        the others from their turn.
        """
        earlier, before = callbacks.alias(), events.alias()
        waits = (
            sa.select(earlier.c.seq)
            .join(before, before.c.seq == earlier.c.seq)
            .where(earlier.c.url == callbacks.c.url, before.c.request_id == events.c.request_id)
            .where(earlier.c.seq < callbacks.c.seq, earlier.c.next_try.is_not(None))
        )
        query = (
            sa.select(callbacks.c.url, callbacks.c.tries, events)
            .join(events, events.c.seq == callbacks.c.seq)
            .where(callbacks.c.next_try <= _text(at or datetime.now(UTC)), ~waits.exists())
            .order_by(callbacks.c.next_try, callbacks.c.seq)
            .limit(most)
        )
        with database.reading(self._engine) as connection:
            return [(_event(row), row.url, row.tries) for row in connection.execute(query)]

    def tried(self, seq: int, url: str, outcome: str, again: datetime | None) -> None:
        """Write down a try to deliver a callback; `again` is None when it is delivered, or given
        up."""
        with database.writing(self._engine) as connection:
            connection.execute(
                callbacks.update()
                .where(callbacks.c.seq == seq, callbacks.c.url == url)
                .values(
                    tries=callbacks.c.tries + 1,
                    next_try=None if again is None else _text(again),
                    outcome=outcome[:200],
                )
            )

    # --------------------------------------------------------------------------------------------------------------

    def _flag(self, request_id: str, actor: str, held: bool, details: Mapping[str, Any]) -> Case:
        with database.writing(self._engine) as connection:
            case = _case(_known(connection, request_id))
            if case.held == held or (held and case.state not in OPEN):
                raise RegisterError(
                    f"request {request_id} is {case.shown}; a hold cannot be "
                    f"{'set' if held else 'lifted'}"
                )
            _change(connection, request_id, held=held)
            _append(
                connection,
                actor,
                request_id,
                case.batch,
                HELD if held else LIFTED,
                details,
                case.callbacks,
            )
            return _case(_known(connection, request_id))


def _move(
    connection: sa.Connection,
    request_ids: Sequence[str],
    state: State,
    actor: str,
    batch: str | None = None,
    verdicts: Mapping[str, str] = MappingProxyType({}),
    details: Mapping[str, Any] = MappingProxyType({}),
) -> list[Case]:
    """See `Register.move`. As few statements as can be, however many requests: others wait
    meanwhile."""
    cases = _known_all(connection, request_ids)
    steps = []
    for one in dict.fromkeys(request_ids):
        before = cases[one]
        if before.state == state:
            continue
        _refuse(before, state, batch)
        verdict = verdicts.get(one) or details.get("verdict")
        cases[one] = after = replace(
            before,
            state=state,
            batch=batch or before.batch,
            verdict=verdict or before.verdict,
            identities=() if state is State.CLOSED else before.identities,
            wishes=_without_records(before.wishes) if state is State.CLOSED else before.wishes,
        )
        facts = {
            **details,
            **({"verdict": verdict} if verdict is not None else {}),
            "from": str(before.state),
        }
        steps.append(_Step(actor, one, after.batch, str(state), facts, after.callbacks))
    if not steps:
        return [cases[one] for one in request_ids]
    changed = [cases[str(step.request_id)] for step in steps]
    names = ("state", "batch", "verdict", "identities", "wishes")
    connection.execute(
        requests.update()
        .where(requests.c.request_id == sa.bindparam("one"))
        .values({name: sa.bindparam(f"new_{name}") for name in names}),
        [
            {"one": case.request_id} | {f"new_{name}": _column(case, name) for name in names}
            for case in changed
        ],
    )
    if state not in OPEN:  # only open requests have duplicates
        own = identities.delete().where(identities.c.request_id == sa.bindparam("one"))
        connection.execute(own, [{"one": case.request_id} for case in changed])
    _append_all(connection, steps)
    return [cases[one] for one in request_ids]


def _refuse(case: Case, state: State, batch: str | None) -> None:
    """Raise `RegisterError` if a request may not go there."""
    if (state is State.BATCHED and batch is None) or (
        state is not State.BATCHED and None not in (batch, case.batch) and batch != case.batch
    ):
        raise RegisterError(
            f"request {case.request_id} is in batch {case.batch}, got {batch} for {state}"
        )
    if state not in MOVES[case.state]:
        ways = ", ".join(sorted(MOVES[case.state])) or "nothing"
        raise RegisterError(
            f"request {case.request_id} is {case.shown}; expected next: {ways}; got {state}"
        )
    if case.held and state in BLOCKED:
        raise RegisterError(
            f"request {case.request_id} is on hold; lift the hold before it is {state}"
        )


def _without_records(wishes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: wish for name, wish in wishes.items() if name == "languages"}


def _column(case: Case, name: str) -> Any:
    value = getattr(case, name)
    if name == "identities":
        return [dict(identity) for identity in value]
    return dict(value) if name == "wishes" else value and str(value)


@dataclass(frozen=True)
class _Step:
    """An event that is to be written, and the addresses that want to hear of it."""

    actor: str
    request_id: str | None
    batch: str | None
    kind: str
    details: Mapping[str, Any]
    told: Sequence[str] = ()


def _append(
    connection: sa.Connection,
    actor: str,
    request_id: str | None,
    batch: str | None,
    kind: str,
    details: Mapping[str, Any],
    told: Sequence[str] = (),
) -> Event:
    """Add an event to the chain, and what has to be told of it to the list of callbacks."""
    return _append_all(connection, [_Step(actor, request_id, batch, kind, details, told)])[0]


def _append_all(connection: sa.Connection, steps: Sequence[_Step]) -> list[Event]:
    head, rows, calls = _head(connection), list[dict[str, Any]](), list[dict[str, Any]]()
    for step in steps:
        facts = (
            _now(),
            _cut(step.actor)[:200],
            step.request_id,
            step.batch,
            step.kind,
            _canonical(_cut(step.details)),
        )
        names = ("at", "actor", "request_id", "batch", "kind", "details")
        row = dict(zip(names, facts, strict=True)) | {"seq": head.seq + 1, "previous": head.hash}
        row["hash"] = _hash(head.hash, head.seq + 1, *facts)
        head = Head(head.seq + 1, row["hash"])
        rows.append(row)
        calls += [
            {"seq": head.seq, "url": url, "tries": 0, "next_try": row["at"]}
            for url in dict.fromkeys(step.told)
        ]
    connection.execute(events.insert(), rows)
    if calls:
        connection.execute(callbacks.insert(), calls)
    return [Event(**{**row, "details": json.loads(row["details"])}) for row in rows]


def _head(connection: sa.Connection) -> Head:
    row = connection.execute(
        sa.select(events.c.seq, events.c.hash).order_by(events.c.seq.desc()).limit(1)
    ).first()
    return Head(0, GENESIS) if row is None else Head(row.seq, row.hash)


def _hash(
    previous: str,
    seq: int,
    at: str,
    actor: str,
    request_id: str | None,
    batch: str | None,
    kind: str,
    details: str,
) -> str:
    """SHA-256 over everything that an event says, and over the hash of the one before."""
    return _sha256(_canonical([previous, seq, at, actor, request_id, batch, kind, details]))


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Any]:
    """Rows of a long answer, a thousand at a time."""
    with connection.execute(query.execution_options(yield_per=1000)) as found:
        yield from found


def _row(connection: sa.Connection, request_id: str) -> Any:
    return connection.execute(
        sa.select(requests).where(requests.c.request_id == request_id)
    ).first()


def _wanted(states: Collection[State] | None, batch: str | None) -> list[sa.ColumnElement[bool]]:
    """What requests in some states and of a batch have; None: any."""
    found = [] if states is None else [requests.c.state.in_([str(state) for state in states])]
    return [*found, *([] if batch is None else [requests.c.batch == batch])]


def _urgent_first(where: Sequence[sa.ColumnElement[bool]]) -> sa.Select[Any]:
    order = (sa.func.coalesce(requests.c.due, "9999"), requests.c.request_id)
    return sa.select(requests).where(*where).order_by(*order)


def _known_all(connection: sa.Connection, request_ids: Sequence[str]) -> dict[str, Case]:
    found: dict[str, Case] = {}
    wanted = [one for one in dict.fromkeys(request_ids) if _shown(one) == one]
    for start in range(
        0, len(wanted), 1000
    ):  # databases take so many parameters, and not any number
        some = sa.select(requests).where(requests.c.request_id.in_(wanted[start : start + 1000]))
        found |= {row.request_id: _case(row) for row in connection.execute(some)}
    for one in request_ids:
        if one not in found:
            _known(connection, one)  # says so
    return found


def _known(connection: sa.Connection, request_id: str) -> Any:
    row = _row(connection, request_id) if _shown(request_id) == request_id else None
    if row is None:
        raise UnknownRequestError(
            f"the register has no request {_shown(request_id)}; see `erasure-audit requests list`"
        )
    return row


def _change(connection: sa.Connection, request_id: str, **values: Any) -> None:
    connection.execute(
        requests.update().where(requests.c.request_id == request_id).values(**values)
    )


def _twin(connection: sa.Connection, names: Collection[str]) -> str | None:
    """The earliest open request that has a pseudonym in common with these."""
    query = (
        sa.select(requests.c.request_id)
        .join(identities, identities.c.request_id == requests.c.request_id)
        .where(identities.c.pseudonym.in_(names))
        .order_by(requests.c.submitted, requests.c.request_id)
    )
    found: str | None = connection.scalar(query.limit(1))
    return found


def _refuse_other_key(connection: sa.Connection, names: Collection[str]) -> None:
    """Under another key the same person would look like somebody else, and duplicates would be
    missed."""
    one = connection.scalar(sa.select(identities.c.pseudonym).limit(1))
    for name in names:
        if (
            one
            and name[:9] != one[:9]
            and pseudonyms.FORM.fullmatch(one)
            and pseudonyms.FORM.fullmatch(name)
        ):
            raise PseudonymError(
                f"the open requests were taken in with the pseudonym key {one[:8]}, and the key "
                f"at hand is {name[:8]}; "
                f"set {pseudonyms.KEY} to the one before, or close those requests first"
            )


_FOLLOWING = [
    requests.c[name]
    for name in (
        "request_id", "regulation", "submitted", "source", "digest", "due", "extended", "state", "held", "batch",
        "verdict", "duplicate_of",
    )
]  # fmt: skip
"""Columns that follow from the events."""


def _replay(said: dict[str, Any], event: Event) -> None:
    """Bring what the events said of a request so far up to one more event."""
    details = event.details
    if event.kind == State.RECEIVED:
        copied = ("regulation", "submitted", "source", "digest", "due", "duplicate_of")
        said |= {name: details.get(name) for name in copied}
        said |= {
            "request_id": event.request_id,
            "extended": False,
            "held": False,
            "batch": None,
            "verdict": None,
        }
    if event.kind in tuple(State):
        said["state"] = event.kind
        said["batch"] = event.batch or said["batch"]
        said["verdict"] = details.get("verdict") or said["verdict"]
    elif event.kind in (HELD, LIFTED):
        said["held"] = event.kind == HELD
    elif event.kind == EXTENDED:
        said |= {"extended": True, "due": details.get("to")}


def _case(row: Any) -> Case:
    return Case(
        request_id=row.request_id,
        regulation=row.regulation,
        submitted=row.submitted,
        source=row.source,
        identities=tuple(row.identities),
        wishes=row.wishes,
        callbacks=tuple(row.callbacks),
        due=None if row.due is None else date.fromisoformat(row.due),
        extended=bool(row.extended),
        state=State(row.state),
        held=bool(row.held),
        batch=row.batch,
        verdict=row.verdict,
        duplicate_of=row.duplicate_of,
    )


def _event(row: Any) -> Event:
    return Event(
        row.seq,
        row.at,
        row.actor,
        row.request_id,
        row.batch,
        row.kind,
        json.loads(row.details),
        row.previous,
        row.hash,
    )


def _gone(holder: str) -> bool:
    """Whether a lease's holder was a process of this machine that lives no more."""
    import psutil

    machine, pid, started, *_ = holder.split(":")
    if machine != _machine():
        return False
    return not psutil.pid_exists(int(pid)) or _started(int(pid)) not in (started, "unknown")


def _started(pid: int) -> str:
    """When a process began, so that a later one of the same number is told from it.

    In ticks since the machine was started: a clock that is set does not change them.
    """
    try:
        state, *facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):  # no Linux, or a process that is not shown to us
        return "unknown"
    return "ended" if state == "Z" else facts[18]


@functools.cache
def _machine() -> str:
    """This machine since it was started, and this container on it: numbers of processes mean
    something only here."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return _sha256(_canonical(parts))[:16]


@contextlib.contextmanager
def opened(home: Path) -> Iterator[Register]:
    """The register of a workspace, with its settings' holidays, closed at the end.

    Raises:
        SettingsError: `params.yaml` cannot be used.
        WorkspaceError: the database cannot be used.
    """
    from tasks.common import settings

    register = Register(home, settings.load(home / "params.yaml").report.holidays)
    try:
        yield register
    finally:
        register.close()


def heads(home: Path) -> list[Head]:
    """The earlier ends of the chain that git keeps in `ledger/chain/`.

    Raises:
        RegisterError: a file there is none of ours.
    """
    found = []
    for path in sorted((home / HEADS).glob("*.json")):
        try:
            value = files.read_json(path)
            found.append(Head(int(value["seq"]), str(value["hash"])))
        except (AuditError, KeyError, TypeError, ValueError) as error:
            raise RegisterError(
                f"{HEADS / path.name}: expected the end of the chain; `git checkout` brings it back"
            ) from error
    return found


def _askable(text: str | None) -> bool:
    """Whether a database can be asked for a text; PostgreSQL refuses NUL and half characters."""
    return text is None or _cut(text) == text


def _cut(value: Any) -> Any:
    """A value of an event: texts of a bearable length, without characters that a database cannot
    keep."""
    if isinstance(value, str):
        value = value.encode(errors="replace").decode().replace("\0", "�")
        return value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"
    if isinstance(value, Mapping):
        return {key: _cut(one) for key, one in value.items()}
    return [_cut(one) for one in value] if isinstance(value, list | tuple) else value


def _shown(request_id: str) -> str:
    """An id for a message; what is no UUID may be anything, so it is not repeated."""
    try:
        return str(UUID(request_id))
    except ValueError:
        return "of that name (expected a UUID)"


def _canonical(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> str:
    return _text(datetime.now(UTC))


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
