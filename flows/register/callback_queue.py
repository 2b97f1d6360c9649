"""The queue of status callbacks: those that are due, in a fair order, and the outcome of each
try."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from flows.register.chain import Event, event_of
from flows.register.encoding import text_of
from flows.register.states import State
from flows.register.tables import callbacks, events, requests

QUOTA = 32
"""Maximum number of callbacks of one client in one answer, so that no client blocks the others."""


class DueCallback(NamedTuple):
    """A callback that is due.

    Attributes:
        event: the event that it reports.
        url: its address.
        tries: tries so far.
        client: the sender of the request.
    """

    event: Event
    url: str
    tries: int
    client: str


def due(connection: sa.Connection, moment: datetime, limit: int) -> list[DueCallback]:
    """Callbacks that are due.

    Clients take turns: first the oldest of each, then the second of each, up to `QUOTA` each. Of a
    request's events for the same address only the first is returned, so that their order is kept.
    Addresses that the request does not name are omitted; `check` reports them.

    Args:
        connection: to the database.
        moment: the moment that counts.
        limit: maximum number of callbacks.
    """
    earlier, earlier_event, receipt = callbacks.alias(), events.alias(), events.alias()
    waits = (
        sa.select(earlier.c.seq)
        .join(earlier_event, earlier_event.c.seq == earlier.c.seq)
        .where(earlier.c.url == callbacks.c.url, earlier_event.c.request_id == events.c.request_id)
        .where(earlier.c.seq < callbacks.c.seq, earlier.c.next_try.is_not(None))
    )
    order = (callbacks.c.next_try, callbacks.c.seq, callbacks.c.url)
    turn = sa.func.row_number().over(partition_by=receipt.c.actor, order_by=order)
    ready = (
        sa.select(
            callbacks.c.seq,
            callbacks.c.url,
            callbacks.c.tries,
            callbacks.c.next_try,
            receipt.c.actor.label("client"),
            requests.c.callbacks.label("addresses"),
            turn.label("turn"),
        )
        .join(events, events.c.seq == callbacks.c.seq)
        .join(requests, requests.c.request_id == events.c.request_id)
        .join(receipt, receipt.c.request_id == events.c.request_id)
        .where(receipt.c.kind == str(State.RECEIVED))
        .where(callbacks.c.next_try <= text_of(moment), ~waits.exists())
        .subquery()
    )
    chosen = (
        sa.select(ready.c.url, ready.c.tries, ready.c.client, ready.c.addresses, events)
        .join(events, events.c.seq == ready.c.seq)
        .where(ready.c.turn <= QUOTA)
        .order_by(ready.c.turn, ready.c.next_try, ready.c.seq)
        .limit(limit)
    )
    return [
        DueCallback(event_of(row), row.url, row.tries, row.client)
        for row in connection.execute(chosen)
        if row.url in row.addresses
    ]


def record(
    connection: sa.Connection, seq: int, url: str, outcome: str, again: datetime | None
) -> None:
    """Record a try.

    Args:
        connection: of a writer.
        seq: of the event.
        url: where it was sent.
        outcome: of the try.
        again: when to try again; None: it is delivered, or given up.
    """
    connection.execute(
        callbacks.update()
        .where(callbacks.c.seq == seq, callbacks.c.url == url)
        .values(
            tries=callbacks.c.tries + 1,
            next_try=None if again is None else text_of(again),
            outcome=outcome[:200],
        )
    )
