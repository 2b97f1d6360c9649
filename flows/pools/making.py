"""Makes a pool, and removes the rows of people who left from it."""

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

    Afterwards the stage is not in the graph any more, so later versions of the data and erasures do
    not change the pool. Blocks that were finished before an interruption are not trained again.

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
    """Bring only the pool's stages and their upstream up to date."""
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
    """Remove the rows of records that are no longer in the data from the pool, and file a receipt.

    DVC then tracks the new pool. Older versions are in DVC's cache and remotes: `erasure-audit
    erase` erases them, with the limits that docs/pool.md names.

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
