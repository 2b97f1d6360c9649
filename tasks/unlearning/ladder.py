"""The ladder: tries models rung by rung until one passes for every request of a batch.

    first     the model that the stage `unlearn` makes
    …         further tries as `ladder.rungs` says: other unlearnings of the same original, more
              references to judge with, or both
    retrain   the exact retrain, which the stage `retrain` trains in any case

The first rung that passes for everybody is proposed. Choosing among verdicts gives a bad model
several chances, so `verify.alpha` is divided equally among all rungs with an unlearned model that
the settings allow, tried or not (Bonferroni): each is judged at its share, and the probability that
any of them passes wrongly is at most `verify.alpha`. A model that is judged again with more
references takes another share.

References that a rung adds are used by all rungs above it, too: each copies them into its folder.

The exact retrain takes no share. It is made by the same stage, from the same records and by the
same recipe as the references that it is compared with; only the seed differs. So its influence is
zero by construction, and it cannot pass wrongly.

The cost of a rung is counted in trainings from scratch, so that a repeated audit stops at the same
rung on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.common import files
from tasks.common.errors import EvidenceError
from tasks.common.settings import FIRST, Settings
from tasks.unlearning import fcalb
from tasks.unlearning.rivals import recipes
from tasks.verification import batch_verdicts, verdicts
from tasks.verification.gates import GateRules, VerdictName
from tasks.verification.scoring import ModelScores, Scores

OUTCOME, SCORES, MODEL = "outcome.json", "scores.npz", "model.json"
"""Files of a rung: its outcome and, if it was tried, its model's scores and description."""

REFERENCES = "references"
"""Folder with the scores of the references that this rung and those below it added, and the name
of the list of these models, without its `.json`."""

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
        below: name of the rung below it.
        settings: of the audit, with what the rung changes.
        added: references that it adds to those of the rung below.
        cost: in trainings from scratch.
        affordable: whether it lies within `ladder.budget`, together with those below it.
    """

    name: str
    below: str
    settings: Settings
    added: int
    cost: float
    affordable: bool

    @property
    def judges_otherwise(self) -> bool:
        """Whether this rung changes what models are judged with."""
        return bool(self.settings.ladder.rungs[self.name].references)


def planned_rungs(settings: Settings) -> list[PlannedRung]:
    """The rungs between `first` and `retrain`, the lowest first; none in a screening, which cannot
    pass."""
    if settings.verify.mode == "screening":
        return []
    rungs, spent, below = list[PlannedRung](), 0.0, FIRST
    for name in settings.ladder.order:
        on_rung = settings.on_rung(name)
        added = _trained(on_rung) - _trained(settings.on_rung(below))
        rung_cost = cost(on_rung) + added
        spent += rung_cost
        within = spent <= settings.ladder.budget
        rungs.append(PlannedRung(name, below, on_rung, added, rung_cost, within))
        below = name
    return rungs


def _trained(settings: Settings) -> int:
    """References that the blocks of the settings hold."""
    references = settings.references
    blocks = len(references.with_blocks) + len(references.without_blocks)
    return references.seeds_per_block * blocks


def cost(settings: Settings) -> float:
    """The cost of unlearning in trainings from scratch: its passes over the retained records,
    divided by those of training."""
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
        fcalb.effective_settings(settings, task).unlearn.epochs
        * max(1, len(unlearn.resets))
        / training_epochs
    )


def count_of_tests(settings: Settings) -> int:
    """How many times the settings allow an unlearned model to be judged."""
    return 1 + sum(rung.affordable for rung in planned_rungs(settings))


def alpha(settings: Settings) -> float:
    """The error rate at which it is judged each time: the share of `verify.alpha`."""
    return settings.verify.alpha / count_of_tests(settings)


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

    def next_state(self, judges_otherwise: bool = False) -> State:
        """The state of the next rung before it is tried.

        Args:
            judges_otherwise: whether that rung adds references, or uses them in another way. Then
                it may help where no model could pass.
        """
        if self.state in ("not_needed", "over_budget"):
            return self.state
        if self.passed == self.requests:
            return "not_needed"
        return "hopeless" if self.hopeless and not judges_otherwise else "tried"

    @classmethod
    def of(cls, judged: Judged) -> Outcome:
        """Of a rung that was tried."""
        passed = sum(verdict == "pass" for verdict, _ in judged.values())
        hopeless = sum(not caught for _, caught in judged.values())
        return cls("tried", len(judged), passed, hopeless)

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


def references_of(folder: Path) -> list[dict[str, Any]]:
    """The references that a rung and those below it added: of each its name, its role, and its
    entry in `lineage.json`. Empty where none was added."""
    path = folder / f"{REFERENCES}.json"
    return list(files.read_json(path)) if path.exists() else []


def scores_with(scores: Scores, folder: Path, on_rung: Settings) -> Scores:
    """The scores with the references that a rung and those below it added.

    Args:
        scores: of the stage `score`.
        folder: of the rung, as the stage `climb` leaves it.
        on_rung: the settings on this rung.

    Raises:
        EvidenceError: the scores of a reference are missing, or of other records.
    """
    further = [
        (str(model["role"]), ModelScores.load(folder / REFERENCES / f"{model['name']}.npz"))
        for model in references_of(folder)
    ]
    return scores.with_references(further, on_rung.references.mode == "hybrid")


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
