"""The ladder: models that are tried, rung by rung, until one passes for every request of a batch.

    first     the model that the stage `unlearn` makes
    …         further unlearnings of the same original, as `ladder.rungs` says
    retrain   the exact retrain, which the stage `retrain` trains in any case

The first rung that passes for everybody is proposed. Choosing among models by their verdicts gives
bad ones several chances, so `verify.alpha` is divided equally among all unlearned models that the
settings allow, tried or not (Bonferroni): each is judged at its share, and the probability that any
of them passes wrongly is at most `verify.alpha`.

The exact retrain takes no share. It is made by the same stage, from the same records and by the
same recipe as the references that it is compared with; only the seed differs. So its influence is
zero by construction, and it cannot pass wrongly.

The cost of a rung is counted in passes over the retained records, so that a repeated audit stops at
the same rung on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.common import files
from tasks.common.errors import EvidenceError
from tasks.common.settings import Settings
from tasks.unlearning import fcalb
from tasks.unlearning.rivals import recipes
from tasks.verification import batch_verdicts, verdicts
from tasks.verification.gates import GateRules, VerdictName
from tasks.verification.scoring import Scores

OUTCOME, SCORES, MODEL = "outcome.json", "scores.npz", "model.json"
"""Files of a rung: its outcome and, if it was tried, its model's scores and description."""

State = Literal["tried", "not_needed", "hopeless", "over_budget"]
"""`hopeless`: some request cannot pass with any model, because the test cannot tell the original
from a retrain."""


Judged = dict[str, tuple[VerdictName, bool]]
"""By request: the verdict, and whether the test catches the unchanged original."""


@dataclass(frozen=True)
class PlannedRung:
    """A rung of the settings.

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
    """The rungs between `first` and `retrain`, the lowest first; none in a screening, which cannot
    pass."""
    if settings.verify.mode == "screening":
        return []
    rungs, total = list[PlannedRung](), 0.0
    for name in settings.ladder.order:
        on_rung = settings.on_rung(name)
        total += cost(on_rung)
        is_affordable = total <= settings.ladder.budget
        rungs.append(PlannedRung(name, on_rung, cost(on_rung), is_affordable))
    return rungs


def cost(settings: Settings) -> float:
    """What unlearning costs, in trainings from scratch: passes over the retained records, by those
    that training makes."""
    unlearn, training_epochs = settings.unlearn, settings.train.epochs
    if unlearn.method == "none":
        return 0.0
    if unlearn.method == "retrain":
        return 1.0
    if unlearn.method in recipes.RECIPES:
        return (recipes.recipe(settings).epochs or 1.0) / training_epochs
    # the records decide the task later; the procedure for people is the longer one
    task: fcalb.Task = "class" if unlearn.task == "class" else "people"
    return (
        fcalb.in_force(settings, task).unlearn.epochs
        * max(1, len(unlearn.resets))
        / training_epochs
    )


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
        passed: of these, passed; of a rung that was not tried, the last tried rung's number.
        hopeless: of these, requests that no model could pass.
    """

    state: State
    requests: int
    passed: int
    hopeless: int

    @property
    def next_state(self) -> State:
        """The state of the next rung."""
        if self.state != "tried":
            return self.state
        if self.passed == self.requests:
            return "not_needed"
        return "hopeless" if self.hopeless else "tried"

    @classmethod
    def of(cls, verdicts: Judged) -> Outcome:
        """The outcome of a rung that was tried."""
        results = list(verdicts.values())
        passed = sum(verdict == "pass" for verdict, _ in results)
        return cls("tried", len(results), passed, sum(not caught for _, caught in results))

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
    """The verdicts of a batch from `verdicts.json`."""
    return {
        request: (verdict["verdict"], verdict["self_check"]["original_caught"])
        for request, verdict in requests.items()
    }


def judge(scores: Scores, rules: GateRules) -> Judged:
    """Judge the unlearned model on every request, without the evidence beside each verdict.

    A request that cannot be judged is inconclusive, and hopeless on every rung.
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
