"""Decides whether a batch that a pool judges is retrained, too: on demand, once a month, or always.

The retrain is the baseline of the report, it can be released instead, and it tests the pool
(`tasks.pooling.renewal`). It must be made before the release: then the records are erased, and no
re-audit could make it.
"""

from __future__ import annotations

from pathlib import Path

from flows.pipeline import results
from tasks.common import cost_ledger, files, settings
from tasks.pooling import renewal

ONE = ("references.without_blocks=[0]", "references.seeds_per_block=1")
NONE = ("references.without_blocks=[]", "references.seeds_per_block=1")


def wishes(workspace: Path, chosen: settings.Settings) -> tuple[str, ...]:
    """The settings that make one exact retrain of a batch, or none, as `pool.retrain` says.

    With `monthly` the first batch of a month (UTC) is retrained, and no later one of that month
    that this pool judges. A batch belongs to the month in which its audit began.

    Args:
        workspace: with the reports of earlier batches.
        chosen: settings of the batch.

    Returns:
        Assignments for `params.yaml`; empty where the settings stay as they are: on demand, or
        without a pool.
    """
    if chosen.references.mode != "pool" or chosen.pool.retrain == "on_demand":
        return ()
    if chosen.pool.retrain == "always":
        return ONE
    month = _began(workspace, chosen.batch)[:7]
    return NONE if _retrained_in(workspace, chosen, month) else ONE


def planned(workspace: Path, chosen: settings.Settings) -> settings.Settings:
    """The settings with which a run of the batch will begin: those chosen and those of `wishes`."""
    due = wishes(workspace, chosen)
    if not due:
        return chosen
    update = {"without_blocks": (0,) if due == ONE else (), "seeds_per_block": 1}
    references = chosen.references.model_copy(update=update)
    return chosen.model_copy(update={"references": references})


def _began(workspace: Path, batch: str) -> str:
    """When the audit of a batch began, RFC 3339; the current time if it has not begun."""
    path = workspace / cost_ledger.BATCHES / f"{batch}.json"
    if path.exists():
        return str(files.read_json(path)["started"])
    return files.timestamp()


def _retrained_in(workspace: Path, chosen: settings.Settings, month: str) -> bool:
    """Whether another batch of the month, judged by the same pool, was retrained."""
    for home in results.workspaces(workspace):
        for path in (home / "reports").glob("*/*/evidence.json"):
            evidence = files.read_json(path)
            if evidence.get("batch") == chosen.batch:
                continue
            began = str((evidence.get("provenance") or {}).get("started", ""))
            if began.startswith(month) and renewal.has_retrain(
                evidence, chosen.references.with_from
            ):
                return True
    return False
