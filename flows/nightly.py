"""The deployment `nightly`: takes requests in, begins a batch if one is due, audits the current
one."""

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
    """The audit of a night failed; the next night continues it."""


@flow(name="nightly", persist_result=False)
def nightly(folder: str = ".") -> dict[str, Any] | State[Any]:
    """Take requests in, begin a batch if one is due, and audit the current one.

    Args:
        folder: the workspace.

    Raises:
        NightError: the audit failed; this is recorded, a notice is sent, and the next run
            continues.
    """
    home = layout.find(Path(folder))
    try:
        with deployment.workspace_register(home, "The night's work") as register:
            night = night_run.run(home, register)
            if night.outcome == "awaits_signoff" and night.batch:
                deployment.publish(home, register, night.batch)
    except BusyError as error:
        return deployment.busy(error)
    if night.outcome == "failed":
        raise NightError(night.text)
    get_run_logger().info(night.text)
    return night.plain()
