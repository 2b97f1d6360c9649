"""Many tests at once: Holm's procedure within a verdict, false discoveries among many verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(
    p_values: Sequence[float], alpha: float, weights: Sequence[float] | None = None
) -> list[bool]:
    """The hypotheses that Holm's (1979) step-down procedure rejects at family-wise level alpha.

    Args:
        p_values: one for each hypothesis.
        alpha: family-wise level.
        weights: shares of alpha (Holm's section 3); equal where not given.
    """
    share = list(weights) if weights is not None else [1.0] * len(p_values)
    rejected, remaining = [False] * len(p_values), sum(share)
    for index in sorted(range(len(p_values)), key=lambda i: p_values[i] / share[i]):
        # written so that a p that is NaN rejects nothing
        if not p_values[index] < alpha * share[index] / remaining:
            break
        rejected[index] = True
        remaining -= share[index]
    return rejected


def false_discovery(p_pass: Sequence[float]) -> list[float]:
    """q-values of the passes of a register (Benjamini and Hochberg 1995).

    One pass is false with a probability of at most alpha. Among many requests the share of false
    passes matters. Counting only those with q < alpha keeps the expectation of that share below
    alpha where the requests' errors are independent or depend positively, as they do here because
    they share references and the model judged (Benjamini and Yekutieli 2001).

    Args:
        p_pass: p of the intersection-union test of each request, 1 for one that could not be
            judged.

    Returns:
        One q for each.
    """
    from scipy import stats

    return [
        float(q) for q in stats.false_discovery_control(np.asarray(p_pass, np.float64), method="bh")
    ]
