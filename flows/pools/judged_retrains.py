"""Reads, from the evidence of earlier batches, the exact retrains that a pool judged."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.pipeline import results
from flows.pools.making import FOLDER
from tasks.common import files, settings
from tasks.pooling import renewal, table


def assess(home: Path, folder: str = FOLDER) -> renewal.Renewal:
    """Whether the pool has to be renewed, by all batches that it judged and that were retrained.

    Args:
        home: the workspace.
        folder: the pool, relative to it.

    Raises:
        AuditError: there is no pool, or it is damaged.
    """
    _, lineage = table.load(home / folder)
    rules = settings.load(home / "params.yaml").verify
    retrained = retrains(home, folder, str(lineage.get("made", "")))
    return renewal.assess(retrained, rules.rho0, rules.alpha)


def retrains(home: Path, folder: str, since: str) -> list[renewal.JudgedRetrain]:
    """The exact retrains that a pool judged, by batch.

    Args:
        home: the workspace.
        folder: the pool, relative to it.
        since: when it was made, RFC 3339; evidence from before is of another pool.
    """
    by_batch: dict[str, list[tuple[float, float, bool]]] = defaultdict(list)
    for workspace in results.workspaces(home):
        for path in sorted((workspace / "reports").glob("*/*/evidence.json")):
            evidence = files.read_json(path)
            judged = _judged(evidence, folder, since)
            if judged is not None:
                by_batch[str(evidence["batch"])].append(judged)
    return [
        renewal.JudgedRetrain(
            batch,
            tuple(rho for rho, _, _ in judged),
            tuple(z for _, z, _ in judged),
            sum(failed for _, _, failed in judged),
        )
        for batch, judged in sorted(by_batch.items())
    ]


def _judged(
    evidence: Mapping[str, Any], folder: str, since: str
) -> tuple[float, float, bool] | None:
    """rho, its deviation and whether it failed, of a retrain that the pool alone judged."""
    points = evidence.get("influence_points") or {}
    without, rho = points.get("without") or [], points.get("retrained")
    if not renewal.has_retrain(evidence, folder) or rho is None or len(without) < 2:
        return None
    if str(evidence["provenance"].get("started", "")) < since:
        return None
    spread = statistics.stdev(without) * math.sqrt(1 + 1 / len(without))
    if not spread > 0:
        return None
    cleared = bool((evidence.get("self_check") or {}).get("retrain_cleared"))
    return float(rho), float(rho) / spread, not cleared
