"""Shared by all attacks: the records that are members and non-members, and checks of the input."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.verification.scoring import Floats, Ints, Scores

Mask = NDArray[np.bool_]
MOST_RECORDS = 2000
"""Most records of a kind that RMIA compares with, and that the population attack learns from. They
are drawn with a fixed seed. Larger data sets would take hours, and the regression has only three
coefficients."""
FEWEST_REFERENCES = 4
"""Fewest `without` references: the model judged and the non-member are left out, and two must
remain to fit on."""
JUDGED = ("original", "unlearned", "retrained")
"""Roles of the single models whose figures are reported."""


@dataclass(frozen=True)
class RecordMasks:
    """Which records are forgotten, retained or unseen, for one request. All masks are (n,)."""

    forget: Mask
    """the request's records"""
    retained: Mask
    """training records that nobody asked to forget, of people who did not ask"""
    unseen: Mask
    """control and test subjects' records, which no model was trained on"""

    @classmethod
    def of(cls, scores: Scores, request: str) -> RecordMasks:
        """The rows of a request.

        Raises:
            EvidenceError: the request has no record.
        """
        forget = scores.forget_set(request)
        # a record that a person leaves in the training set would teach the attack what that person
        # looks like
        strangers = ~np.isin(scores.subjects, np.unique(scores.subjects[forget]))
        return cls(forget, scores.retained & strangers, scores.unseen & strangers)

    @cached_property
    def key(self) -> tuple[bytes, bytes]:
        """A key of the retained and unseen rows, for caches."""
        return self.retained.tobytes(), self.unseen.tobytes()


Memory = dict[tuple[Hashable, ...], Floats]
"""A cache over the requests of one batch, by what the values depend on: the population attack's
ratings of all records by model, and RMIA's population as seen by each set of references."""


def class_means(phi: Floats, labels: Ints, rows: Mask) -> Floats:
    """(..., n) mean score of the `rows` of the record's class; of all `rows` where none has it."""
    base = np.empty_like(phi)
    for label in np.unique(labels):
        members = labels == label
        peers = rows & members if (rows & members).any() else rows
        base[..., members] = phi[..., peers].mean(axis=-1, keepdims=True)
    return base


def sample(rows: Ints) -> Ints:
    """At most MOST_RECORDS of the rows, a fixed random sample: striding could alias with the
    manifest's order."""
    return (
        rows
        if len(rows) <= MOST_RECORDS
        else np.random.default_rng(0).permutation(rows)[:MOST_RECORDS]
    )


def require_finite(*arrays: Floats) -> None:
    """Raise `EvidenceError` where an array holds NaN or an infinite value."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise EvidenceError(
            say(
                "got scores that are NaN or infinite, expected finite ones; has a training "
                "diverged?"
            )
        )


def require_finite_models(scores: Scores, rows: Mask) -> None:
    """Refuse scores that are not finite on the rows, and name the models."""
    scores.check()
    if scores.finite:
        return
    broken = ~np.isfinite(scores.phi[:, rows]).all(axis=1)
    if broken.any():
        names = ", ".join(sorted(set(scores.model_roles[broken].tolist())))
        raise EvidenceError(
            say(
                "got NaN or infinite scores of the models {models}, expected finite ones; train "
                "them anew",
                models=names,
            )
        )


def references_without(scores: Scores) -> Ints:
    """Rows of the references retrained without the forget set. Raises `EvidenceError` below
    FEWEST_REFERENCES."""
    without = np.flatnonzero(scores.model_roles == "without")
    if len(without) < FEWEST_REFERENCES:
        raise EvidenceError(
            say(
                "got {count} references without the forget set, expected at least {least}; add "
                "blocks to references.without_blocks",
                count=len(without),
                least=FEWEST_REFERENCES,
            )
        )
    return without


def row_of(scores: Scores, role: str) -> int:
    """Row of the one model of a role."""
    return int(np.flatnonzero(scores.model_roles == role)[0])
