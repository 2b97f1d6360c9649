"""Queries on the table of requests."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any

import sqlalchemy as sa

from flows.register.chain import IDS_PER_QUERY
from flows.register.encoding import queryable
from flows.register.states import HELD, Case, State, UnknownRequestError, printable_id
from flows.register.tables import events, identities, requests
from tasks.common.errors import PseudonymError
from tasks.requests import pseudonyms


def row_of(connection: sa.Connection, request_id: str) -> Any:
    """The row of a request, or None."""
    query = sa.select(requests).where(requests.c.request_id == request_id)
    return connection.execute(query).first()


def case_of(connection: sa.Connection, request_id: str) -> Case:
    """A request.

    Raises:
        UnknownRequestError: there is no such request.
    """
    return cases_of(connection, [request_id])[request_id]


def cases_of(connection: sa.Connection, request_ids: Sequence[str]) -> dict[str, Case]:
    """Requests by their ids.

    Raises:
        UnknownRequestError: there is no such request.
    """
    by_id: dict[str, Case] = {}
    # only UUIDs are queried: PostgreSQL refuses some texts
    unique_ids = [name for name in dict.fromkeys(request_ids) if printable_id(name) == name]
    for start in range(0, len(unique_ids), IDS_PER_QUERY):
        query = sa.select(requests).where(
            requests.c.request_id.in_(unique_ids[start : start + IDS_PER_QUERY])
        )
        by_id |= {case.request_id: case for case in _cases(connection, query)}
    for request_id in request_ids:
        if request_id not in by_id:
            raise UnknownRequestError(
                f"the register has no request {printable_id(request_id)}; "
                "see `erasure-audit requests list`"
            )
    return by_id


def find(connection: sa.Connection, beginning: str) -> str:
    """The full id of the request whose id has this beginning.

    Raises:
        UnknownRequestError: no request or several requests match.
    """
    start = beginning.lower()
    if len(start) < 36 and re.fullmatch(r"[0-9a-f-]{4,}", start):
        query = (
            sa.select(requests.c.request_id).where(requests.c.request_id.startswith(start)).limit(2)
        )
        matches = list(connection.scalars(query))
        if len(matches) > 1:
            raise UnknownRequestError(f"several requests begin with {start}; write more of the id")
        start = matches[0] if matches else start
    return case_of(connection, start).request_id


def cases(
    connection: sa.Connection, states: Collection[State] | None, batch: str | None
) -> list[Case]:
    """Requests in some states or of a batch, the nearest deadline first; None: any."""
    return _cases(connection, _urgent_first(_criteria(states, batch)))


def page(
    connection: sa.Connection,
    states: Collection[State] | None,
    batch: str | None,
    held: bool,
    first: int,
    limit: int,
) -> tuple[int, list[Case]]:
    """The number of matching requests, and at most `limit` of them after the first `first`."""
    criteria = _criteria(states, batch, held)
    total = connection.scalar(sa.select(sa.func.count()).select_from(requests).where(*criteria))
    return int(total or 0), _cases(connection, _urgent_first(criteria).offset(first).limit(limit))


def _criteria(
    states: Collection[State] | None, batch: str | None, held: bool = False
) -> list[sa.ColumnElement[bool]]:
    """Conditions on state, batch and hold; None: any."""
    criteria: list[sa.ColumnElement[bool]] = []
    if states is not None:
        criteria.append(requests.c.state.in_([str(state) for state in states]))
    if batch is not None:
        criteria.append(requests.c.batch == batch if queryable(batch) else sa.false())
    if held:
        criteria.append(requests.c.held.is_(True))
    return criteria


def _urgent_first(criteria: Sequence[sa.ColumnElement[bool]]) -> sa.Select[Any]:
    order = (sa.func.coalesce(requests.c.due, "9999"), requests.c.request_id)
    return sa.select(requests).where(*criteria).order_by(*order)


def _cases(connection: sa.Connection, query: sa.Select[Any]) -> list[Case]:
    return [as_case(dict(row._mapping)) for row in connection.execute(query)]


def change(connection: sa.Connection, request_id: str, **values: Any) -> None:
    """Change columns of a request."""
    connection.execute(
        requests.update().where(requests.c.request_id == request_id).values(**values)
    )


def put(connection: sa.Connection, request_id: str, **values: Any) -> None:
    """Insert or update the row of a request."""
    if row_of(connection, request_id) is not None:
        change(connection, request_id, **values)
    else:
        connection.execute(requests.insert().values(request_id=request_id, **values))


def forget_identities(connection: sa.Connection, request_id: str) -> None:
    """Remove a request's entries from the table of identities."""
    connection.execute(identities.delete().where(identities.c.request_id == request_id))


def ground_of_hold(connection: sa.Connection, request_id: str) -> str | None:
    """The ground of the last hold on a request."""
    query = (
        sa.select(events.c.details)
        .where(events.c.request_id == request_id, events.c.kind == HELD)
        .order_by(events.c.seq.desc())
        .limit(1)
    )
    details = connection.scalar(query)
    return None if details is None else json.loads(details).get("ground")


def twin(connection: sa.Connection, names: Collection[str]) -> str | None:
    """The earliest open request with one of these pseudonyms."""
    query = (
        sa.select(requests.c.request_id)
        .join(identities, identities.c.request_id == requests.c.request_id)
        .where(identities.c.pseudonym.in_(names))
        .order_by(requests.c.submitted, requests.c.request_id)
    )
    earliest: str | None = connection.scalar(query.limit(1))
    return earliest


def refuse_other_key(connection: sa.Connection, names: Collection[str]) -> None:
    """Raise `PseudonymError` if open requests have pseudonyms of another key.

    Under another key the same person looks like somebody else, and duplicates would be missed.
    """
    sample = connection.scalar(sa.select(identities.c.pseudonym).limit(1))
    for name in names:
        if (
            sample
            and name[:9] != sample[:9]
            and pseudonyms.FORM.fullmatch(sample)
            and pseudonyms.FORM.fullmatch(name)
        ):
            raise PseudonymError(
                f"the open requests were taken in with the pseudonym key {sample[:8]}, and the key "
                f"at hand is {name[:8]}; set {pseudonyms.KEY} to the one before, or close those "
                "requests first"
            )


def as_case(columns: Mapping[str, Any]) -> Case:
    """A request from the columns of its row."""
    due = columns["due"]
    return Case(
        request_id=columns["request_id"],
        regulation=columns["regulation"],
        submitted=columns["submitted"],
        source=columns["source"],
        identities=tuple(columns["identities"]),
        wishes=columns["wishes"],
        callbacks=tuple(columns["callbacks"]),
        due=None if due is None else date.fromisoformat(due),
        extended=bool(columns["extended"]),
        state=State(columns["state"]),
        held=bool(columns["held"]),
        batch=columns["batch"],
        verdict=columns["verdict"],
        duplicate_of=columns["duplicate_of"],
    )
