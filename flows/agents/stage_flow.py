"""The Prefect flow that a worker runs for a stage handed to it. Its parameters name the work and
hold no data."""

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
"""Where a worker finds the flow: in its own installation, so no code travels."""


@flow(name=FLOW, persist_result=False)
def agent_stage(stage: str, batch: str, parcel: str, sha256: str) -> State[Any]:
    """Run one stage of an audit here and hand its results back through the DVC remote.

    Args:
        stage: its name in DVC; for whoever reads Prefect's pages.
        batch: the batch, likewise.
        parcel: where on the DVC remote lies what the stage needs.
        sha256: the parcel's hash.

    Returns:
        How it ended. *Failed* carries the stage's own message; *Crashed* says that another agent
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
    """Make the work pool if there is none, and the deployment that hands stages to it. Harmless
    when both exist."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            with contextlib.suppress(ObjectAlreadyExists):  # another agent starts just now
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
