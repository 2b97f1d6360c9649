"""The register of requests: every request from its receipt to its closing, each step with time and
actor.

The current state is derived from a hash-chained event log (`chain`) and written in the same
transaction. Pseudonyms of closed requests are dropped; the rest does not identify anybody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flows.register import (
    backup,
    callback_queue,
    chain,
    chain_key,
    changes,
    database,
    kept_end,
    leases,
    moves,
    receiving,
    request_rows,
    transactions,
    vouching,
)
from flows.register.callback_queue import DueCallback
from flows.register.chain import BOUND, Event, Head, Step
from flows.register.kept_end import KeptEnd
from flows.register.leases import Lease
from flows.register.receiving import Arrival
from flows.register.states import (
    BLOCKED,
    CHANGES,
    CORRECTED,
    EXTENDED,
    IN_BATCH,
    MOVES,
    OPEN,
    OUTWARD,
    SET_ASIDE,
    BusyError,
    Case,
    ConflictError,
    Intake,
    LostLeaseError,
    RegisterError,
    State,
    UnknownRequestError,
)
from tasks.common import files
from tasks.requests import provisions

__all__ = [
    "BLOCKED",
    "CORRECTED",
    "EXTENDED",
    "IN_BATCH",
    "MOVES",
    "OPEN",
    "OUTWARD",
    "SET_ASIDE",
    "BusyError",
    "Case",
    "ConflictError",
    "DueCallback",
    "Event",
    "Head",
    "Intake",
    "Lease",
    "LostLeaseError",
    "Register",
    "RegisterError",
    "State",
    "UnknownRequestError",
    "opened",
]


class Register:
    """The register of one workspace. All methods may be called from several threads and
    processes.

    A method opens a transaction; the module of its subject does the work in it.

    Attributes:
        engine: the database.
    """

    def __init__(self, home: Path, holidays: Collection[date] = ()) -> None:
        """Args:
        home: the workspace.
        holidays: public holidays, for deadlines; `settings.report.holidays`.

        Raises:
            WorkspaceError: the database cannot be used.
            RegisterError: the chain's key cannot be used.
        """
        self._home = home
        self._holidays = frozenset(holidays)
        self.engine: sa.Engine = database.connect(home)
        key = chain_key.load_key(home)
        if key is None and self.head().seq == 0:  # a new register gets a key
            key = chain_key.make(home)
        self._key = key and self._with_keeper(key)

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    # -- requests come in -------------------------------------------------------------------------

    def receive(
        self, request: Intake, actor: str, source: str, at: datetime | None = None
    ) -> tuple[Case, bool]:
        """Take a request in; a repetition changes nothing.

        If an audit set a request aside and a person has not decided yet, the same id with another
        content corrects it: its hold ends, its identity must be verified again, and the event
        `corrected` names the changed parts and the digest of the earlier content.

        The deadline counts from receipt (GDPR Art. 12(3)): from the request's own time stamp, which
        is earlier than the arrival if an intermediary forwarded it, but never later than the
        arrival. The day is that of the time stamp's own offset.

        Args:
            request: the request.
            actor: the sender.
            source: `http`, `drop folder`, `csv` or `file`.
            at: the arrival, with an offset; None: now.

        Returns:
            The case, and whether it is new or newly corrected. A case that shares an identity with
            an open one is marked as its duplicate and kept: a person decides.

        Raises:
            ConflictError: the id is known with another content, and was not set aside.
            RequestError: the deadline cannot be counted.
            PseudonymError: its pseudonyms are of another key than those of the open requests.
        """
        with self._writing() as connection:
            return receiving.receive(
                connection,
                self._key,
                request,
                Arrival(actor, source, at or datetime.now(UTC)),
                self._holidays,
            )

    def verify_identity(self, request_id: str, actor: str, how: str) -> Case:
        """Mark the identity as verified; `how` it was checked must hold no personal data."""
        return self.move([request_id], State.IDENTITY_VERIFIED, actor, how=how)[0]

    def reject(self, request_id: str, actor: str, reason: str) -> Case:
        """Refuse a request for good."""
        return self.move([request_id], State.REJECTED, actor, reason=reason)[0]

    def cancel(self, request_id: str, actor: str, reason: str, ground: str = "") -> Case:
        """Withdraw a request that is in no batch yet; a rejected one stays as it is.

        Args:
            request_id: of the request.
            actor: who withdraws it.
            reason: why; no personal data.
            ground: the provision that this rests on; empty: none is named.

        Raises:
            RegisterError: it is or was in a batch.
            RequestError: the ground is of another law than the request.
        """
        with self._writing() as connection:
            case = request_rows.case_of(connection, request_id)
            if case.state not in (State.RECEIVED, State.IDENTITY_VERIFIED, State.REJECTED):
                raise RegisterError(
                    f"request {request_id} is {case.shown}; it can be cancelled before it is "
                    "batched"
                )
            details = {"reason": reason} | ({"ground": ground} if ground else {})
            cancelled = moves.move(
                connection, self._key, [request_id], State.REJECTED, actor, details=details
            )[0]
            # after the row was found intact; an error takes the move back
            provisions.check(ground, case.regulation, case.request_id)
            return cancelled

    def hold(self, request_id: str, actor: str, reason: str, ground: str = "") -> Case:
        """Put a legal hold on a request: its batch is neither released nor erased until the hold is
        lifted.

        Args:
            request_id: of the request.
            actor: who puts it on hold.
            reason: why; no personal data.
            ground: the provision that this rests on; empty: Art. 17(3)(e) under the GDPR.

        Raises:
            RegisterError: it is on hold already, or no longer open.
            RequestError: the ground is of another law than the request, or there is none.
        """
        details = {"reason": reason, "ground": ground}
        with self._writing() as connection:
            return changes.set_hold(connection, self._key, request_id, actor, True, details)

    def lift(self, request_id: str, actor: str, reason: str) -> Case:
        """Lift a legal hold."""
        details = {"reason": reason}
        with self._writing() as connection:
            return changes.set_hold(connection, self._key, request_id, actor, False, details)

    def extend(self, request_id: str, actor: str, reason: str) -> Case:
        """Extend the deadline once, as the regulation allows; the data subject must be told why.

        Raises:
            RegisterError: it was extended already, is closed, or the regulation has no extension.
        """
        with self._writing() as connection:
            return changes.extend(connection, self._key, request_id, actor, reason, self._holidays)

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
        """Move requests to a state, all of them or none. Requests in that state stay as they are.

        Args:
            request_ids: the requests.
            state: their new state.
            actor: the acting person or program.
            batch: the batch that they enter, or that the event belongs to; None: their own.
            verdicts: by request, for `audited`.
            details: further facts for the event; no personal data.

        Raises:
            UnknownRequestError: there is no such request.
            RegisterError: a request may not move to the state, or is on hold.
        """
        with self._writing() as connection:
            return moves.move(
                connection, self._key, request_ids, state, actor, batch, verdicts or {}, details
            )

    def collect(self, batch: str, actor: str, limit: int = 1000) -> list[Case]:
        """Put all requests that wait for a batch into one, those with the nearest deadline first.

        Args:
            batch: its name.
            actor: the acting person or program.
            limit: maximum number of requests.

        Returns:
            The cases; empty if none waits.

        Raises:
            RegisterError: another batch is in flight, or the name was used before.
        """
        with self._writing() as connection:
            return moves.collect(connection, self._key, batch, actor, limit)

    def note(
        self,
        kind: str,
        actor: str,
        *,
        request_id: str | None = None,
        batch: str | None = None,
        **details: Any,
    ) -> Event:
        """Record something that changes no state: a decision, a failure, a sent warning.

        Raises:
            UnknownRequestError: there is no such request.
            RegisterError: events of this kind record a change of state.
        """
        return self.note_all([Step(actor, request_id, batch, kind, details)])[0]

    def note_all(self, steps: Sequence[Step]) -> list[Event]:
        """Record several notes, all of them or none; errors are those of `note`."""
        on_requests = [step for step in steps if step.request_id is not None]
        for step in on_requests:
            if step.kind in {*CHANGES, BOUND}:
                raise RegisterError(
                    f"got {step.kind} as a note on a request; such events record a change, so "
                    "change the request"
                )
        with self._writing() as connection:
            for step in on_requests:
                request_rows.case_of(connection, str(step.request_id))
            return chain.append(connection, self._key, list(steps))

    # -- looking ----------------------------------------------------------------------------------

    def case(self, request_id: str) -> Case:
        """One request.

        Raises:
            UnknownRequestError: there is no such request.
        """
        with transactions.reading(self.engine) as connection:
            return request_rows.case_of(connection, request_id)

    def find(self, beginning: str) -> str:
        """The full id of the request whose id has this beginning.

        Raises:
            UnknownRequestError: no request or several requests match.
        """
        with transactions.reading(self.engine) as connection:
            return request_rows.find(connection, beginning)

    def cases(
        self, states: Collection[State] | None = None, batch: str | None = None
    ) -> list[Case]:
        """Requests, the nearest deadline first, filtered by state and batch."""
        with transactions.reading(self.engine) as connection:
            return request_rows.cases(connection, states, batch)

    def bound(self, batch: str) -> list[Case]:
        """The requests of a batch, each checked against its events.

        Raises:
            RegisterError: one differs from its events.
        """
        with transactions.snapshot(self.engine) as connection:
            ids = [case.request_id for case in request_rows.cases(connection, None, batch)]
            contents = chain.require_bound(connection, self._key, ids)
            return [request_rows.as_case(contents[request_id].columns) for request_id in ids]

    def page(
        self,
        states: Collection[State] | None = None,
        batch: str | None = None,
        *,
        held: bool = False,
        first: int = 0,
        limit: int = 100,
    ) -> tuple[int, list[Case]]:
        """The number of matching requests, and one page of them, ordered as `cases`.

        Args:
            states: only those in one of them.
            batch: only those in it.
            held: only those on hold.
            first: number of requests to skip.
            limit: maximum number of requests.
        """
        with transactions.reading(self.engine) as connection:
            return request_rows.page(connection, states, batch, held, first, limit)

    def in_flight(self) -> str | None:
        """The batch that is neither erased nor given up, if there is one."""
        cases = self.cases(IN_BATCH)
        return cases[0].batch if cases else None

    def history(
        self, request_id: str | None = None, batch: str | None = None, kind: str | None = None
    ) -> list[Event]:
        """Events in their order, filtered by request, batch (with its requests' events) and
        kind."""
        with transactions.reading(self.engine) as connection:
            return chain.history(connection, request_id, batch, kind)

    def latest(self, kind: str | None = None, first: int = 0, limit: int = 100) -> list[Event]:
        """The last events, the newest first.

        Args:
            kind: of the events; None: all.
            first: number of events to skip.
            limit: maximum number of events.
        """
        with transactions.reading(self.engine) as connection:
            return chain.latest(connection, kind, first, limit)

    def head(self) -> Head:
        """The end of the chain."""
        with transactions.reading(self.engine) as connection:
            return chain.head_of(connection)

    def file_head(self, path: Path) -> Head:
        """Write the end of the chain into a file that git will keep,
        `ledger/chain/<batch>.json`."""
        head = self.head()
        files.write_json(path, {"seq": head.seq, "hash": head.hash})
        return head

    def check_chain(self, ends: Sequence[Head] = ()) -> Head:
        """Check the whole chain, and every column of every request against it. The chain must
        contain the end that this machine kept last (`kept_end`).

        Args:
            ends: earlier ends, as `anchors.heads` returns them.

        Raises:
            RegisterError: the chain or a request is damaged, see `chain.check`; or the file of the
                end that this machine kept is gone.
        """
        kept_head = self.kept_end()
        with transactions.snapshot(self.engine) as connection:
            head = chain.check(connection, self._key, [*ends, *([kept_head] if kept_head else [])])
            self._refuse_lost_end(connection, kept_head)
            return head

    def kept_end(self) -> Head | None:
        """The end of the chain that this machine kept outside the database; None: none yet.

        Raises:
            RegisterError: the file was changed.
        """
        return KeptEnd(self._home, self._key).read() if self._key is not None else None

    def bind(self, actor: str, ends: Sequence[Head] = ()) -> Head:
        """Vouch for a register that an earlier version of the tool wrote, without a key.

        Its chain is checked, then every request is bound as it is now. Earlier changes of columns
        cannot be detected: a person must have checked the requests.

        Raises:
            RegisterError: the chain is damaged, or has a key already.
        """
        kept_head = self.kept_end()
        with transactions.writing(self.engine) as connection:
            all_ends = [*ends, *([kept_head] if kept_head else [])]
            head = chain.check(connection, None, all_ends, keyed=False)
            self._key = self._with_keeper(chain_key.make(self._home))
            bound = vouching.bind(connection, self._key, actor, head)
        KeptEnd(self._home, self._key).keep(bound)
        return bound

    def accept_restored(self, actor: str, reason: str) -> Head:
        """Go on from a backup although this machine kept a later end, or although the file with the
        kept end is gone. The chain records who accepted that, and which events may be lost. Ends
        that git keeps stay.

        Raises:
            RegisterError: the chain of the backup is damaged, or nothing has to be accepted.
        """
        kept_head = self.kept_end()
        if self._key is None:
            raise RegisterError("no end of the chain is kept here, so nothing has to be accepted")
        with transactions.writing(self.engine) as connection:
            restored = vouching.accept_restored(connection, self._key, actor, reason, kept_head)
        KeptEnd(self._home, self._key).replace(restored)
        return restored

    def backup(self, target: Path) -> Head:
        """Copy the register into a new file while others work, and check the copy's chain; for
        SQLite only.

        Raises:
            RegisterError: the register is in PostgreSQL, the file exists already or cannot be
                written.
        """
        return backup.copy(self.engine, self._key, target)

    # -- who works --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lease(self, name: str, seconds: float = 600.0) -> Iterator[Lease]:
        """Do exclusive work inside the block, across processes and machines.

        The lease is renewed as long as the process lives. After its death it holds for at most
        `seconds`; on the same machine, where the death is visible, it ends at once. Call `check` of
        the lease before a step that cannot be undone. Clocks of machines may differ by a few
        seconds, not by minutes.

        Raises:
            BusyError: another process holds the lease.
        """
        lease = Lease(self.engine, name, seconds)
        lease.take()
        try:
            yield lease
        finally:
            lease.release()

    def working(self) -> list[tuple[str, str, str]]:
        """The current leases; see `leases.working`."""
        with transactions.reading(self.engine) as connection:
            return leases.working(connection)

    # -- who is told ------------------------------------------------------------------------------

    def undelivered(self, moment: datetime | None = None, limit: int = 100) -> list[DueCallback]:
        """Status callbacks that are due, in a fair order; see `callback_queue.due`."""
        with transactions.reading(self.engine) as connection:
            return callback_queue.due(connection, moment or datetime.now(UTC), limit)

    def record_try(self, seq: int, url: str, outcome: str, again: datetime | None) -> None:
        """Record a try to deliver a callback; `again` is None if it was delivered or given up."""
        with transactions.writing(self.engine) as connection:
            callback_queue.record(connection, seq, url, outcome, again)

    # -- inside a transaction ---------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction that may add events. The chain must contain the end that was kept outside
        the database; the new end is kept there after the commit."""
        if self._key is None:  # `chain.append` raises the error
            with transactions.writing(self.engine) as connection:
                yield connection
            return
        end = KeptEnd(self._home, self._key)
        end.prepare()
        with transactions.writing(self.engine) as connection:
            kept_head = end.read()
            self._refuse_lost_end(connection, kept_head)
            chain.require_head(connection, kept_head)
            before = chain.head_of(connection)
            yield connection
            head = chain.head_of(connection)
            if kept_head is None and head != before:  # the file must exist before its first event
                end.keep(before)
        if head.seq:
            end.keep(head)

    def _with_keeper(self, key: chain_key.ChainKey) -> chain_key.ChainKey:
        return kept_end.with_keeper(self._home, key, database.is_own(self._home))

    def _refuse_lost_end(self, connection: sa.Connection, kept_head: Head | None) -> None:
        """Raise `RegisterError` if this machine kept an end before and its file is gone."""
        keeper = self._key.keeper if self._key is not None else None
        if kept_head is None and chain.has_keeper(connection, keeper):
            raise RegisterError(kept_end.LOST)


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
