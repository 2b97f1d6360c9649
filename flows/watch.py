"""The deployment `watch`: reports near deadlines and stuck work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State

from flows.operations import deployment, monitoring
from flows.register.register import BusyError
from flows.workspace import layout


@flow(name="watch", persist_result=False)
def watch(folder: str = ".") -> dict[str, Any] | State[Any]:
    """Report near deadlines and stuck work.

    Args:
        folder: the workspace.
    """
    home = layout.find(Path(folder))
    try:
        with deployment.workspace_register(home, "The watch") as register:
            watched = monitoring.run(home, register, deployment.emit, deployment.troubles)
    except BusyError as error:
        return deployment.busy(error)
    for text in (*watched.deadlines, *watched.stuck):
        get_run_logger().warning(text)
    return watched.plain()
