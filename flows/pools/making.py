"""Making a pool, and taking rows of people who left out of it."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.agents import dispatch
from flows.pipeline import console, stage_runner
from flows.workspace import dvc_graph, layout, shell
from tasks.common import files, settings
from tasks.common.errors import WorkspaceError
from tasks.data import records
from tasks.pooling import table

FOLDER = table.FOLDER
STAGE = "pool@"
RECEIPTS = "ledger/pool"


@dataclass(frozen=True)
class Made:
    """A pool that was made.

    Attributes:
        folder: where it is, relative to the workspace.
        models: how many, those trained with everybody included.
        seconds: of training, all models together, s.
    """

    folder: str
    models: int
    seconds: float

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def make(home: Path, blocks: int, jobs: int | None, listener: stage_runner.Listener) -> Made:
    """Train the blocks of a pool as stages of the pipeline, and have DVC track the pool.

    Afterwards the stage is no part of the graph, so later versions of the data and erasures leave
    the pool as it is. Blocks that were finished before an interruption are not trained again.

    Args:
        home: the workspace.
        blocks: how many, each with `pool.folds` + `pool.with_everybody` models.
        jobs: stages that run at once; None: one per core.
        listener: told what happens to the stages.

    Raises:
        AuditError: the settings, the data or a stage is at fault. A pool that was there stays.
    """
    assignments = ["pool.blocks=" + str(list(range(blocks)))]
    chosen, stale = layout.prepare(home, None, assignments)
    try:
        _run(home, chosen, stale, jobs, listener)
        folders = [home / "artifacts" / "pool" / str(number) for number in range(blocks)]
        lineage = table.merge(folders, home / FOLDER, files.timestamp())
        shell.dvc(home, "add", FOLDER)
    finally:
        settings.assign(home / "params.yaml", ["pool.blocks=[]"])
    shutil.rmtree(home / "artifacts" / "pool", ignore_errors=True)
    models = lineage["models"]
    return Made(FOLDER, len(models), round(sum(float(model["seconds"]) for model in models), 1))


def _run(
    home: Path,
    chosen: settings.Settings,
    stale: set[str],
    jobs: int | None,
    listener: stage_runner.Listener,
) -> None:
    """Bring the pool's stages up to date, and what they read from, and nothing else."""
    graph = dvc_graph.read(home)
    by_name = {stage.name: stage for stage in graph}
    needed = {stage.name for stage in graph if stage.name.startswith(STAGE)}
    if not needed:
        raise WorkspaceError(
            "dvc.yaml has no stage `pool`; take it from the dvc.yaml that comes with the tool"
        )
    for stage in reversed(graph):
        if stage.name in needed:
            needed |= set(stage.upstream)
    due = [stage for stage in dvc_graph.due(graph, stale) if stage.name in needed]
    runner = stage_runner.Runner(home, jobs, listener)
    runner.elsewhere = dispatch.find_agents(home, chosen.batch, console.say)
    try:
        for stage in due:
            if not stage.name.startswith(STAGE):
                runner.run(stage.name, agent=stage.agent)
        blocks = [by_name[stage.name] for stage in due if stage.name.startswith(STAGE)]
        with ThreadPoolExecutor(max(1, len(blocks))) as threads:
            futures = [
                threads.submit(runner.run, block.name, agent=block.agent) for block in blocks
            ]
            for future in futures:
                future.result()
    except BaseException:
        runner.stop()
        raise
    finally:
        if runner.elsewhere is not None:
            runner.elsewhere.stop()


def erase(home: Path) -> dict[str, Any]:
    """Take the rows of records that the data no longer have out of the pool, and file a receipt.

    DVC tracks the pool as it is then. Older versions of it in DVC's cache and remotes are other
    stores: `erasure-audit erase` finds what it knows of, and docs/pool.md says what it does not.

    Args:
        home: the workspace.

    Returns:
        The receipt: when, the pool's hash before and after, and how many rows went.

    Raises:
        AuditError: there is no pool, or it is damaged.
    """
    folder = home / FOLDER
    now = files.timestamp()
    _, before = table.load(folder)
    count = table.keep_only(folder, records.read_manifest(home / "data"), now)
    receipt = {
        "at": now,
        "pool": FOLDER,
        "records": count,
        "scores_sha256_before": before["scores_sha256"],
        "scores_sha256": table.load(folder)[1]["scores_sha256"],
    }
    if count:
        shell.dvc(home, "add", FOLDER)
        files.write_json(home / RECEIPTS / f"{now.replace(':', '')}.json", receipt)
    return receipt
