"""The deployment `reaudit`: draws a past audit each month and repeats it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State

from flows.operations import audit_sampling, deployment
from flows.register.register import BusyError
from flows.workspace import layout
from tasks.common.errors import ReproductionError


@flow(name="reaudit", persist_result=False)
def reaudit(batch: str | None = None, folder: str = ".") -> dict[str, Any] | State[Any]:
    """Repeat a past audit, at the highest level that still can be done.

    Args:
        batch: its batch; None: the one that is drawn for this month.
        folder: the workspace.

    Raises:
        ReproductionError: the audit does not hold.
    """
    home = layout.find(Path(folder))
    try:
        with deployment.workspace_register(home, "The re-audit") as register:
            outcome = audit_sampling.run(home, register, batch)
    except BusyError as error:
        return deployment.busy(error)
    if not outcome.holds:
        raise ReproductionError(outcome.text)
    get_run_logger().info(outcome.text)
    return outcome.plain()
