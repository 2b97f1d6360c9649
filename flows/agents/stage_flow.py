"""The Prefect flow in which a worker runs a stage. Its parameters name the work and hold no
data."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Crashed, Failed

from flows.agents import worker
from flows.pipeline import stage_runner
from tasks.common.errors import AuditError, StageError, without_records

FLOW = "agent-stage"
ENTRYPOINT = "flows.agents.stage_flow.agent_stage"
"""The flow's module in the worker's own installation, so no code travels."""


@flow(name=FLOW, persist_result=False)
def agent_stage(stage: str, batch: str, parcel: str, sha256: str) -> State[Any]:
    """Run one stage of an audit here and hand its results back through the DVC remote.

    Args:
        stage: its name in DVC, for readers of Prefect's pages.
        batch: the batch, for readers of Prefect's pages.
        parcel: the parcel's folder on the DVC remote.
        sha256: the parcel's hash.

    Returns:
        The final state. *Failed* has the stage's own message; *Crashed* means that another agent
        may try.
    """
    home = Path(os.environ.get(worker.HOME) or ".").resolve()
    log = get_run_logger()
    log.info("Stage %s of batch %s", stage, batch)
    try:
        worker.run_stage(
            home, parcel, sha256, str(flow_run.id), lambda line: log.info(without_records(line))
        )
    except stage_runner.KilledStageError as error:
        return Crashed(message=without_records(str(error)))
    except worker.AbandonedError as error:
        return Cancelled(message=str(error))
    except StageError as error:
        return Failed(message=without_records(str(error)))
    except AuditError as error:
        return Crashed(message=without_records(str(error)))
    return Completed(message="The results are on the DVC remote")


def deploy(pool: str) -> None:
    """Make the work pool and its deployment, unless they exist."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            with contextlib.suppress(ObjectAlreadyExists):  # another agent starts at the same time
                client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        client.create_deployment(
            flow_id=client.create_flow(agent_stage),
            name=pool,
            entrypoint=ENTRYPOINT,
            work_pool_name=pool,
            description="Runs a stage that is meant for such an agent; erasure-audit hands them "
            "out by itself.",
            tags=["erasure-audit"],
            parameter_openapi_schema=agent_stage.parameters.model_dump(),
        )
