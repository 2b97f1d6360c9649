"""All attacks on one request's records: on the models judged, and on every retrained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.verification.attacks import lira, population, rmia
from tasks.verification.attacks.rmia import Scorer
from tasks.verification.attacks.roc import (
    CONFIDENCE,
    Roc,
    RocPoint,
    auc,
    auc_interval,
    flagged,
    rate_points,
    require_share,
    roc,
)
from tasks.verification.attacks.rows import (
    JUDGED,
    Memory,
    RecordMasks,
    references_without,
    require_finite_models,
    row_of,
)
from tasks.verification.scoring import Floats, Ints, Scores

Judge = Callable[[int], tuple[Floats, Floats]]
"""row of a model -> scores of (members, non-members) under it"""


@dataclass(frozen=True)
class ExaminedAttack:
    """One attack on one request's records: its figures on the models judged, and the band of the
    retrained ones."""

    name: str
    title: str
    source: str
    auc: dict[str, float]
    """by role: original, unlearned, retrained; members are the forget records"""
    auc_interval: tuple[float, float]
    """of the unlearned model, over records"""
    auc_band: tuple[float, float]
    """lowest and highest AUC of the `without` references, each judged by the others; in
    `verdicts.json` the range of a further one, see `alikeness.attack_range`"""
    auc_references: tuple[float, ...]
    """AUC of each of them; not part of the JSON form"""
    flagged: dict[str, int]
    """by role: forget records that score above the (1 - flagged_rate) quantile of the
    non-members"""
    flagged_band: tuple[int, int]
    flagged_rate: float
    records: int
    non_members: int
    """scores of non-members that the unlearned model was judged with"""
    tpr_at_fpr: tuple[RocPoint, ...]
    """of the unlearned model"""
    curve: Roc
    """of the unlearned model; not part of the JSON form"""

    @property
    def outside_band(self) -> bool:
        """Is the AUC above (remembered) or below (over-forgotten) that of every retrained model?"""
        return not self.auc_band[0] <= self.auc["unlearned"] <= self.auc_band[1]

    def as_json(self) -> dict[str, object]:
        """Plain values, without the curve and the single references."""
        plain = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        del plain["curve"], plain["auc_references"]
        return {**plain, "outside_band": self.outside_band}


@dataclass(frozen=True)
class Examination:
    """All attacks on one request's records."""

    references: dict[str, int]
    """number of references by kind: with, without"""
    attacks: tuple[ExaminedAttack, ...]

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "references": self.references,
            "confidence": CONFIDENCE,
            "attacks": [attack.as_json() for attack in self.attacks],
        }


def examine(
    scores: Scores, request: str, alpha: float, memory: Memory | None = None
) -> Examination:
    """Run all attacks on one request's records, on the models judged and on every model retrained
    without them.

    For LiRA and RMIA the non-members are the same records under `without` references, each judged
    by the remaining ones. Every model is judged with one reference fewer than there are: a
    reference is left out of its own judges, and for a model from outside the last one is left out,
    so that its figure and the band are computed alike. For the population attack the non-members
    are unseen people's records under the same model; they may be easier or harder than the forget
    records, which the band shows.

    Args:
        scores: all scores of the audit.
        request: id of the request, as in `scores.requests`.
        alpha: share of non-members that may be flagged wrongly, 0 < alpha < 1.
        memory: of the same scores, kept from request to request.

    Returns:
        The attacks lira_online, lira_offline, rmia and population, in this order.

    Raises:
        EvidenceError: the request has no record, a score is NaN, or there are too few references,
            retained records or unseen subjects.
    """
    rows, memory = RecordMasks.of(scores, request), {} if memory is None else memory
    require_finite_models(scores, rows.forget | rows.retained | rows.unseen)
    within, without = _references_with(scores), references_without(scores)
    require_share(alpha, "alpha")
    phi = scores.phi[:, rows.forget]

    def online(models: Ints, out: Ints) -> Floats:
        return lira.online(phi[models], phi[within], phi[out])

    def offline(models: Ints, out: Ints) -> Floats:
        return lira.offline(phi[models], phi[out])

    def by_population(model: int) -> tuple[Floats, Floats]:
        return population.attack(scores, model, rows, memory)

    carlini, zarifzadeh = "Carlini et al. 2022", "Zarifzadeh et al. 2024"
    regression, ye = say("Population attack (logistic regression)"), say("after Ye et al. 2022")
    robust = leave_one_out(rmia.scorer(scores, rows, memory), without)
    judges: tuple[tuple[str, str, str, Judge], ...] = (
        ("lira_online", "LiRA (online)", carlini, leave_one_out(online, without)),
        ("lira_offline", "LiRA (offline)", carlini, leave_one_out(offline, without)),
        ("rmia", "RMIA", zarifzadeh, robust),
        ("population", regression, ye, by_population),
    )
    return Examination(
        {"with": len(within), "without": len(without)},
        tuple(_attack(name, title, source, j, scores, alpha) for name, title, source, j in judges),
    )


def _references_with(scores: Scores) -> Ints:
    """Rows of the references trained with everybody; refuses fewer than two."""
    within = np.flatnonzero(scores.model_roles == "with")
    if len(within) < 2:
        raise EvidenceError(
            say(
                "got {count} references trained with everybody, expected at least 2; add blocks",
                count=len(within),
            )
        )
    return within


def leave_one_out(score: Scorer, without: Ints) -> Judge:
    """Score (members, non-members) under a model: the forget records, and the same records under
    each of its references, which is judged by the others.

    The non-members' scores are computed once for all models that share the references.

    Args:
        score: of an attack that needs references.
        without: rows of the `without` references.
    """
    shared: dict[bytes, Floats] = {}

    def judge(model: int) -> tuple[Floats, Floats]:
        others = without[without != model] if model in without else without[:-1]
        if others.tobytes() not in shared:
            rest = np.stack([others[others != other] for other in others])
            shared[others.tobytes()] = score(others, rest).ravel()
        return score(np.array([model]), others[None])[0], shared[others.tobytes()]

    return judge


def _attack(
    name: str, title: str, source: str, judge: Judge, scores: Scores, alpha: float
) -> ExaminedAttack:
    """The figures of one attack; `judge` scores members and non-members under a model."""
    judged = {role: judge(row_of(scores, role)) for role in JUDGED}
    band = [judge(int(row)) for row in references_without(scores)]
    areas, counts = [auc(*pair) for pair in band], [flagged(*pair, alpha) for pair in band]
    released = judged["unlearned"]
    return ExaminedAttack(
        name,
        title,
        source,
        {role: auc(*pair) for role, pair in judged.items()},
        auc_interval(*released),
        (min(areas), max(areas)),
        tuple(areas),
        {role: flagged(*pair, alpha) for role, pair in judged.items()},
        (min(counts), max(counts)),
        alpha,
        len(released[0]),
        len(released[1]),
        rate_points(*released),
        roc(*released),
    )
