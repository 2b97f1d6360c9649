"""The register of requests: every request from its receipt to its closing, each step with time and
actor.

The current state is derived from a hash-chained event log (`chain`) and is written in the same
transaction. Pseudonyms of a closed request are dropped; nothing that stays says whom it was about.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flows.register import (
    backup,
    callback_queue,
    chain,
    chain_key,
    database,
    kept_end,
    moves,
    receiving,
    request_rows,
    transactions,
)
from flows.register.callback_queue import DueCallback
from flows.register.chain import BOUND, RESTORED, Content, Event, Head, Step
from flows.register.encoding import now, queryable
from flows.register.kept_end import KeptEnd
from flows.register.leases import Lease
from flows.register.receiving import Arrival
from flows.register.states import (
    BLOCKED,
    CHANGES,
    CORRECTED,
    EXTENDED,
    HELD,
    IN_BATCH,
    LIFTED,
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
from flows.register.tables import leases, requests
from tasks.common import files
from tasks.requests import deadlines

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

    A method opens a transaction; what is done in it is in the module of its subject.

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
        key = chain_key.at_hand(home)
        if key is None and self.head().seq == 0:  # a new register gets a key
            key = chain_key.make(home)
        self._key = key and self._named(key)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    # -- requests come in -------------------------------------------------------------------------

    def receive(
        self, request: Intake, actor: str, source: str, at: datetime | None = None
    ) -> tuple[Case, bool]:
        """Take a request in; the same one again changes nothing.

        A request that an audit set aside, and that waits for a person, may come again under its id
        with another content: that corrects it. Its hold ends, whoever it names now has to be
        verified anew, and the event `corrected` says which parts changed and names the digest of
        the earlier content, which the event `received` keeps.

        The deadline counts from receipt (GDPR Art. 12(3)): from the request's own time stamp, which
        is earlier than the arrival here where an intermediary forwards it, and never from later
        than the arrival. The day is read by the offset that the time stamp names.

        Args:
            request: the request.
            actor: who brings it.
            source: `http`, `drop folder`, `csv` or `file`.
            at: when it arrived, with an offset; None: now.

        Returns:
            The case, and whether it is new, or newly corrected. A case whose identities meet those
            of an open one is marked as its duplicate and kept all the same: a person decides.

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

    def cancel(self, request_id: str, actor: str, reason: str) -> Case:
        """Withdraw a request that is in no batch yet; one that is rejected already is left alone.

        Raises:
            RegisterError: it is in a batch, or past one.
        """
        with self._writing() as connection:
            case = request_rows.case_of(connection, request_id)
            if case.state not in (State.RECEIVED, State.IDENTITY_VERIFIED, State.REJECTED):
                raise RegisterError(
                    f"request {request_id} is {case.shown}; it can be cancelled before it is "
                    "batched"
                )
            details = {"reason": reason}
            return moves.move(
                connection, self._key, [request_id], State.REJECTED, actor, details=details
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
        with self._writing() as connection:
            content = self._bound(connection, request_id)
            case = request_rows.as_case(content.columns)
            due = deadlines.extended(
                case.regulation, datetime.fromisoformat(case.submitted).date(), self._holidays
            )
            if due is None or case.extended or case.state not in OPEN:
                raise RegisterError(
                    f"request {request_id}: its deadline cannot be extended ({case.regulation}, "
                    f"{case.shown}{', extended before' if case.extended else ''})"
                )
            details = {
                "reason": reason,
                "from": case.due and case.due.isoformat(),
                "to": due.isoformat(),
            }
            if case.due is not None and datetime.now(UTC).date() > case.due:
                details["late"] = "the first deadline had passed"
            changes = {"due": due.isoformat(), "extended": True}
            step = Step(actor, case.request_id, case.batch, EXTENDED, details)
            return self._change(connection, content, changes, step)

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
        with self._writing() as connection:
            return moves.move(
                connection, self._key, request_ids, state, actor, batch, verdicts or {}, details
            )

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
        with self._writing() as connection:
            return moves.collect(connection, self._key, batch, actor, most)

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
        return self.note_all([Step(actor, request_id, batch, kind, details)])[0]

    def note_all(self, steps: Sequence[Step]) -> list[Event]:
        """Write down several notes, all of them or none; errors are those of `note`."""
        about = [step for step in steps if step.request_id is not None]
        for step in about:
            if step.kind in {*CHANGES, BOUND}:
                raise RegisterError(
                    f"got {step.kind} as a note on a request; it comes with a change, so change "
                    "the request"
                )
        with self._writing() as connection:
            for step in about:
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
        """The id of the request that begins so.

        Raises:
            UnknownRequestError: none does, or several do.
        """
        with transactions.reading(self.engine) as connection:
            return request_rows.find(connection, beginning)

    def cases(
        self, states: Collection[State] | None = None, batch: str | None = None
    ) -> list[Case]:
        """Requests, the nearest deadline first; all, or those in some states or of one batch."""
        if not queryable(batch):
            return []
        with transactions.reading(self.engine) as connection:
            query = request_rows.urgent_first(request_rows.conditions(states, batch))
            rows = connection.execute(query)
            return [request_rows.as_case(dict(row._mapping)) for row in rows]

    def bound(self, batch: str) -> list[Case]:
        """The requests of a batch, each compared with what the chain says of it.

        Raises:
            RegisterError: one is not as its events say.
        """
        with transactions.snapshot(self.engine) as connection:
            query = request_rows.urgent_first(request_rows.conditions(None, batch))
            ids = [row.request_id for row in connection.execute(query)]
            contents = chain.require_bound(connection, self._key, ids)
            return [request_rows.as_case(contents[request_id].columns) for request_id in ids]

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
        if not queryable(batch):
            return 0, []
        with transactions.reading(self.engine) as connection:
            where = request_rows.conditions(states, batch, held)
            return request_rows.page(connection, where, first, most)

    def in_flight(self) -> str | None:
        """The batch that is neither erased nor given up, if there is one."""
        cases = self.cases(IN_BATCH)
        return cases[0].batch if cases else None

    def history(
        self, request_id: str | None = None, batch: str | None = None, kind: str | None = None
    ) -> list[Event]:
        """Events in their order; all, or those of a request, of a batch (its requests' events
        included), of a kind."""
        with transactions.reading(self.engine) as connection:
            return chain.history(connection, request_id, batch, kind)

    def latest(self, kind: str | None = None, first: int = 0, most: int = 100) -> list[Event]:
        """The last events, the newest first; all, or those of a kind.

        Args:
            kind: which.
            first: how many to pass over.
            most: how many to give at most.
        """
        with transactions.reading(self.engine) as connection:
            return chain.latest(connection, kind, first, most)

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

    def check_chain(self, known: Sequence[Head] = ()) -> Head:
        """Check the whole chain, and every column of every request against it. It has to hold the
        end that this machine kept last (`kept_end`).

        Args:
            known: earlier ends, as `anchors.heads` finds them.

        Raises:
            RegisterError: what is wrong, in the user's terms; see `chain.check`. Or this machine
                has kept an end before, and its file is gone.
        """
        kept = self.kept_end()
        with transactions.snapshot(self.engine) as connection:
            head = chain.check(connection, self._key, [*known, *([kept] if kept else [])])
            self._refuse_lost_end(connection, kept)
            return head

    def kept_end(self) -> Head | None:
        """The end of the chain that this machine kept outside the database; None: none yet.

        Raises:
            RegisterError: the file was changed.
        """
        return KeptEnd(self._home, self._key).read() if self._key is not None else None

    def bind(self, actor: str, known: Sequence[Head] = ()) -> Head:
        """Vouch for a register that an earlier version of the tool wrote, without a key.

        Its chain is checked, then every request is bound as it is now. Nothing can tell whether a
        column was changed before: a person has to have looked.

        Raises:
            RegisterError: the chain is damaged, or has a key already.
        """
        kept = self.kept_end()
        with transactions.writing(self.engine) as connection:
            ends = [*known, *([kept] if kept else [])]
            head = chain.check(connection, None, ends, keyed=False)
            self._key = self._named(chain_key.make(self._home))
            ids = list(connection.scalars(sa.select(requests.c.request_id).order_by("request_id")))
            contents = chain.contents(connection, ids)
            steps = [Step(actor, name, None, BOUND, {}, content=contents[name]) for name in ids]
            steps = steps or [Step(actor, None, None, BOUND, {})]
            last = chain.append(connection, self._key, steps, after=head)[-1]
        bound = Head(last.seq, last.hash)
        KeptEnd(self._home, self._key).keep(bound)
        return bound

    def accept_restored(self, actor: str, reason: str) -> Head:
        """Go on from a backup although this machine kept a later end, or although the file with the
        end that it kept is gone; the chain says who accepted that, and which events may be lost.
        Ends that git keeps are not touched.

        Raises:
            RegisterError: the chain of the backup is damaged, or nothing has to be accepted.
        """
        kept = self.kept_end()
        if self._key is None:
            raise RegisterError("no end of the chain is kept here, so nothing has to be accepted")
        with transactions.writing(self.engine) as connection:
            head = chain.check(connection, self._key)
            if kept is None and not self._kept_before(connection):
                raise RegisterError(
                    "no end of the chain was ever kept here, so nothing has to be accepted"
                )
            if kept is not None and chain.holds(connection, kept):
                raise RegisterError(
                    f"the register holds event {kept.seq}, the last one that was kept here: "
                    "nothing is lost, so nothing has to be accepted"
                )
            details = {
                "reason": reason,
                "kept_until": kept.seq if kept else "the file with the kept end was gone",
                "restored_until": head.seq,
            }
            step = Step(actor, None, None, RESTORED, details)
            last = chain.append(connection, self._key, [step])[0]
        restored = Head(last.seq, last.hash)
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
        """Do exclusive work inside the block, wherever the others run.

        The lease is renewed as long as the process lives; after it died, the lease holds for
        `seconds` at most, or no longer at all for somebody on the same machine who can see that the
        process is gone. Call `check` of what is yielded before a step that cannot be undone.
        Machines' clocks may differ by a few seconds and not by minutes.

        Raises:
            BusyError: somebody else holds it.
        """
        held = Lease(self.engine, name, seconds)
        held.take()
        try:
            yield held
        finally:
            held.release()

    def working(self) -> list[tuple[str, str, str]]:
        """Leases that hold: name, since when, and until when if nobody renews it."""
        with transactions.reading(self.engine) as connection:
            query = sa.select(leases).where(leases.c.until > now()).order_by(leases.c.name)
            return [(row.name, row.since, row.until) for row in connection.execute(query)]

    # -- who is told ------------------------------------------------------------------------------

    def undelivered(self, at: datetime | None = None, most: int = 100) -> list[DueCallback]:
        """Status callbacks whose time has come, in a fair order; see `callback_queue.due`."""
        with transactions.reading(self.engine) as connection:
            return callback_queue.due(connection, at or datetime.now(UTC), most)

    def tried(self, seq: int, url: str, outcome: str, again: datetime | None) -> None:
        """Record a try to deliver a callback; `again` is None if it is delivered or given up."""
        with transactions.writing(self.engine) as connection:
            callback_queue.record(connection, seq, url, outcome, again)

    # -- inside a transaction ---------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction that may add events. It goes on only from a chain that still holds the end
        kept outside the database, and keeps the new end there after the commit."""
        if self._key is None:  # adding an event says what is missing
            with transactions.writing(self.engine) as connection:
                yield connection
            return
        end = KeptEnd(self._home, self._key)
        end.prepare()
        with transactions.writing(self.engine) as connection:
            kept = end.read()
            self._refuse_lost_end(connection, kept)
            chain.require_head(connection, kept)
            before = chain.head_of(connection)
            yield connection
            head = chain.head_of(connection)
            if kept is None and head != before:  # the file has to be there before its first event
                end.keep(before)
        if head.seq:
            end.keep(head)

    def _named(self, key: chain_key.ChainKey) -> chain_key.ChainKey:
        return kept_end.with_keeper(self._home, key, database.is_own(self._home))

    def _kept_before(self, connection: sa.Connection) -> bool:
        """Whether this machine has kept an end before."""
        keeper = self._key.keeper if self._key is not None else None
        return keeper is not None and chain.has_keeper(connection, keeper)

    def _refuse_lost_end(self, connection: sa.Connection, kept: Head | None) -> None:
        if kept is None and self._kept_before(connection):
            raise RegisterError(kept_end.LOST)

    def _bound(self, connection: sa.Connection, request_id: str) -> Content:
        """A request that is about to be changed: a change must not cover up one by another hand."""
        request_id = request_rows.case_of(connection, request_id).request_id
        return chain.require_bound(connection, self._key, [request_id])[request_id]

    def _change(
        self, connection: sa.Connection, content: Content, changes: Mapping[str, Any], step: Step
    ) -> Case:
        """Change columns of a request, and write the event of it; the request afterwards."""
        after = content.changed(**changes)
        case = request_rows.as_case(after.columns)
        request_rows.change(connection, case.request_id, **changes)
        told = replace(step, callbacks=case.callbacks, content=after)
        chain.append(connection, self._key, [told])
        return case

    def _flag(self, request_id: str, actor: str, held: bool, details: Mapping[str, Any]) -> Case:
        with self._writing() as connection:
            content = self._bound(connection, request_id)
            case = request_rows.as_case(content.columns)
            if case.held == held or (held and case.state not in OPEN):
                raise RegisterError(
                    f"request {request_id} is {case.shown}; a hold cannot be "
                    f"{'set' if held else 'lifted'}"
                )
            step = Step(actor, case.request_id, case.batch, HELD if held else LIFTED, details)
            return self._change(connection, content, {"held": held}, step)


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
