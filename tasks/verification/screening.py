"""Screening: a first look without any reference model. It can fail a model or find nothing, and it
never passes one.

An attacker who has only the model learns from retained records how members score, and from people
whom no model saw how strangers score (`attacks.population`). The attacker then rates the person's
records. A forgotten person is rated as one more stranger. The unit is the person, because one
person's records are alike. A screening can miss influence of any size: without references its power
is unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.common.errors import EvidenceError
from tasks.common.language import Sentence, say
from tasks.verification.attacks import population
from tasks.verification.attacks.rows import Memory, RecordMasks
from tasks.verification.gates import GateTest
from tasks.verification.multiplicity import holm
from tasks.verification.scoring import Floats, Ints, Scores

FEWEST_STRANGERS = 4
QUESTIONS = (
    ("screening_known", say("Do the records look like those that the model was trained on?")),
    ("screening_strange", say("Do the records look stranger than strangers' records?")),
)
"""The gates: name and question."""


@dataclass(frozen=True)
class Screening:
    """The result of a screening."""

    verdict: Literal["fail", "inconclusive"]
    reason: Sentence
    gates: tuple[GateTest, ...]


def screen(scores: Scores, request: str, alpha: float, memory: Memory | None = None) -> Screening:
    """Screen the unlearned model for one request.

    The person's mean rating is compared with the strangers' by Student's prediction interval, on
    both sides: known, or stranger than strangers, which over-forgetting makes. Both sides share
    alpha by Holm (1979).

    Args:
        scores: all scores; no references are needed.
        request: id of the request, as in `scores.requests`.
        alpha: probability of a fail where the person is one more stranger.
        memory: of the same scores, kept from request to request.

    Returns:
        `fail`, or `inconclusive` for nothing found.

    Raises:
        EvidenceError: no records, a score is NaN, fewer than 4 unseen subjects, or ratings that are
            all alike.
    """
    from scipy import stats

    rows = RecordMasks.of(scores, request)
    model = int(np.flatnonzero(scores.model_roles == "unlearned")[0])
    person, strangers = population.attack(scores, model, rows, memory)
    ratings = _by_person(strangers, scores.subjects[rows.unseen])
    spread = float(ratings.std(ddof=1)) * math.sqrt(1 + 1 / len(ratings))
    if not spread > 1e-12 * max(1.0, float(np.abs(ratings).max())):
        raise EvidenceError(
            say("the model answers on all strangers alike; nothing can be compared with that")
        )
    t = float(person.mean() - ratings.mean()) / spread
    degrees = len(ratings) - 1
    p_values = [float(stats.t.sf(value, degrees)) for value in (t, -t)]
    limit = float(stats.t.isf(alpha / 2, degrees))  # Holm's for the smaller of two p-values
    gates = tuple(
        GateTest(name, question, value, limit, 1.0, p, "bad" if bad else "open")
        for (name, question), value, p, bad in zip(
            QUESTIONS, (t, -t), p_values, holm(p_values, alpha), strict=True
        )
    )
    is_known, is_strange = (gate.state == "bad" for gate in gates)
    if is_known:
        reason = say(
            "Screening: the model still knows the records. It rates them {distance:.2f} standard "
            "deviations above the records of strangers; the limit is {limit:.2f}.",
            distance=t,
            limit=limit,
        )
    elif is_strange:
        reason = say(
            "Screening: the records are over-forgotten. The model rates them {distance:.2f} "
            "standard deviations below the records of strangers; the limit is {limit:.2f}.",
            distance=-t,
            limit=limit,
        )
    else:
        reason = say(
            "Screening: nothing was found. The model rates the records {distance:.2f} standard "
            "deviations from the records of strangers; the limit is {limit:.2f}, above or below. A "
            "screening has no references and cannot pass anybody.",
            distance=abs(t),
            limit=limit,
        )
    return Screening("fail" if is_known or is_strange else "inconclusive", reason, gates)


def _by_person(ratings: Floats, subjects: Ints) -> Floats:
    """(people,) mean rating of each stranger's records."""
    codes, code_of_row = np.unique(subjects, return_inverse=True)
    if len(codes) < FEWEST_STRANGERS:
        raise EvidenceError(
            say(
                "got {subjects} subjects whom no model saw, expected at least {least}; enlarge "
                "split.control",
                subjects=len(codes),
                least=FEWEST_STRANGERS,
            )
        )
    return np.bincount(code_of_row, ratings) / np.bincount(code_of_row)
