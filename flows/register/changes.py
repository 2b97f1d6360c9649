"""Changes of a request that leave its state as it is: a hold set or lifted, the deadline extended.

For use in a transaction of the register.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa

from flows.register import chain, request_rows
from flows.register.chain import Content, Step
from flows.register.chain_key import ChainKey
from flows.register.states import EXTENDED, HELD, LIFTED, OPEN, Case, RegisterError
from tasks.requests import deadlines, provisions


def set_hold(
    connection: sa.Connection,
    key: ChainKey | None,
    request_id: str,
    actor: str,
    held: bool,
    details: Mapping[str, Any],
) -> Case:
    """Set or lift the hold on a request; see `register.Register.hold`."""
    content = _bound(connection, key, request_id)
    case = request_rows.as_case(content.columns)
    if case.held == held or (held and case.state not in OPEN):
        raise RegisterError(
            f"request {request_id} is {case.shown}; a hold cannot be {'set' if held else 'lifted'}"
        )
    if held:
        ground = provisions.of_hold(details["ground"], case.regulation, case.request_id)
        details = {**details, "ground": ground}
    step = Step(actor, case.request_id, case.batch, HELD if held else LIFTED, details)
    return _change(connection, key, content, {"held": held}, step)


def extend(
    connection: sa.Connection,
    key: ChainKey | None,
    request_id: str,
    actor: str,
    reason: str,
    holidays: Collection[date],
) -> Case:
    """Extend the deadline of a request; see `register.Register.extend`."""
    content = _bound(connection, key, request_id)
    case = request_rows.as_case(content.columns)
    submitted = datetime.fromisoformat(case.submitted).date()
    due = deadlines.extended(case.regulation, submitted, holidays)
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
    step = Step(actor, case.request_id, case.batch, EXTENDED, details)
    return _change(connection, key, content, {"due": due.isoformat(), "extended": True}, step)


def _bound(connection: sa.Connection, key: ChainKey | None, request_id: str) -> Content:
    """A request, compared with its events: a change must not hide one made by another hand."""
    request_id = request_rows.case_of(connection, request_id).request_id
    return chain.require_bound(connection, key, [request_id])[request_id]


def _change(
    connection: sa.Connection,
    key: ChainKey | None,
    content: Content,
    columns: Mapping[str, Any],
    step: Step,
) -> Case:
    """Change columns of a request, add the event, and return the changed request."""
    changed = content.changed(**columns)
    case = request_rows.as_case(changed.columns)
    request_rows.change(connection, case.request_id, **columns)
    chain.append(connection, key, [replace(step, callbacks=case.callbacks, content=changed)])
    return case
