"""When a full retrain is advised: what unlearning batch after batch does to a model, as far as an
audit can know it.

An audit judges the people of its own batch. The records of those before are erased by then, so
nobody can judge them again, and what was left of them stays in a model that is unlearned again and
again. So the advice goes by what is known: the verdicts of this batch, the accuracy lost against
retrained models, how often the model was unlearned since it was last trained from scratch, and how
much of what it was trained on it had to forget. `benchmarks.sequential` judges all earlier people
again, and its figures carry the limits in `settings.Advice`.

Advice changes no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.common.settings import Advice, Method
from tasks.verification.scoring import Scores

FROM_SCRATCH: tuple[Method, ...] = ("retrain", "short_retrain")
"""Methods that take nothing over from the model before, neither weights nor answers."""


@dataclass(frozen=True)
class History:
    """How a model came about since it was last trained from scratch."""

    unlearnings: int
    """one after the other, each starting from the model of the one before"""
    forgotten: int
    """training records that these unlearnings made it forget"""
    trained: int
    """records that it was trained on"""

    def __post_init__(self) -> None:
        """Refuse a history that cannot be."""
        if self.unlearnings < 0 or not 0 <= self.forgotten <= self.trained or self.trained < 1:
            raise EvidenceError(
                f"got a model's history of {self.unlearnings} unlearnings, {self.forgotten} of "
                f"{self.trained} records "
                "forgotten; expected counts, and no more forgotten than trained on; release the "
                "batch again"
            )

    @property
    def share(self) -> float:
        """How much of what it was trained on it had to forget."""
        return self.forgotten / self.trained

    def after(self, method: Method, forgotten: int, retained: int) -> History:
        """The history of the model that a method makes of this one.

        Args:
            method: `unlearn.method`.
            forgotten: training records of the forget set.
            retained: training records that are left.
        """
        if method in FROM_SCRATCH:
            return History(0, 0, retained)
        return History(self.unlearnings + 1, self.forgotten + forgotten, self.trained)


def control_loss(scores: Scores, alpha: float) -> dict[str, float]:
    """Accuracy on unseen people (control and test subjects) that the released model lost against
    retrained models.

    Student's t of a new observation, as in `verification.utility_gate`, whose spread between the M
    retrained references has a floor of one record in a thousand:

        loss = mean - accuracy,   interval loss -+ t(1 - alpha, M - 1) s sqrt(1 + 1/M).

    A perfect retrain's loss lies above `low` = 0 with probability alpha only.

    Args:
        scores: all scores of the audit.
        alpha: error rate of each end.

    Returns:
        `estimate`, `low`, `high`, shares, negative where the released model is better;
        `confidence`, 1 - 2 alpha.

    Raises:
        EvidenceError: there are fewer than two references without the forget set, or nobody is
            unseen.
    """
    from scipy import stats

    without = scores.model_roles == "without"
    if without.sum() < 2 or not scores.unseen.any():
        raise EvidenceError(
            f"got {without.sum()} references without the forget set and {scores.unseen.sum()} "
            "records of unseen "
            "people, expected at least 2 and 1; add blocks to references.without_blocks"
        )
    shares = (scores.predicted == scores.labels)[:, scores.unseen].mean(axis=1)
    band = shares[without]
    loss = float(band.mean() - shares[scores.model_roles == "unlearned"][0])
    spread = max(float(band.std(ddof=1)), 1e-3) * math.sqrt(1 + 1 / len(band))
    half = float(stats.t.isf(alpha, len(band) - 1)) * spread
    return {"estimate": loss, "low": loss - half, "high": loss + half, "confidence": 1 - 2 * alpha}


def advise(
    method: Method,
    history: History,
    verdicts: Sequence[Mapping[str, Any]],
    loss: Mapping[str, float] | None,
    limits: Advice,
) -> list[dict[str, Any]]:
    """Why a full retrain is advised, most urgent first; empty where it is not, or where this was
    one.

    Args:
        method: how this batch was unlearned.
        history: of the model that it made.
        verdicts: of the batch's requests: `verdict`, and `residual_influence` with `low`.
        loss: from `control_loss`, None where it could not be measured.
        limits: from which on it is advised.

    Returns:
        Dictionaries of `code`, `text`, a sentence that can be told in other languages, and its
        `values`.
    """
    if method == "retrain":
        return []
    failed = sum(one["verdict"] == "fail" for one in verdicts)
    unsure = sum(
        one["verdict"] == "inconclusive" and _left(one["residual_influence"]) for one in verdicts
    )
    found = []
    if failed:
        told = say(
            "A full retrain is advised: {failed} of {requests} requests failed, so this model "
            "must not be used.",
            failed=failed,
            requests=len(verdicts),
        )
        found.append(("failed", told))
    if unsure:
        told = say(
            "A full retrain is advised: for {unsure} of {requests} requests some influence is "
            "left, and it is not "
            "shown to be below the margin.",
            unsure=unsure,
            requests=len(verdicts),
        )
        found.append(("influence_left", told))
    if loss is not None and loss["low"] > 0 and loss["estimate"] >= limits.accuracy_loss:
        told = say(
            "A full retrain is advised: accuracy on people whom no model saw is lower than "
            "retrained models' by "
            "{loss:.1%} ({low:.1%} to {high:.1%}); the limit is {limit:.1%}.",
            loss=loss["estimate"],
            low=loss["low"],
            high=loss["high"],
            limit=limits.accuracy_loss,
        )
        found.append(("accuracy_lost", told))
    if history.unlearnings >= limits.unlearnings:
        told = say(
            "A full retrain is advised: unlearnings since the last training from scratch, this "
            "one included: "
            "{unlearnings}; the limit is {limit}.",
            unlearnings=history.unlearnings,
            limit=limits.unlearnings,
        )
        found.append(("unlearnings", told))
    if history.share >= limits.forgotten_share:
        told = say(
            "A full retrain is advised: {share:.1%} of the records of the last training from "
            "scratch are forgotten; "
            "the limit is {limit:.1%}.",
            share=history.share,
            limit=limits.forgotten_share,
        )
        found.append(("forgotten_share", told))
    return [{"code": code, "text": told, "values": told.values} for code, told in found]


def _left(influence: Mapping[str, Any]) -> bool:
    """Whether influence is shown to be left. Where it is only not ruled out, more references help
    and no retrain."""
    return influence["low"] is not None and influence["low"] > 0
