"""Decides when a pool must be renewed: by a test on exact retrains, not by a date.

People leave and come, but the pool's models stay as they were trained. Sometimes a batch that the
pool judges is retrained, too. The true influence in that retrain is 0. For request j of retrain k

    z_jk = rho_jk / (s_j sqrt(1 + 1 / M_j)),

s_j the spread of the pool's M_j models without the person, on the scale of rho. Requests of one
retrain are not independent, so a retrain counts once, D_k = mean over j of z_jk, and Student's t of
D_1 … D_K tests whether the pool is biased by now, whatever the correlation within a retrain. A
significant but small bias does not matter to a verdict at a margin of rho0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LEVEL = 0.05
"""Error rate of the test, each time that it is made."""
LEAST_RETRAINS = 3
HARMLESS = 0.2
"""A bias of rho below this share of rho0 renews no pool."""
FAILED = 0.05
"""Level at which more failing retrains than alpha explains renew a pool."""


@dataclass(frozen=True)
class JudgedRetrain:
    """One exact retrain of a batch as the pool judged it, by request."""

    batch: str
    rho: tuple[float, ...]
    z: tuple[float, ...]
    """deviations of `rho` from 0, in standard errors of a new model"""
    failed: int
    """requests on which it failed"""


@dataclass(frozen=True)
class Renewal:
    """Whether the pool has to be renewed.

    Attributes:
        renew: whether.
        retrains: how many exact retrains were looked at.
        bias: mean rho of the retrains; None: there were none.
        p: of no bias, two-sided; None: there were too few retrains to say.
        reason: in one sentence.
    """

    renew: bool
    retrains: int
    bias: float | None
    p: float | None
    reason: str

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def has_retrain(evidence: Mapping[str, Any], folder: str) -> bool:
    """Whether a pool alone judged an exact retrain beside the model of the batch.

    Args:
        evidence: on one request, as a report has it.
        folder: the pool, relative to the workspace.
    """
    chosen = (evidence.get("provenance") or {}).get("settings") or {}
    references = chosen.get("references") or {}
    by_pool = references.get("mode") == "pool" and references.get("with_from") == folder
    models = evidence.get("models") or []
    return by_pool and any(model.get("role") == "retrained" for model in models)


def assess(retrains: Sequence[JudgedRetrain], rho0: float, alpha: float) -> Renewal:
    """Whether a pool that judged these exact retrains may judge on.

    Args:
        retrains: of different batches, each with at least one request.
        rho0: the margin of the verdict.
        alpha: its error rate; so many of the retrains' requests may fail by chance.
    """
    from scipy import stats

    count = len(retrains)
    if not count:
        return Renewal(
            False, 0, None, None, "no batch that this pool judged was retrained, too; make one"
        )
    bias = float(np.mean([np.mean(judged.rho) for judged in retrains]))
    requests = sum(len(judged.rho) for judged in retrains)
    failed = sum(judged.failed for judged in retrains)
    if stats.binom.sf(failed - 1, requests, alpha) < FAILED:
        return Renewal(
            True,
            count,
            bias,
            None,
            f"exact retrains failed on {failed} of {requests} requests, more than chance explains",
        )
    if count < LEAST_RETRAINS:
        return Renewal(
            False,
            count,
            bias,
            None,
            f"got {count} exact retrains, expected at least {LEAST_RETRAINS} to say that there is "
            "no bias",
        )
    p = _p([float(np.mean(judged.z)) for judged in retrains])
    if p < LEVEL and abs(bias) > HARMLESS * rho0:
        return Renewal(
            True, count, bias, p, f"exact retrains lie at rho {bias:+.2f} instead of 0, p {p:.3f}"
        )
    return Renewal(
        False, count, bias, p, f"{count} exact retrains show no bias that matters (p {p:.2f})"
    )


def _p(values: Sequence[float]) -> float:
    """Two-sided p of mean 0 by Student's t."""
    from scipy import special

    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    if not error > 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * float(special.stdtr(len(values) - 1, -abs(mean) / error))
