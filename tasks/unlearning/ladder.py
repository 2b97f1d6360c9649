"""The ladder: what is tried, rung by rung, until a model passes for every request of a batch.

    first     the model that the stage `unlearn` makes
    …         further unlearnings of the same original, as `ladder.rungs` says
    retrain   the exact retrain, which the stage `retrain` trains in any case

The first rung that passes for everybody is proposed. Whoever chooses among models by their verdicts
gives a bad one several chances, so `verify.alpha` is shared out equally among all unlearned models
that the settings allow, tried or not (Bonferroni): each is judged at its share, and any of them
passes wrongly with a probability of at most `verify.alpha`.

The exact retrain takes no share. It is made by the same stage, from the same records and by the
same recipe as the references that it is compared with, only with another seed. So what the test
measures in it lies around zero by construction, and a pass of it cannot be a wrong one.

What a rung costs is counted in passes over the retained records, so that a repeated audit stops at
the same rung on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.common import files
from tasks.common.errors import EvidenceError
from tasks.common.settings import FIRST, RETRAIN, Settings
from tasks.unlearning import fcalb
from tasks.unlearning.rivals import recipes
from tasks.verification import batch_verdicts, verdicts
from tasks.verification.gates import GateRules, VerdictName
from tasks.verification.scoring import Scores

OUTCOME, SCORES, MODEL = "outcome.json", "scores.npz", "model.json"
"""What a rung leaves: how it ended, and, if it was tried, what its model says and which it is."""

State = Literal["tried", "not_needed", "hopeless", "over_budget"]
"""`hopeless`: for some request no model could pass, because the test cannot even tell the original
from a retrain."""


Judged = dict[str, tuple[VerdictName, bool]]
"""Of each request the verdict, and whether the test finds the unchanged original."""


@dataclass(frozen=True)
class PlannedRung:
    """A rung as the settings have it.

    Attributes:
        name: of the rung.
        settings: of the audit, with what the rung changes.
        cost: in trainings from scratch.
        affordable: whether it lies within `ladder.budget`, together with those below it.
    """

    name: str
    settings: Settings
    cost: float
    affordable: bool


def planned(settings: Settings) -> list[PlannedRung]:
    """The rungs between `first` and `retrain`, the lowest first; a screening, which can pass
    nobody, has none."""
    if settings.verify.mode == "screening":
        return []
    rungs, spent = list[PlannedRung](), 0.0
    for name in settings.ladder.order:
        on_rung = settings.on_rung(name)
        spent += cost(on_rung)
        within = spent <= settings.ladder.budget
        rungs.append(PlannedRung(name, on_rung, cost(on_rung), within))
    return rungs


def cost(settings: Settings) -> float:
    """What unlearning costs, in trainings from scratch: passes over the retained records, by those
    that training makes."""
    wish, full = settings.unlearn, settings.train.epochs
    if wish.method == "none":
        return 0.0
    if wish.method == "retrain":
        return 1.0
    if wish.method in recipes.RECIPES:
        return (recipes.recipe(settings).epochs or 1.0) / full
    # which task it is, the records say later; the way for people is the longer one
    task: fcalb.Task = "class" if wish.task == "class" else "people"
    return fcalb.in_force(settings, task).unlearn.epochs * max(1, len(wish.resets)) / full


def tested(settings: Settings) -> int:
    """How many unlearned models the settings allow to be judged."""
    return 1 + sum(rung.affordable for rung in planned(settings))


def alpha(settings: Settings) -> float:
    """The error rate at which each of them is judged: its share of `verify.alpha`."""
    return settings.verify.alpha / tested(settings)


@dataclass(frozen=True)
class Outcome:
    """How a rung ended.

    Attributes:
        state: whether it was tried, or why not.
        requests: of the batch.
        passed: of these; of a rung that was not tried what the last one that was has.
        hopeless: of these, for whom no model could pass.
    """

    state: State
    requests: int
    passed: int
    hopeless: int

    @property
    def next_state(self) -> State:
        """What becomes of the rung after this one."""
        if self.state != "tried":
            return self.state
        if self.passed == self.requests:
            return "not_needed"
        return "hopeless" if self.hopeless else "tried"

    @classmethod
    def of(cls, judged: Judged) -> Outcome:
        """Of a rung that was tried."""
        found = list(judged.values())
        passed = sum(verdict == "pass" for verdict, _ in found)
        return cls("tried", len(found), passed, sum(not caught for _, caught in found))

    def write(self, path: Path) -> None:
        """Write it for the rung after this one."""
        files.write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """Read what `write` wrote. Raises `EvidenceError` where it is something else."""
        try:
            return cls(**files.read_json(path))
        except TypeError as error:
            raise EvidenceError(
                f"{path}: expected how a rung of the ladder ended; run `erasure-audit run` again"
            ) from error


def of_verdicts(requests: Mapping[str, Mapping[str, Any]]) -> Judged:
    """What `verdicts.json` says of the requests of a batch."""
    return {
        request: (verdict["verdict"], verdict["self_check"]["original_caught"])
        for request, verdict in requests.items()
    }


def judge(scores: Scores, rules: GateRules) -> Judged:
    """Judge the unlearned model on every request, without all that stands beside a verdict.

    What cannot be judged passes nobody, on no rung.
    """
    judged: Judged = {}
    for request in batch_verdicts.requests_of(scores):
        try:
            verdict = verdicts.judge(scores, request, rules)
        except EvidenceError:
            judged[request] = ("inconclusive", False)
        else:
            judged[request] = (verdict.verdict, verdict.self_check.original_caught)
    return judged


__all__ = [
    "FIRST",
    "MODEL",
    "OUTCOME",
    "RETRAIN",
    "SCORES",
    "Judged",
    "Outcome",
    "PlannedRung",
    "State",
    "alpha",
    "cost",
    "judge",
    "of_verdicts",
    "planned",
    "tested",
]
