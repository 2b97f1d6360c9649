"""The chain of events, and the rows of requests that it binds.

Each event's hash covers the event and the previous hash; its MAC, made with the chain's key,
authenticates that hash. An event that changes a request also holds a digest of the request's row
and of its entries in the table of identities, as the tool meant to write them. So every change,
addition or removal of an event or a row by somebody without the key is detected. Only cutting off
the last events is not: that needs an end outside the database (`kept_end`, `anchors`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from flows.register.chain_key import KEY, ChainKey
from flows.register.encoding import canonical, digest, now, queryable, storable
from flows.register.states import RegisterError
from flows.register.tables import callbacks, events, identities, requests

GENESIS = "0" * 64
"""The previous hash of the first event."""
BOUND = "bound"
"""Kind of events by which a person vouches for requests that an earlier version wrote."""
RESTORED = "restored"
"""Kind of events by which a person accepts that a backup lacks events."""
IDS_PER_QUERY = 1000
"""Maximum number of ids in a query; databases limit the number of parameters."""
RESTORE = "stop, find out who changed the database, and restore a backup"


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
    row_digest: str | None = field(default=None, repr=False)
    mac: str | None = field(default=None, repr=False)
    keeper: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Content:
    """The current content of a request in the register: its row, and its entries in the table of
    identities.

    Attributes:
        columns: of the row. Null counts as missing, so that a later version may add columns.
        names: the pseudonyms in the table of identities.
    """

    columns: Mapping[str, Any] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the whole content."""
        columns = {name: value for name, value in self.columns.items() if value is not None}
        for name in ("held", "extended"):
            columns[name] = bool(columns[name])
        return digest([columns, sorted(self.names)])

    def changed(self, **columns: Any) -> Content:
        """A copy with other values in some columns."""
        return replace(self, columns={**self.columns, **columns})


@dataclass(frozen=True)
class Head:
    """The end of the chain. A kept end shows later whether anything before it was changed."""

    seq: int
    hash: str


@dataclass(frozen=True)
class Step:
    """An event to be written.

    Attributes:
        actor: who does it.
        request_id: the request that it is about.
        batch: the batch that it is about.
        kind: of event.
        details: further facts; no personal data.
        callbacks: addresses that are told of it.
        content: the intended content of the request after the change; None: it changes nothing.
    """

    actor: str
    request_id: str | None
    batch: str | None
    kind: str
    details: Mapping[str, Any]
    callbacks: Sequence[str] = ()
    content: Content | None = None


def append(
    connection: sa.Connection,
    key: ChainKey | None,
    steps: Sequence[Step],
    after: Head | None = None,
) -> list[Event]:
    """Add events to the chain, and their status callbacks to the queue.

    Call it after the rows of the requests were changed, in the same transaction. Each event binds
    the intended content, and only if the rows match it: a trigger or a rule in the database could
    have changed more.

    Args:
        connection: of a writer.
        key: the chain's key.
        steps: what happened.
        after: an end without a MAC that the caller has checked; None: the last event needs one.

    Raises:
        RegisterError: the key is missing, the last event was not made with it, or a row differs
            from the intended content.
    """
    last = connection.execute(sa.select(events).order_by(events.c.seq.desc()).limit(1)).first()
    head = Head(0, GENESIS) if last is None else Head(last.seq, last.hash)
    if key is None:
        raise RegisterError(_no_key())
    if last is not None and after != head and not _authentic(last, key):
        raise RegisterError(_unauthentic(last))
    _require_written(connection, steps)
    rows, queue = list[dict[str, Any]](), list[dict[str, Any]]()
    for step in steps:
        row = {
            "seq": head.seq + 1,
            "at": now(),
            "actor": storable(step.actor)[:200],
            "request_id": step.request_id,
            "batch": step.batch,
            "kind": step.kind,
            "details": canonical(storable(step.details)),
            "previous": head.hash,
            "row_digest": step.content and step.content.digest,
            "keeper": key.keeper,
        }
        row["hash"] = event_hash(row)
        row["mac"] = key.mac(row["hash"])
        head = Head(head.seq + 1, row["hash"])
        rows.append(row)
        queue += [
            {"seq": head.seq, "url": url, "tries": 0, "next_try": row["at"]}
            for url in dict.fromkeys(step.callbacks)
        ]
    if rows:
        connection.execute(events.insert(), rows)
    if queue:
        connection.execute(callbacks.insert(), queue)
    return [Event(**{**row, "details": json.loads(row["details"])}) for row in rows]


def head_of(connection: sa.Connection) -> Head:
    """The end of the chain."""
    row = connection.execute(
        sa.select(events.c.seq, events.c.hash).order_by(events.c.seq.desc()).limit(1)
    ).first()
    return Head(0, GENESIS) if row is None else Head(row.seq, row.hash)


