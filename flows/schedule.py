"""The flows that Prefect starts by `prefect.yaml`: night, watch and re-audit.

Their parameters are folders and batch names, their logs hold request ids, and their results are not
kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed

from flows import page
from flows.operations import audit_sampling as reaudits
from flows.operations import monitoring as watches
from flows.operations import night_run as nights
from flows.operations import notices
from flows.register.register import BusyError, Register
from flows.workspace import layout
from tasks.common import settings
from tasks.common.errors import AuditError, ReproductionError


class NightError(AuditError):
    """A night's audit failed; the next night continues it."""


@flow(name="nightly", persist_result=False)
def nightly(folder: str = ".") -> dict[str, Any] | State[Any]:
    """Take requests in, begin a batch if one is due, and audit the one at hand.

    Args:
        folder: the workspace.

    Raises:
        NightError: the audit failed; it is written down, told, and continued by the next run.
    """
    home = layout.find(Path(folder))
    try:
        with _register(home, "The night's work") as register:
            night = nights.run(home, register)
            if night.outcome == "awaits_signoff" and night.batch:
                page.publish(home, register, night.batch)
    except BusyError as error:
        return _busy(error)
    if night.outcome == "failed":
        raise NightError(night.text)
    get_run_logger().info(night.text)
    return night.plain()


@flow(name="watch", persist_result=False)
def watch(folder: str = ".") -> dict[str, Any] | State[Any]:
    """Tell of deadlines that come near and of what is stuck.

    Args:
        folder: the workspace.
    """
    home = layout.find(Path(folder))
    try:
        with _register(home, "The watch") as register:
            found = watches.run(home, register, _emit, long_runs)
    except BusyError as error:
        return _busy(error)
    for text in (*found.deadlines, *found.stuck):
        get_run_logger().warning(text)
    return found.plain()


@flow(name="reaudit", persist_result=False)
def reaudit(batch: str | None = None, folder: str = ".") -> dict[str, Any] | State[Any]:
    """Do a past audit again, at the highest level that still holds.

    Args:
        batch: which; None: the one that is drawn for this month.
        folder: the workspace.

    Raises:
        ReproductionError: it does not hold.
    """
    home = layout.find(Path(folder))
    try:
        with _register(home, "The re-audit") as register:
            found = reaudits.run(home, register, batch)
    except BusyError as error:
        return _busy(error)
    if not found.holds:
        raise ReproductionError(found.text)
    get_run_logger().info(found.text)
    return found.plain()


def long_runs(patience: timedelta) -> list[str]:
    """Prefect's runs that take longer than so, or that no worker begins."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateName,
    )

    names = ["Running", "Pending", "Cancelling", "Late", "AwaitingConcurrencySlot"]
    wanted = FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=names)))
    try:
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(flow_run_filter=wanted, limit=200)
    except Exception as error:  # whatever it is, the watch goes on and says so
        return [f"Prefect's server does not answer ({type(error).__name__}); see that it runs"]
    now, found = datetime.now(UTC), []
    for run in runs:
        since = run.start_time or run.expected_start_time
        if since is not None and now - since > patience:
            found.append(
                f"Prefect run {run.name} ({run.id}): {run.state_name} since {since:%Y-%m-%dT%H:%M}Z"
            )
    return sorted(found)


def _emit(event: str, resource: str, facts: dict[str, Any]) -> None:
    emit_event(event, resource={"prefect.resource.id": resource}, payload=facts)


def _busy(error: BusyError) -> State[Any]:
    """Somebody else does it, so there is nothing to do and nothing is wrong."""
    get_run_logger().info(str(error))
    return Completed(message=str(error), name="Busy")


@contextlib.contextmanager
def _register(home: Path, what: str) -> Iterator[Register]:
    with notices.of_failures(home, what):
        register = Register(home, settings.load(home / "params.yaml").report.holidays)
        try:
            yield register
        finally:
            register.close()
