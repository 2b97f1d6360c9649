"""Are the people who stay more exposed by the unlearned model than by retrained ones?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.verification.attacks.roc import auc, require_share
from tasks.verification.attacks.rows import (
    JUDGED,
    class_means,
    references_without,
    require_finite_models,
    row_of,
)
from tasks.verification.contrast import NO_DIFFERENCE
from tasks.verification.multiplicity import holm
from tasks.verification.scoring import Floats, Ints, Scores


@dataclass(frozen=True)
class RetainedExposure:
    """How well an attack tells retained people from unseen ones, compared with retrained models. It
    identifies nobody."""

    auc: dict[str, float]
    """of retained against unseen records, by role: original, unlearned, retrained"""
    auc_band: tuple[float, float]
    auc_mean: float
    """over the `without` references"""
    p_worse: float
    """probability of an AUC as high as the unlearned model's, were it one more retrained model"""
    subjects: int
    """retained data subjects"""
    subjects_worse: int
    """of them, those shown to be more exposed than under retraining (Holm) at `level`"""
    largest: float
    """largest t value of a subject"""
    level: float
    """error rate of each of the two questions, alpha / 2"""
    alpha: float

    @property
    def worsened(self) -> bool:
        """Did unlearning expose those who stay? True for a retrained model with probability alpha
        at most."""
        return self.p_worse < self.level or self.subjects_worse > 0

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {**asdict(self), "auc_band": list(self.auc_band), "worsened": self.worsened}


def measure(scores: Scores, alpha: float) -> RetainedExposure:
    """Are retained people more exposed by the unlearned model than they would be by a retrained
    one?

    Removing some records can expose others: Carlini, Jagielski, Zhang, Papernot, Terzis and Tramer
        (2022),
    "The Privacy Onion Effect: Memorization is Relative" (NeurIPS), warn of it for machine
    unlearning. All models were trained on the retained records, so "in or out" is not the question.
    The question is whether those records stand out from unseen ones more than they do in models
    that were retrained. Scores are centred by control records of the class. Two questions, each at
    alpha / 2: the AUC of all retained records, and each person's mean score, the people by Holm
    (1979). Each compares one model with M retrained ones,

        t = (x - mean) / (s sqrt(1 + 1 / M)),   Student's t with M - 1 degrees of freedom.

    s has a floor, because references may agree by chance: the AUC step of one retained record, and
    a hundredth of the people's typical spread.

    Args:
        scores: all scores of the audit.
        alpha: error rate of the whole, 0 < alpha < 1.

    Returns:
        The exposure, which identifies nobody.

    Raises:
        EvidenceError: a score is NaN, there are too few references, no retained, control or unseen
            record, or the references do not differ.
    """
    retained, controls, unseen = scores.retained, scores.roles == "control", scores.unseen
    require_finite_models(scores, retained | unseen)
    without, level = references_without(scores), require_share(alpha, "alpha") / 2
    if not retained.any() or not controls.any():
        raise EvidenceError(
            say(
                "got {retained} retained and {control} control records, expected some of each; "
                "enlarge the data or split.control",
                retained=retained.sum(),
                control=controls.sum(),
            )
        )
    judged = [row_of(scores, role) for role in JUDGED]
    phi = scores.phi[np.concatenate([judged, without])]
    centred = phi - class_means(phi, scores.labels, controls)
    areas = np.array([auc(row[retained], row[unseen]) for row in centred])
    people = _person_means(centred[:, retained], scores.subjects[retained])
    unlearned, band, others = JUDGED.index("unlearned"), areas[len(JUDGED) :], people[len(JUDGED) :]
    _, p_worse = _excess(areas[unlearned], band, np.float64(1 / retained.sum()))
    t, p = _excess(people[unlearned], others, _typical_spread(others) / 100)
    return RetainedExposure(
        {role: float(area) for role, area in zip(JUDGED, areas[: len(JUDGED)], strict=True)},
        (float(band.min()), float(band.max())),
        float(band.mean()),
        float(p_worse),
        len(p),
        sum(holm(p.tolist(), level)),
        float(t.max()),
        level,
        alpha,
    )


def _person_means(phi: Floats, subjects: Ints) -> Floats:
    """(m, people) mean score of each person's records."""
    _, codes, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    return np.stack([np.bincount(codes, row) for row in phi]) / counts


def _typical_spread(people: Floats) -> np.float64:
    spread = np.sqrt(people.var(axis=0, ddof=1).mean())
    if not spread > 0:
        raise EvidenceError(NO_DIFFERENCE)
    return np.float64(spread)


def _excess(x: Floats | np.float64, references: Floats, least: np.float64) -> tuple[Floats, Floats]:
    """t and one-sided p of the hypothesis that values (...) are one more of the references
    (M, ...)."""
    from scipy import stats

    m = len(references)
    spread = np.maximum(references.std(axis=0, ddof=1), least)
    t = np.asarray((x - references.mean(axis=0)) / (spread * math.sqrt(1 + 1 / m)), np.float64)
    return t, np.asarray(stats.t.sf(t, m - 1), np.float64)
