"""LiRA, the likelihood-ratio attack (Carlini et al. 2022), with and without models that saw the
records."""

from __future__ import annotations

import numpy as np

from tasks.common.errors import EvidenceError
from tasks.verification.attacks.rows import require_finite
from tasks.verification.scoring import Floats

MANY_REFERENCES = 64
"""With fewer references of a kind LiRA pools its variance over records. Carlini et al. (2022) find
it better below 64 shadow models, both kinds together (section VI.B), and with 43 of the scarcer
kind (section VII.A)."""
VARIANCE_FLOOR = 1e-12
"""Least variance of a fitted normal, squared logits: references may agree by chance."""


def online(
    phi: Floats, in_phi: Floats, out_phi: Floats, shared_variance: bool | None = None
) -> Floats:
    """Likelihood-ratio attack with references of both kinds (Carlini et al. 2022, Algorithm 1,
    online).

        log N(phi; mu_in, var_in) - log N(phi; mu_out, var_out),

    the means fitted on each record, the variances likewise or pooled. Pooled means the mean over
    the records of the variance around each record's own mean; the authors' code takes the spread of
    all values instead, which adds the records' different difficulty to it.

    Args:
        phi: (..., n) logit-scaled confidences under the models attacked.
        in_phi: (j, n) the same records under references trained on them, j >= 2.
        out_phi: (..., k, n) under references not trained on them, k >= 2.
        shared_variance: pool the variances over the n records; None: where a kind has fewer than 64
            references.

    Returns:
        (..., n) log-likelihood ratios, higher = more member-like. A variance of zero is raised to
        VARIANCE_FLOOR.

    Raises:
        EvidenceError: fewer than two references of a kind, shapes that do not fit, or a score that
            is not finite.
    """
    shared = _pools(shared_variance, min(len(in_phi), out_phi.shape[-2]))
    (mu_in, var_in), (mu_out, var_out) = _normal(in_phi, shared, phi), _normal(out_phi, shared, phi)
    inside, outside = (phi - mu_in) ** 2 / var_in, (phi - mu_out) ** 2 / var_out
    ratio: Floats = 0.5 * (outside - inside + np.log(var_out) - np.log(var_in))
    return ratio


def offline(phi: Floats, out_phi: Floats, shared_variance: bool | None = None) -> Floats:
    """Likelihood-ratio attack without models that saw the records (Carlini et al. 2022, equation 4,
    offline).

    The paper's score is one-sided, 1 - Pr[Z > phi] with Z ~ N(mu_out, var_out), that is Phi(z).
    Returned is z itself, which orders the records alike but does not saturate at 1.

    Args:
        phi: (..., n) logit-scaled confidences under the models attacked.
        out_phi: (..., k, n) the same records under references not trained on them, k >= 2.
        shared_variance: as in `online`.

    Returns:
        (..., n) z = (phi - mu_out) / sigma_out, higher = more member-like.

    Raises:
        EvidenceError: as in `online`.
    """
    mean, variance = _normal(out_phi, _pools(shared_variance, out_phi.shape[-2]), phi)
    z: Floats = (phi - mean) / np.sqrt(variance)
    return z


def _pools(shared_variance: bool | None, references: int) -> bool:
    return references < MANY_REFERENCES if shared_variance is None else shared_variance


def _normal(references: Floats, shared: bool, phi: Floats) -> tuple[Floats, Floats]:
    """Mean and variance (..., n) of the references' scores (..., k, n), for scores phi (..., n)."""
    few = references.ndim < 2 or references.shape[-2] < 2 or not references.shape[-1]
    if few or phi.shape[-1:] != references.shape[-1:]:
        raise EvidenceError(
            f"got references of shape {references.shape} for scores of shape {phi.shape}, "
            "expected (references, records) with at least 2 references of each kind and the same "
            "records; add blocks "
            "of references"
        )
    require_finite(references, phi)
    variance: Floats = references.var(axis=-2, ddof=1)
    if shared:
        variance = np.broadcast_to(variance.mean(axis=-1, keepdims=True), variance.shape)
    return references.mean(axis=-2), np.maximum(variance, VARIANCE_FLOOR)
