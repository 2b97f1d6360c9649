"""The deployment `sign-off`: the form on Prefect's page that approves or rejects.

Prefect keeps what is typed into its form: who decides and why, request ids, batch names. Its page
has no login of its own, so `by` is what somebody typed; docs/release.md says what to put in front
of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from flows.operations import deployment
from flows.release import approval
from flows.release.standing import Decision, Next, Original, SignoffError
from flows.workspace import layout


@flow(name="sign-off", persist_result=False)
def sign_off(
    batch: str,
    decision: Decision,
    by: str,
    comment: str,
    model: Original | None = None,
    next: Next | None = None,
    method: str | None = None,
    ground: str = "",
    folder: str = ".",
) -> dict[str, Any]:
    """Approve or reject a batch, or one request of it.

    Args:
        batch: name of the batch, or id of a request.
        decision: approve or reject.
        by: who decides.
        comment: why; stands in the report. No personal data.
        model: with approve: the unlearned model, if all passed, or the exact retrain.
        next: with reject: what becomes of the requests.
        method: with another_method: which.
        ground: the provision that the decision rests on; empty: none is named.
        folder: the workspace.

    Raises:
        AuditError: as `approval.approve` and `approval.reject`.
    """
    home = layout.find(Path(folder))
    with deployment.workspace_register(home) as register:
        if decision == "approve":
            standing = approval.approve(
                home, register, batch, by, comment, model=model, ground=ground
            )
        elif next is None:
            raise SignoffError("what becomes of the rejected requests? Choose `next`")
        else:
            standing = approval.reject(
                home, register, batch, by, comment, next, method, ground=ground
            )
        deployment.publish(home, register, standing.batch)
    get_run_logger().info(standing.line)
    return standing.plain()
