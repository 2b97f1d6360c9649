"""Prepares an audit, and runs its first stages while Prefect is still starting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.pipeline import exact_retrain, provenance, stage_runner
from flows.workspace import dvc_graph, layout
from tasks.common import settings


@dataclass(frozen=True)
class Ready:
    """An audit that can begin.

    Attributes:
        folder: the workspace.
        settings: of the batch.
        stale: names of the stale stages.
        pipeline: the stages that have to run, each after its upstream.
        runner: runs them.
    """

    folder: Path
    settings: settings.Settings
    stale: frozenset[str]
    pipeline: tuple[dvc_graph.Stage, ...]
    runner: stage_runner.Runner


def prepare(
    folder: Path, batch: str | None, assignments: list[str], jobs: int | None = None
) -> Ready:
    """Make the workspace ready for a run. If a stage is stale, write the batch's circumstances.

    Raises:
        AuditError: the settings, the requests or the workspace are at fault.
    """
    named = {text.partition("=")[0].strip() for text in assignments}
    due = exact_retrain.wishes(folder, layout.choose(folder, batch, assignments))
    defaults = [text for text in due if text.partition("=")[0] not in named]
    chosen, stale = layout.prepare(folder, batch, [*assignments, *defaults])
    if stale:
        provenance.write(folder, chosen)
    pipeline = dvc_graph.due(dvc_graph.read(folder), stale) if stale else []
    runner = stage_runner.Runner(folder, jobs, variables=chosen.compute.environment())
    return Ready(folder, chosen, frozenset(stale), tuple(pipeline), runner)


def head(pipeline: tuple[dvc_graph.Stage, ...]) -> list[str]:
    """The stages that run here in any case: neither they nor their upstream are meant for an
    agent."""
    due, runs_here = {stage.name for stage in pipeline}, list[str]()
    for stage in pipeline:
        if stage.agent is None and due.intersection(stage.upstream) <= set(runs_here):
            runs_here.append(stage.name)
    return runs_here


@contextlib.contextmanager
def running_head(ready: Ready) -> Iterator[None]:
    """Run the head of the pipeline in the background; an error in the block stops it."""
    ready.runner.ahead(head(ready.pipeline))
    try:
        yield
    except BaseException:
        ready.runner.stop()
        raise