def require_head(connection: sa.Connection, end: Head | None) -> None:
    """Check that the chain contains an end that was kept outside the database.

    Raises:
        RegisterError: it does not.
    """
    if end is None or end.seq == 0:
        return
    event_hash = connection.scalar(sa.select(events.c.hash).where(events.c.seq == end.seq))
    if event_hash is None:
        raise RegisterError(_cut(end.seq))
    if event_hash != end.hash:
        raise RegisterError(_differs(end.seq))


def contains(connection: sa.Connection, end: Head) -> bool:
    """Whether the chain contains an end."""
    query = sa.select(events.c.hash).where(events.c.seq == end.seq)
    return bool(connection.scalar(query) == end.hash)


def event_of(row: Any) -> Event:
    """An event from its row.

    Raises:
        ValueError: its details are not JSON.
    """
    values = {column.name: row._mapping[column.name] for column in events.c}
    return Event(**{**values, "details": json.loads(row.details)})


def history(
    connection: sa.Connection, request_id: str | None, batch: str | None, kind: str | None
) -> list[Event]:
    """Events in their order; all, or those of a request, of a batch, of a kind."""
    if not queryable(request_id, batch, kind):
        return []
    query = sa.select(events).order_by(events.c.seq)
    for column, value in (
        (events.c.request_id, request_id),
        (events.c.batch, batch),
        (events.c.kind, kind),
    ):
        if value is not None:
            query = query.where(column == value)
    return [event_of(row) for row in connection.execute(query)]


def latest(connection: sa.Connection, kind: str | None, first: int, limit: int) -> list[Event]:
    """The last events, the newest first; all, or those of a kind."""
    query = sa.select(events).order_by(events.c.seq.desc()).offset(first).limit(limit)
    if kind is not None:
        query = query.where(events.c.kind == kind)
    return [event_of(row) for row in connection.execute(query)]


def contents(connection: sa.Connection, request_ids: Collection[str]) -> dict[str, Content]:
    """The current contents of requests by id; unknown ids are omitted."""
    by_request: dict[str, Content] = {}
    for portion in _portions(request_ids):
        names = defaultdict(list)
        for entry in connection.execute(
            sa.select(identities).where(identities.c.request_id.in_(portion))
        ):
            names[entry.request_id].append(entry.pseudonym)
        for row in connection.execute(
            sa.select(requests).where(requests.c.request_id.in_(portion))
        ):
            by_request[row.request_id] = Content(dict(row._mapping), tuple(names[row.request_id]))
    return by_request


def require_bound(
    connection: sa.Connection, key: ChainKey | None, request_ids: Collection[str]
) -> dict[str, Content]:
    """The contents of requests, each checked against its last event. Callers must act on this
    answer: the database could give another one to the next query.

    Raises:
        RegisterError: a request differs from its last event, or the key is missing.
    """
    if key is None:
        raise RegisterError(_no_key())
    by_request = contents(connection, request_ids)
    for portion in _portions(request_ids):
        last = (
            sa.select(sa.func.max(events.c.seq))
            .where(events.c.request_id.in_(portion), events.c.row_digest.is_not(None))
            .group_by(events.c.request_id)
        )
        bound = {
            row.request_id: row.row_digest
            for row in connection.execute(sa.select(events).where(events.c.seq.in_(last)))
            if row.hash == event_hash(dict(row._mapping)) and _authentic(row, key)
        }
        for request_id in portion:
            content = by_request.get(request_id)
            if content is None or bound.get(request_id) != content.digest:
                raise RegisterError(_unbound(request_id))
    return by_request


def has_keeper(connection: sa.Connection, keeper: str | None) -> bool:
    """Whether a keeper of the chain's end has added an event before; None never has."""
    if keeper is None:
        return False
    query = sa.select(events.c.seq).where(events.c.keeper == keeper).limit(1)
    return connection.scalar(query) is not None


def _require_written(connection: sa.Connection, steps: Sequence[Step]) -> None:
    """Raise `RegisterError` if the rows of requests differ from the intended content."""
    intended = {str(step.request_id): step.content for step in steps if step.content is not None}
    stored = contents(connection, intended)
    for request_id, content in intended.items():
        if request_id not in stored or stored[request_id].digest != content.digest:
            raise RegisterError(
                f"request {request_id}: the database stored other values than were written, so a "
                "trigger, rule or view in it changes rows; nothing was done. Find out who put it "
                "there, and remove it"
            )


