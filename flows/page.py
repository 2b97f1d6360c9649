"""What Prefect's page and schedule start: sign-off by a form, finalizing, and the artifact that
says what waits.

Prefect keeps what is typed into its form: who decides and why, request ids, batch names. Its page
has no login of its own, so `by` is what somebody typed; docs/release.md says what to put in front
of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from flows.operations import release, signoff
from flows.register.register import BusyError, Register
from flows.workspace import layout
from tasks.common import settings


@flow(name="sign-off", persist_result=False)
def sign_off(
    batch: str,
    decision: signoff.Decision,
    by: str,
    comment: str,
    model: signoff.Original | None = None,
    next: signoff.Next | None = None,
    method: str | None = None,
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
        folder: the workspace.

    Raises:
        AuditError: as `signoff.approve` and `signoff.reject`.
    """
    home = layout.find(Path(folder))
    register = _register(home)
    try:
        if decision == "approve":
            found = signoff.approve(home, register, batch, by, comment, model=model)
        elif next is None:
            raise signoff.SignoffError("what becomes of the rejected requests? Choose `next`")
        else:
            found = signoff.reject(home, register, batch, by, comment, next, method)
        publish(home, register, found.batch)
        get_run_logger().info(found.line)
        return found.plain()
    finally:
        register.close()


@flow(name="finalize", persist_result=False)
def finalize(batch: str | None = None, folder: str = ".") -> dict[str, Any]:
    """Release, erase and close whatever is decided; what is done is skipped.

    Args:
        batch: only this one; None: all that are not closed.
        folder: the workspace.

    Raises:
        AuditError: as `release.finalize`.
    """
    home = layout.find(Path(folder))
    register = _register(home)
    try:
        try:
            done = release.finalize(home, register, batch, get_run_logger().info)
        except BusyError as error:  # the next run of the schedule finds what is left
            done = release.Finalized((), str(error))
        for line in (*done.done, *([done.waits] if done.waits else [])):
            get_run_logger().info(line)
        return done.plain()
    finally:
        register.close()


def publish(home: Path, register: Register, batch: str) -> None:
    """Say on Prefect's page what a batch waits for, and what can be decided; to be called inside a
    flow."""
    from prefect.artifacts import create_markdown_artifact

    found = signoff.standing(home, register, batch)
    key = "".join(letter if letter.isalnum() else "-" for letter in batch.lower())
    create_markdown_artifact(
        key=f"signoff-{key}", markdown=signoff.page(found), description=found.line
    )


def _register(home: Path) -> Register:
    return Register(home, settings.load(home / "params.yaml").report.holidays)
