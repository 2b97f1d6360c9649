"""Moves of requests from state to state, in a transaction of the register.

`states` defines the allowed moves. A move writes the new state and its event, and drops columns
that are no longer needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from flows.register import chain, request_rows
from flows.register.chain import Step
from flows.register.chain_key import ChainKey
from flows.register.states import IN_BATCH, OPEN, Case, RegisterError, State, refuse_move
from flows.register.tables import events, identities, requests

MOVED_COLUMNS = ("state", "batch", "verdict", "identities", "wishes")
"""Columns of a request that a move may change."""


def move(
    connection: sa.Connection,
    key: ChainKey | None,
    request_ids: Sequence[str],
    state: State,
    actor: str,
    batch: str | None = None,
    verdicts: Mapping[str, str] = MappingProxyType({}),
    details: Mapping[str, Any] = MappingProxyType({}),
) -> list[Case]:
    """Bring requests to a state; see `register.Register.move`.

    It takes a few statements for any number of requests, since other writers wait meanwhile.
    """
    cases = request_rows.cases_of(connection, request_ids)
    moving = [name for name in dict.fromkeys(request_ids) if cases[name].state != state]
    for name in moving:
        refuse_move(cases[name], state, batch)
    contents = chain.require_bound(connection, key, moving) if moving else {}
    steps = []
    for name in moving:
        before = request_rows.as_case(contents[name].columns)
        refuse_move(before, state, batch)
        verdict = verdicts.get(name) or details.get("verdict")
        closed = state is State.CLOSED
        cases[name] = after = replace(
            before,
            state=state,
            batch=batch or before.batch,
            verdict=verdict or before.verdict,
            identities=() if closed else before.identities,
            wishes=_without_records(before.wishes) if closed else before.wishes,
        )
        facts = dict(details) | ({} if verdict is None else {"verdict": verdict})
        facts["from"] = str(before.state)
        content = contents[name].changed(
            **{column: _column(after, column) for column in MOVED_COLUMNS}
        )
        if state not in OPEN:
            content = replace(content, names=())
        steps.append(Step(actor, name, after.batch, str(state), facts, after.callbacks, content))
    if steps:
        _store(connection, [cases[name] for name in moving], state)
        chain.append(connection, key, steps)
    return [cases[name] for name in request_ids]


def collect(
    connection: sa.Connection, key: ChainKey | None, batch: str, actor: str, limit: int
) -> list[Case]:
    """Put the requests that wait for a batch into one; see `register.Register.collect`."""
    in_flight = connection.scalar(
        sa.select(requests.c.batch).where(requests.c.state.in_(list(map(str, IN_BATCH)))).limit(1)
    )
    if in_flight is not None:
        raise RegisterError(
            f"batch {in_flight} is not erased yet; the next one starts from the model that it "
            "releases"
        )
    used = sa.select(events.c.seq).where(events.c.batch == batch).limit(1)
    if connection.scalar(used) is not None:
        raise RegisterError(f"there was a batch {batch} before; give the new one a name of its own")
    query = (
        sa.select(requests.c.request_id)
        .where(requests.c.state == str(State.IDENTITY_VERIFIED), requests.c.held.is_(False))
        .order_by(sa.func.coalesce(requests.c.due, "9999"), requests.c.request_id)
        .limit(limit)
    )
    chosen = list(connection.scalars(query))
    return move(connection, key, chosen, State.BATCHED, actor, batch)


def _store(connection: sa.Connection, cases: Sequence[Case], state: State) -> None:
    """Write the columns that a move changes."""
    connection.execute(
        requests.update()
        .where(requests.c.request_id == sa.bindparam("moved"))
        .values({name: sa.bindparam(f"new_{name}") for name in MOVED_COLUMNS}),
        [
            {"moved": case.request_id}
            | {f"new_{name}": _column(case, name) for name in MOVED_COLUMNS}
            for case in cases
        ],
    )
    if state not in OPEN:  # only open requests have duplicates
        forget = identities.delete().where(identities.c.request_id == sa.bindparam("moved"))
        connection.execute(forget, [{"moved": case.request_id} for case in cases])


def _without_records(wishes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wishes.items() if name == "languages"}


def _column(case: Case, name: str) -> Any:
    value = getattr(case, name)
    if name == "identities":
        return [dict(identity) for identity in value]
    return dict(value) if name == "wishes" else value and str(value)