def check(
    connection: sa.Connection, key: ChainKey | None, ends: Sequence[Head] = (), keyed: bool = True
) -> Head:
    """Check the whole chain, and compare every request with its events.

    Args:
        connection: one that sees a single moment.
        key: the chain's key.
        ends: earlier ends, as anchors keep them.
        keyed: False for a register of an earlier version, without MACs and digests.

    Raises:
        RegisterError: an event is missing, changed, out of place or not made with the key; the
            chain lacks a kept end; or a request, its identities or its callbacks differ from the
            chain.
    """
    if keyed and key is None:
        raise RegisterError(_no_key())
    expected = defaultdict[int, set[str]](set)
    for end in ends:
        if end.seq > 0:
            expected[end.seq].add(end.hash)
    previous, seq, authenticated = GENESIS, 0, False
    digests: dict[str, str] = {}
    for row in _stream(connection, sa.select(events).order_by(events.c.seq)):
        seq += 1
        if (row.seq, row.previous, row.hash) != (seq, previous, event_hash(dict(row._mapping))):
            raise RegisterError(f"event {seq} of the register is missing or was changed; {RESTORE}")
        if row.mac is not None or authenticated:
            if not keyed:
                raise RegisterError("the register has a key already; there is nothing to vouch for")
            if key is None or not _authentic(row, key):
                raise RegisterError(_unauthentic(row))
            authenticated = True
        if expected.pop(seq, {row.hash}) != {row.hash}:
            raise RegisterError(_differs(seq))
        if row.row_digest is not None:
            digests[str(row.request_id)] = row.row_digest
        previous = row.hash
    if expected:
        raise RegisterError(_cut(max(expected)))
    if keyed:
        if seq and not authenticated:
            raise RegisterError(_unkeyed())
        _compare(connection, digests)
    return Head(seq, previous)


def _compare(connection: sa.Connection, digests: dict[str, str]) -> None:
    """Raise `RegisterError` if a request does not match the chain's digests."""
    names = defaultdict(list)
    for entry in _stream(connection, sa.select(identities)):
        names[entry.request_id].append(entry.pseudonym)
    addresses: dict[str, list[str]] = {}
    for row in _stream(connection, sa.select(requests)):
        content = Content(row._mapping, tuple(names.pop(row.request_id, [])))
        if digests.pop(row.request_id, None) != content.digest:
            raise RegisterError(_unbound(row.request_id))
        addresses[row.request_id] = row.callbacks
    if digests:
        raise RegisterError(f"request {min(digests)} is gone, and its events are there; {RESTORE}")
    if names:
        raise RegisterError(
            f"the table of identities names request {min(names)}, which is gone; {RESTORE}"
        )
    queue = sa.select(events.c.request_id, callbacks.c.url).join(
        events, events.c.seq == callbacks.c.seq
    )
    for row in _stream(connection, queue):
        if row.url not in addresses.get(row.request_id, []):
            raise RegisterError(
                f"request {row.request_id}: a queued status callback goes to an address that the "
                f"request did not name; {RESTORE}"
            )


def event_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 over the content of an event and the previous hash."""
    names = ("previous", "seq", "at", "actor", "request_id", "batch", "kind", "details")
    bound: list[Any] = [] if row["row_digest"] is None else [row["row_digest"]]
    if row["keeper"] is not None:
        bound.append({"keeper": row["keeper"]})
    return digest([*(row[name] for name in names), *bound])


def _authentic(row: Any, key: ChainKey) -> bool:
    return key.vouches(row.hash, row.mac)


def _portions(request_ids: Collection[str]) -> Iterator[list[str]]:
    unique = list(dict.fromkeys(request_ids))
    for start in range(0, len(unique), IDS_PER_QUERY):
        yield unique[start : start + IDS_PER_QUERY]


def _stream(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Any]:
    """Rows of a long answer, fetched a thousand at a time."""
    with connection.execute(query.execution_options(yield_per=1000)) as rows:
        yield from rows


def _no_key() -> str:
    return (
        f"the key of the register's chain is not at hand; set {KEY} to the key that the register "
        "was begun with, or bring keys/chain.key back"
    )


def _unauthentic(row: Any) -> str:
    if row.mac is None and row.row_digest is None:
        return _unkeyed()
    return (
        f"event {row.seq} of the register was not made with the key at hand: it was changed, or "
        f"another machine has another {KEY}; {RESTORE}, or set the right key"
    )


def _unkeyed() -> str:
    return (
        "the register's last events carry no key: an earlier version of the tool wrote them, or "
        "somebody without the key. If it is the former, look at the open requests, then vouch for "
        "them once with `erasure-audit requests bind --by NAME`"
    )


def _cut(seq: int) -> str:
    return (
        f"the register ends before event {seq}, whose hash is kept outside the database; its last "
        f"events were cut off, or an older backup was restored; {RESTORE}"
    )


def _differs(seq: int) -> str:
    return (
        f"the chain up to event {seq} is not the one whose end is kept outside the database; "
        f"{RESTORE}"
    )


def _unbound(request_id: str) -> str:
    return f"request {request_id} is not as its events say; {RESTORE}"
