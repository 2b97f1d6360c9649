"""When a full retrain is advised: what unlearning batch after batch does to a model, as far as an
audit can know it.

An audit judges the people of its own batch. The records of earlier batches are erased by then, so
nobody can judge them again, and what was left of them stays in a model that is unlearned again and
again. So the advice uses what is known: the verdicts of this batch, the accuracy lost against
retrained models, how often the model was unlearned since it was last trained from scratch, and how
much of what it was trained on it had to forget. `benchmarks.sequential` judges all earlier people
again; the limits in `settings.Advice` come from its figures.

Advice changes no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.common.language import Sentence, say
from tasks.common.settings import AdviceLimits, Method
from tasks.training.history import History


@dataclass(frozen=True)
class BatchFacts:
    """What is known after a batch."""

    verdicts: Sequence[Mapping[str, Any]]
    """of the batch's requests: `verdict`, and `residual_influence` with `low`"""
    loss: Mapping[str, float] | None
    """of accuracy, from `utility.control_loss`; None where it could not be measured"""
    history: History
    """of the model that the batch made"""
    limits: AdviceLimits


def _failed(facts: BatchFacts) -> Sentence | None:
    failed = sum(verdict["verdict"] == "fail" for verdict in facts.verdicts)
    if not failed:
        return None
    return say(
        "A model trained anew is advised: {failed} of {requests} requests failed, so the model "
        "after unlearning must not be used.",
        failed=failed,
        requests=len(facts.verdicts),
    )


def _influence_left(facts: BatchFacts) -> Sentence | None:
    """Only where influence is shown to be left: where it is merely not ruled out, more references
    help and a retrain does not."""
    lows = [
        verdict["residual_influence"]["low"]
        for verdict in facts.verdicts
        if verdict["verdict"] == "inconclusive"
    ]
    unsure = sum(low is not None and low > 0 for low in lows)
    if not unsure:
        return None
    return say(
        "A model trained anew is advised: {inconclusive} of {requests} requests are inconclusive, "
        "and for {unsure} of these some influence is shown to be left.",
        inconclusive=len(lows),
        unsure=unsure,
        requests=len(facts.verdicts),
    )


def _accuracy_lost(facts: BatchFacts) -> Sentence | None:
    loss, limit = facts.loss, facts.limits.accuracy_loss
    if loss is None or loss["low"] <= 0 or loss["estimate"] < limit:
        return None
    return say(
        "A model trained anew is advised: accuracy on people whom no model saw is lower than "
        "retrained models' by "
        "{loss:.1%} ({low:.1%} to {high:.1%}); the limit is {limit:.1%}.",
        loss=loss["estimate"],
        low=loss["low"],
        high=loss["high"],
        limit=limit,
    )


def _unlearnings(facts: BatchFacts) -> Sentence | None:
    if facts.history.unlearnings < facts.limits.unlearnings:
        return None
    return say(
        "A model trained anew is advised: unlearnings since the last training from scratch, this "
        "one included: "
        "{unlearnings}; the limit is {limit}.",
        unlearnings=facts.history.unlearnings,
        limit=facts.limits.unlearnings,
    )


def _forgotten_share(facts: BatchFacts) -> Sentence | None:
    if facts.history.share < facts.limits.forgotten_share:
        return None
    return say(
        "A model trained anew is advised: {share:.1%} of the records of the last training from "
        "scratch are forgotten; "
        "the limit is {limit:.1%}.",
        share=facts.history.share,
        limit=facts.limits.forgotten_share,
    )


RULES: tuple[tuple[str, Callable[[BatchFacts], Sentence | None]], ...] = (
    ("failed", _failed),
    ("influence_left", _influence_left),
    ("accuracy_lost", _accuracy_lost),
    ("unlearnings", _unlearnings),
    ("forgotten_share", _forgotten_share),
)
"""Reasons for a full retrain by their code, the most urgent first."""


def advise(method: Method, facts: BatchFacts) -> list[dict[str, Any]]:
    """Why a full retrain is advised, most urgent first; empty where it is not, or where this batch
    was retrained.

    Args:
        method: how this batch was unlearned.
        facts: what is known after the batch.

    Returns:
        Dictionaries of `code`, `text`, a sentence that can be told in other languages, and its
        `values`.
    """
    if method == "retrain":
        return []
    texts = ((code, rule(facts)) for code, rule in RULES)
    return [
        {"code": code, "text": text, "values": text.values}
        for code, text in texts
        if text is not None
    ]
