"""Heartbeats of the schedule: automations on Prefect's server that act when a scheduled deployment
does not complete a run in time.

The watch is a deployment itself, so it cannot report a dead worker; the server can. Notifications
go through the Prefect blocks that `ERASURE_AUDIT_NOTIFY` names. Without blocks, Prefect's page only
shows the automation as triggered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tasks.common.errors import WorkspaceError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.events.actions import ActionTypes

GRACE = timedelta(hours=2)
"""How late a run may be completed after its schedule."""
BODY = (
    "Deployment {name} completed no run for {hours:.0f} hours. See that Prefect's worker runs, "
    "then `erasure-audit watch`."
)


@dataclass(frozen=True)
class Heartbeat:
    """A deployment, the time limit for its next completed run, and the blocks that are notified
    if there is none."""

    deployment: str
    within: timedelta
    blocks: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "deployment": self.deployment,
            "within_seconds": self.within.total_seconds(),
            "blocks": list(self.blocks),
        }


def expect(
    client: SyncPrefectClient, blocks: Sequence[str] = (), grace: timedelta = GRACE
) -> list[Heartbeat]:
    """Make an automation for each deployment with an active schedule, or bring it up to date.

    Args:
        client: of the server.
        blocks: notification blocks, `block://<type>/<name>`.
        grace: how much later than planned a run may be completed.

    Raises:
        WorkspaceError: no deployment has a schedule, the server has planned no runs yet, or there
            is no such block.
    """
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    audit_tag = DeploymentFilter(tags=DeploymentFilterTags(all_=["audit"]))
    deployments = [
        deployment
        for deployment in client.read_deployments(deployment_filter=audit_tag, limit=100)
        if any(schedule.active for schedule in deployment.schedules)
    ]
    if not deployments:
        raise WorkspaceError(
            "Prefect's server has no deployment with a schedule; `prefect deploy --all` makes them"
        )
    actions = [_notification(client, block) for block in blocks]
    written = []
    for deployment in sorted(deployments, key=lambda deployment: deployment.name):
        within = _longest_gap(client, deployment) + grace
        _write_automation(client, deployment.name, within, actions)
        written.append(Heartbeat(deployment.name, within, tuple(blocks)))
    return written


def _longest_gap(client: SyncPrefectClient, deployment: DeploymentResponse) -> timedelta:
    """The longest time between two runs that the server has planned."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterDeploymentId,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    planned = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        ),
        limit=200,
    )
    moments: list[datetime] = sorted(
        run.expected_start_time for run in planned if run.expected_start_time is not None
    )
    if len(moments) < 2:
        raise WorkspaceError(
            f"Prefect's server has planned no runs of {deployment.name} yet; give the command "
            "again in a minute"
        )
    return max(later - earlier for earlier, later in pairwise(moments))


def _write_automation(
    client: SyncPrefectClient, name: str, within: timedelta, actions: list[ActionTypes]
) -> None:
    """Write the automation of a deployment, replacing an earlier one."""
    from prefect.events.actions import DoNothing, SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    body = BODY.format(name=name, hours=within.total_seconds() / 3600)
    notifications: list[ActionTypes] = [
        action.model_copy(update={"subject": f"{name} does not run", "body": body})
        for action in actions
        if isinstance(action, SendNotification)
    ]
    automation = AutomationCore(
        name=f"erasure-audit: {name} runs",
        description=body,
        trigger=EventTrigger(
            expect={"prefect.flow-run.Completed"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "deployment", "prefect.resource.name": name}
            ),
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=notifications or [DoNothing()],
    )
    earlier = client.read_automations_by_name(automation.name)
    if earlier:
        client.update_automation(earlier[0].id, automation)
    else:
        client.create_automation(automation)


def _notification(client: SyncPrefectClient, block: str) -> ActionTypes:
    from prefect.events.actions import SendNotification
    from prefect.exceptions import ObjectNotFound

    kind, _, name = block.removeprefix("block://").partition("/")
    try:
        document = client.read_block_document_by_name(name, kind)
    except ObjectNotFound:
        raise WorkspaceError(f"{block}: Prefect's server has no such block") from None
    return SendNotification(block_document_id=document.id, subject="", body="")
