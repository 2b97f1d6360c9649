"""Receipt of a request, new or repeated: its row, its identities, its deadline and its event.

For use in a transaction of the register (`register.Register.receive`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from flows.register import chain, request_rows
from flows.register.chain import Content, Step
from flows.register.chain_key import ChainKey
from flows.register.states import CORRECTED, SET_ASIDE, Case, ConflictError, Intake, State
from flows.register.tables import identities
from tasks.requests import deadlines


@dataclass(frozen=True)
class Arrival:
    """The circumstances of a receipt.

    Attributes:
        actor: the sender.
        source: `http`, `drop folder`, `csv` or `file`.
        at: the time, with an offset.
    """

    actor: str
    source: str
    at: datetime


def receive(
    connection: sa.Connection,
    key: ChainKey | None,
    request: Intake,
    arrival: Arrival,
    holidays: Collection[date],
) -> tuple[Case, bool]:
    """Take a request in; see `register.Register.receive`. `holidays` are for its deadline."""
    submitted = _no_later_than(request.submitted, arrival.at)
    row = request_rows.row_of(connection, request.request_id)
    if row is not None and row.digest == request.digest:
        return request_rows.as_case(dict(row._mapping)), False
    details: dict[str, Any] = {}
    content, earlier = None, None
    if row is not None:
        content = _set_aside(connection, key, request.request_id)
        earlier = request_rows.as_case(content.columns)
        submitted = min(submitted, earlier.submitted, key=datetime.fromisoformat)
        details = _corrections(earlier, content.columns["digest"], request)
    if submitted != request.submitted:
        details["dated"] = request.submitted
    due, extended = _deadline(request, submitted, earlier, holidays)
    facts = {
        "source": arrival.source,
        "regulation": request.regulation,
        "submitted": submitted,
        "digest": request.digest,
        "due": due and due.isoformat(),
    }
    content = _write(connection, request, facts, extended, content)
    case = request_rows.as_case(content.columns)
    details |= facts | ({"duplicate_of": case.duplicate_of} if case.duplicate_of else {})
    kind, batch = str(State.RECEIVED), None
    if earlier is not None:  # the event belongs to the batch that set the request aside
        kind, batch = CORRECTED, earlier.batch
    step = Step(arrival.actor, case.request_id, batch, kind, details, case.callbacks, content)
    chain.append(connection, key, [step])
    return case, True


def _set_aside(connection: sa.Connection, key: ChainKey | None, request_id: str) -> Content:
    """The content of a request that may be corrected.

    Raises:
        ConflictError: no audit set it aside, or somebody decided on it.
    """
    content = chain.require_bound(connection, key, [request_id])[request_id]
    case = request_rows.as_case(content.columns)
    ground = request_rows.ground_of_hold(connection, case.request_id) if case.held else None
    if case.state is not State.IDENTITY_VERIFIED or ground != SET_ASIDE:
        raise ConflictError(
            f"request {case.request_id} is in the register already with another content; send a "
            "changed request under an id of its own"
        )
    return content


def _deadline(
    request: Intake, submitted: str, earlier: Case | None, holidays: Collection[date]
) -> tuple[date | None, bool]:
    """The deadline, and whether it is extended: a correction keeps an extension, unless it changes
    the regulation."""
    day = datetime.fromisoformat(submitted).date()
    if earlier is not None and earlier.extended and earlier.regulation == request.regulation:
        return deadlines.extended(request.regulation, day, holidays), True
    return deadlines.deadline(request.regulation, day, holidays).date, False


def _write(
    connection: sa.Connection,
    request: Intake,
    facts: dict[str, Any],
    extended: bool,
    earlier_content: Content | None,
) -> Content:
    """Write the row of a request and its identities, and return the intended content."""
    request_rows.forget_identities(connection, request.request_id)
    names = {str(identity["identity_value"]) for identity in request.identities}
    request_rows.refuse_other_key(connection, names)
    values = {
        **facts,
        "identities": [dict(identity) for identity in request.identities],
        "wishes": dict(request.wishes),
        "callbacks": list(request.callbacks),
        "extended": extended,
        "state": str(State.RECEIVED),
        "held": False,
        "batch": None,
        "duplicate_of": request_rows.twin(connection, names),
    }
    request_rows.put(connection, request.request_id, **values)
    connection.execute(
        identities.insert(),
        [{"pseudonym": name, "request_id": request.request_id} for name in sorted(names)],
    )
    earlier_columns = {"verdict": None} if earlier_content is None else earlier_content.columns
    columns = {**earlier_columns, "request_id": request.request_id, **values}
    return Content(columns, tuple(sorted(names)))


def _corrections(earlier: Case, digest: str, request: Intake) -> dict[str, Any]:
    """Details of the event of a correction: the earlier content's digest, and the changed parts."""
    parts = {
        "regulation": (earlier.regulation, request.regulation),
        "identities": (list(earlier.identities), [dict(entry) for entry in request.identities]),
        "wishes": (dict(earlier.wishes), dict(request.wishes)),
        "callbacks": (earlier.callbacks, request.callbacks),
    }
    changed_parts = [name for name, (old, new) in parts.items() if old != new]
    return {"earlier": digest, "changed": ", ".join(changed_parts) or "time stamp"}


def _no_later_than(submitted: str, arrived: datetime) -> str:
    """A request's own time stamp, or the arrival with the same offset if that is earlier."""
    own_time = datetime.fromisoformat(submitted)
    if own_time <= arrived:
        return submitted
    return arrived.astimezone(own_time.tzinfo).isoformat(timespec="seconds")
