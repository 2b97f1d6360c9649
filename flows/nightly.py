"""The deployment `nightly`: takes requests in, begins a batch if one is due, audits the one at
hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State

from flows.operations import deployment, night_run
from flows.register.register import BusyError
from flows.workspace import layout
from tasks.common.errors import AuditError


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
        with deployment.opened(home, "The night's work") as register:
            night = night_run.run(home, register)
            if night.outcome == "awaits_signoff" and night.batch:
                deployment.publish(home, register, night.batch)
    except BusyError as error:
        return deployment.busy(error)
    if night.outcome == "failed":
        raise NightError(night.text)
    get_run_logger().info(night.text)
    return night.plain()
