"""Shared code of deployments and their commands: the open register, notices of failures, and calls
to Prefect's server.

Prefect's events, artifacts and logs hold request ids and names of batches, and no personal data.
Prefect is imported inside functions, since commands run without it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.operations import heartbeats, notices
from flows.register import recorded
from flows.register.register import BusyError, Register
from flows.register.register import opened as open_register
from flows.release import approval
from flows.release.standing import page
from flows.reports import overview
from tasks.common.errors import WorkspaceError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State

UNFINISHED = ("Running", "Pending", "Cancelling", "Late", "AwaitingConcurrencySlot")
GRACE = timedelta(minutes=15)
"""Time for Prefect's scheduler to plan the runs of a schedule that was just made or changed; it
plans days ahead and looks every minute."""


@contextlib.contextmanager
def workspace_register(home: Path, work: str | None = None) -> Iterator[Register]:
    """The workspace's register, closed at the end.

    Args:
        home: the workspace.
        work: name of the work in a notice of its failure; None: no notice is sent.
    """
    reported = notices.of_failures(home, work) if work else contextlib.nullcontext()
    with reported, open_register(home) as register:
        yield register


def busy(error: BusyError) -> State[Any]:
    """The state of a flow while another process does its work: completed, named Busy."""
    from prefect import get_run_logger
    from prefect.states import Completed

    get_run_logger().info(str(error))
    return Completed(message=str(error), name="Busy")


def publish(home: Path, register: Register, batch: str) -> None:
    """Make a Prefect artifact with what a batch waits for and what can be decided; call it inside a
    flow."""
    from prefect.artifacts import create_markdown_artifact

    standing = approval.standing(home, register, batch)
    create_markdown_artifact(
        key=f"signoff-{artifact_key(batch)}",
        markdown=page(standing),
        description=standing.line,
    )


def artifact_key(batch: str) -> str:
    """A batch's name as Prefect allows it in the key of an artifact."""
    return "".join(letter if letter.isalnum() else "-" for letter in batch.lower())


def emit(event: str, resource: str, facts: dict[str, Any]) -> None:
    """Send Prefect an event about a resource."""
    from prefect.events import emit_event

    emit_event(event, resource={"prefect.resource.id": resource}, payload=facts)


def write_overview(home: Path) -> overview.Overview:
    """Make the pages of all batches, with the facts of the register of requests, if there is one.

    Raises:
        AuditError: the templates, the settings or the register cannot be used.
    """
    return overview.write(home, closed=recorded.closed(home))


def expect_heartbeats() -> list[heartbeats.Heartbeat]:
    """Make automations on Prefect's server that notice scheduled deployments that do not run; see
    `heartbeats.expect`. They notify the Prefect blocks in `ERASURE_AUDIT_NOTIFY`.

    Raises:
        WorkspaceError: no server is named, or it lacks deployments, planned runs or a block.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise WorkspaceError("PREFECT_API_URL names no server; automations need a standing one")
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return heartbeats.expect(client, notices.blocks())


def troubles(patience: timedelta, grace: timedelta = GRACE) -> list[str]:
    """Problems of Prefect's server, a sentence each. Never raises: a server that does not answer is
    a problem, too.

    Args:
        patience: how long a run may take, or wait for a worker.
        grace: how long the scheduler may take to plan the runs of a schedule.
    """
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            return sorted(
                [
                    *_slow_runs(client, patience),
                    *_schedules_that_do_not_fire(client, grace),
                    *_pools_without_worker(client),
                ]
            )
    except Exception as error:  # the watch goes on and reports it
        return [f"Prefect's server does not answer ({type(error).__name__}); see that it runs"]


def _slow_runs(client: SyncPrefectClient, patience: timedelta) -> Iterator[str]:
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateName,
    )

    unfinished = FlowRunFilterState(name=FlowRunFilterStateName(any_=list(UNFINISHED)))
    now = datetime.now(UTC)
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=unfinished), limit=200):
        since = run.start_time or run.expected_start_time
        if since is not None and now - since > patience:
            yield (
                f"Prefect run {run.name} ({run.id}): {run.state_name} since {since:%Y-%m-%dT%H:%M}Z"
            )


def _schedules_that_do_not_fire(client: SyncPrefectClient, grace: timedelta) -> Iterator[str]:
    """Deployments with an active schedule for which the server plans no run."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterTags,
        FlowRunFilter,
        FlowRunFilterDeploymentId,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    audit_tag = DeploymentFilter(tags=DeploymentFilterTags(all_=["audit"]))
    now = datetime.now(UTC)
    for deployment in client.read_deployments(deployment_filter=audit_tag, limit=100):
        due = [
            schedule
            for schedule in deployment.schedules
            if schedule.active and (schedule.updated is None or now - schedule.updated >= grace)
        ]
        if not due or deployment.paused:
            continue
        planned = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
                expected_start_time=FlowRunFilterExpectedStartTime(after_=now),
            ),
            limit=1,
        )
        if not planned:
            yield (
                f"Prefect's server plans no run of {deployment.name}, though its schedule is "
                "active; see the server's log for errors of its scheduler"
            )


def _pools_without_worker(client: SyncPrefectClient) -> Iterator[str]:
    """Work pools of the deployments without an online worker, whose runs stay late."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound

    audit_tag = DeploymentFilter(tags=DeploymentFilterTags(all_=["audit"]))
    deployments = client.read_deployments(deployment_filter=audit_tag, limit=100)
    for pool in sorted(
        {deployment.work_pool_name for deployment in deployments if deployment.work_pool_name}
    ):
        with contextlib.suppress(ObjectNotFound):
            workers = client.read_workers_for_work_pool(pool)
            if not any(worker.status == WorkerStatus.ONLINE for worker in workers):
                yield (
                    f"No worker of pool {pool} is online; start one: prefect worker start --pool "
                    f"{pool}"
                )
