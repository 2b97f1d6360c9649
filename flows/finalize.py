"""The deployment `finalize`: releases, erases and closes decided batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from flows.operations import deployment
from flows.register.register import BusyError
from flows.release import finishing
from flows.workspace import layout


@flow(name="finalize", persist_result=False)
def finalize(batch: str | None = None, folder: str = ".") -> dict[str, Any]:
    """Release, erase and close decided batches; steps that are done are skipped.

    Args:
        batch: only this one; None: all that are not closed.
        folder: the workspace.

    Raises:
        AuditError: as `finishing.finalize`.
    """
    home = layout.find(Path(folder))
    with deployment.workspace_register(home, "Finalizing") as register:
        try:
            finalized = finishing.finalize(home, register, batch, get_run_logger().info)
        except BusyError as error:  # the next run of the schedule continues
            finalized = finishing.Finalized((), str(error))
    for line in (*finalized.done, *([finalized.waits] if finalized.waits else [])):
        get_run_logger().info(line)
    return finalized.plain()
