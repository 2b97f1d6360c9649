"""The Prefect flow of an audit: one task per stage of DVC's graph, siblings side by side.

Prefect schedules, retries and logs; DVC decides what is stale and keeps every result. The flow's
parameters and artifacts hold no personal data, only the batch's name, request ids and verdicts.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefect import Task, flow, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture

from flows.agents import dispatch
from flows.operations.deployment import artifact_key
from flows.pipeline import results, stage_runner
from flows.pipeline.prepare import Ready, prepare
from flows.reports import overview
from flows.workspace import dvc_graph
from tasks.common.errors import AuditError, StageError, without_records

REPORTS_URL = "ERASURE_AUDIT_REPORTS_URL"
"""Environment variable: the address at which a web server shows the folder `reports/`."""

_ready: ContextVar[Ready | None] = ContextVar("ready", default=None)


@contextlib.contextmanager
def taking_over(ready: Ready) -> Iterator[None]:
    """Have flows inside the block take over an audit whose first stages may already run."""
    token = _ready.set(ready)
    try:
        yield
    finally:
        _ready.reset(token)


@flow(name="erasure-audit", persist_result=False)
def audit(
    batch: str | None = None, jobs: int | None = None, folder: str = "."
) -> list[dict[str, Any]]:
    """Audit a batch of deletion requests.

    Args:
        batch: its name, requests/<batch>.json; None: the one in `params.yaml`.
        jobs: stages that run at once; None: one per core.
        folder: the workspace.

    Returns:
        One result per request: request, verdict, reason, residual influence, report.

    Raises:
        AuditError: the workspace is unusable, or a stage failed (with its own message).
    """
    workspace = Path(folder).resolve()
    ready = _ready.get() or prepare(workspace, batch, [], jobs)
    elsewhere = dispatch.find_agents(workspace, ready.settings.batch, get_run_logger().info)
    ready.runner.elsewhere = elsewhere
    try:
        _run_stages(ready.runner, ready.pipeline)
    finally:
        if elsewhere is not None:
            elsewhere.close()
    batch_results = results.read(workspace, ready.settings.batch)
    _publish(workspace, ready.settings.batch)
    return [result.plain() for result in batch_results]


def _run_stages(runner: stage_runner.Runner, pipeline: Sequence[dvc_graph.Stage]) -> None:
    """Submit all stages at once, each to a thread of Prefect that waits for its upstream.

    The runner limits how many stages run at a time, not the number of threads.
    """
    futures: dict[str, PrefectFuture[stage_runner.Outcome]] = {}
    try:
        for stage in pipeline:
            upstream = [futures[name] for name in stage.upstream if name in futures]
            futures[stage.name] = _task(stage, runner).submit(return_state=False, wait_for=upstream)
        for future in futures.values():
            future.wait()
    except BaseException:  # Ctrl-C or Prefect's cancellation: no child outlives the flow
        runner.stop()
        raise
    _raise_first_failure([future.state for future in futures.values()])


def _task(stage: dvc_graph.Stage, runner: stage_runner.Runner) -> Task[[], stage_runner.Outcome]:
    def log(line: str) -> None:
        get_run_logger().info(without_records(line))

    def run() -> stage_runner.Outcome:
        try:
            return runner.run(stage.name, agent=stage.agent, log=log)
        except stage_runner.KilledStageError:
            raise  # may be tried again
        except StageError as error:
            runner.close()
            # Prefect stores this text; the listener has the whole message
            raise type(error)(without_records(str(error))) from None

    return Task(
        run,
        name=stage.name,
        task_run_name=stage.name.replace("{", "(").replace("}", ")"),
        description=stage.desc,
        tags=[stage.agent] if stage.agent else None,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=1,
        retry_delay_seconds=1,
        retry_condition_fn=_was_killed,
    )


def _was_killed(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether to try again: a stage that was killed from outside may succeed, one that failed would
    fail again."""
    return isinstance(_error(state), stage_runner.KilledStageError)


def _error(state: State[Any]) -> BaseException | None:
    result = state.result(raise_on_failure=False)
    return result if isinstance(result, BaseException) else None


def _raise_first_failure(states: list[State[Any]]) -> None:
    errors = [
        error
        for state in states
        if state.is_failed() or state.is_crashed()
        if (error := _error(state))
    ]
    for error in errors:
        if isinstance(error, StageError) and not isinstance(error, stage_runner.SkippedStageError):
            raise error
    for error in errors:
        raise error


def _publish(workspace: Path, batch: str) -> None:
    """Write the register of all batches, and as Prefect artifacts the batch's verdicts and a link
    to its reports."""
    from prefect.artifacts import create_table_artifact

    key = artifact_key(batch)
    rows, description = overview.artifact(workspace, batch)
    create_table_artifact(key=f"verdicts-{key}", table=rows, description=description)
    if (workspace / "reports" / batch / "index.html").exists():
        _link_reports(workspace, batch)
    try:
        overview.write(workspace)
    except AuditError as error:  # the audit stands without it
        get_run_logger().warning("The register of all batches was not made: %s", error)


def _link_reports(workspace: Path, batch: str) -> None:
    """An artifact with the reports' address if a web server shows them, else with machine and path:
    a link to a file would open on one machine only."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact

    key, address = f"reports-{artifact_key(batch)}", os.environ.get(REPORTS_URL)
    path = f"reports/{batch}/index.html"
    if address:
        create_link_artifact(
            key=key,
            link=f"{address.rstrip('/')}/{quote(path.removeprefix('reports/'))}",
            link_text=f"Reports of batch {batch}",
        )
    else:
        create_markdown_artifact(
            key=key,
            markdown=f"Reports of batch {batch}: `{workspace / path}` on `{socket.gethostname()}`. "
            f"Set `{REPORTS_URL}` to the address at which a web server shows `reports/`, and a "
            "link stands here.",
        )
