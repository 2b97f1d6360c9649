"""Stage `propose`: propose the first model that passes for every request, and record what was
tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.common import cost_ledger, files, settings, stage_cli
from tasks.common.errors import EvidenceError
from tasks.common.settings import FIRST, RETRAIN, Settings
from tasks.unlearning import apply, ladder
from tasks.verification import batch_verdicts
from tasks.verification.gates import GateRules
from tasks.verification.scoring import ModelScores, Scores

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ClimbedRung:
    """A rung and its outcome.

    Attributes:
        name: of the rung.
        settings: of the audit, with what the rung changes.
        outcome: how it ended.
        judged: the verdict on each request; empty where it was not tried.
        model: its model's cost, place and hash; empty where it was not tried.
        cost: in trainings from scratch; 0 where nothing had to be trained for it.
    """

    name: str
    settings: Settings
    outcome: ladder.Outcome
    judged: ladder.Judged
    model: dict[str, Any]
    cost: float

    @property
    def passes(self) -> bool:
        """Whether its model passes for every request."""
        return self.outcome.state == "tried" and self.outcome.passed == self.outcome.requests

    def plain(self) -> dict[str, Any]:
        """The rung's entry in `ladder.json`."""
        changes = self.settings.ladder.rungs
        return {
            "name": self.name,
            "state": self.outcome.state,
            "method": RETRAIN if self.name == RETRAIN else self.settings.unlearn.method,
            "changes": changes[self.name].unlearn if self.name in changes else {},
            "cost": self.cost,
            "seconds": self.model.get("seconds"),
            "verdicts": {request: verdict for request, (verdict, _) in self.judged.items()},
        }


@dataclass(frozen=True)
class Batch:
    """The inputs by which the rungs of a batch are judged."""

    rungs: Path
    scores: Scores
    settings: Settings
    rules: GateRules
    lineage: dict[str, Any]

    def climbed(self, judged: ladder.Judged) -> Iterator[ClimbedRung]:
        """All rungs from the lowest to the highest.

        Args:
            judged: the verdicts on the model of the first rung.
        """
        rung = ClimbedRung(
            FIRST,
            self.settings,
            ladder.Outcome.of(judged),
            judged,
            self.of_lineage("unlearned"),
            ladder.cost(self.settings),
        )
        yield rung
        last = rung
        for planned in ladder.planned(self.settings):
            rung = self._further(planned)
            last = rung if rung.outcome.state == "tried" else last
            yield rung
        exact = self.scores.of_model("retrained")
        if self.settings.ladder.retrain and exact and self.settings.verify.mode == "references":
            yield self._exact(last, exact)

    def _further(self, planned: ladder.PlannedRung) -> ClimbedRung:
        folder = self.rungs / planned.name
        outcome = ladder.Outcome.read(folder / ladder.OUTCOME)
        if outcome.state != "tried":
            return ClimbedRung(planned.name, planned.settings, outcome, {}, {}, 0.0)
        judged = ladder.judge(self.with_model_of(planned.name), self.rules)
        model = files.read_json(folder / ladder.MODEL)
        # a model that came from another machine brings its cost along
        cost_ledger.keep("unlearn", str(model["weights_sha256"]), _cost(model))
        outcome = ladder.Outcome.of(judged)
        return ClimbedRung(planned.name, planned.settings, outcome, judged, model, planned.cost)

    def _exact(self, last: ClimbedRung, exact: ModelScores) -> ClimbedRung:
        """The exact retrain, judged like any other model; it costs nothing extra, so no budget
        applies."""
        before, model = last.outcome, self.of_lineage("retrained")
        if before.next_state != "tried":
            skipped = ladder.Outcome(
                before.next_state, before.requests, before.passed, before.hopeless
            )
            return ClimbedRung(RETRAIN, self.settings, skipped, {}, {}, 0.0)
        judged = ladder.judge(self.scores.with_unlearned(exact), self.rules)
        return ClimbedRung(RETRAIN, self.settings, ladder.Outcome.of(judged), judged, model, 0.0)

    def with_model_of(self, name: str) -> Scores:
        """The scores with the model of a further rung as the unlearned one."""
        return self.scores.with_unlearned(ModelScores.load(self.rungs / name / ladder.SCORES))

    def of_lineage(self, role: str) -> dict[str, Any]:
        """The model of a role; empty where there is none."""
        return next((dict(one) for one in self.lineage["models"] if one["role"] == role), {})


def main(
    rungs: Path,
    scores: Path,
    verdicts: Path,
    lineage: Path,
    trace: Path,
    params: Path,
    out: Path,
) -> None:
    """Judge the model of every rung that was tried, and propose the first that passes for every
    request. The report shows that model's verdicts and lineage, or the first rung's if no unlearned
    model passes.

    Example: python -m tasks.propose --rungs artifacts/ladder --scores artifacts/score/scores.npz
    --verdicts artifacts/verify/verdicts.json --lineage artifacts/score/lineage.json --trace
    artifacts/unlearn/trace.csv --params params.yaml --out artifacts/propose
    """
    chosen = settings.load(params)
    _refuse_unknown_rungs(rungs, chosen)
    final_verdicts, models = files.read_json(verdicts), files.read_json(lineage)
    rules = batch_verdicts.rules(chosen.verify, ladder.alpha(chosen))
    batch = Batch(rungs, Scores.load(scores), chosen, rules, models)
    climbed = list(batch.climbed(ladder.of_verdicts(final_verdicts["requests"])))
    proposed = next((rung for rung in climbed if rung.passes), None)
    if proposed is not None and proposed.name not in (FIRST, RETRAIN):
        final_verdicts = batch_verdicts.judge(
            batch.with_model_of(proposed.name), chosen.verify.mode, rules, stage_cli.say
        )
        models = _with_model(models, proposed)
        trace = rungs / proposed.name / apply.TRACE
    stage_cli.say(f"proposed: {proposed.name if proposed else 'no model'}")
    files.write_json(out / "ladder.json", _ladder_json(climbed, proposed, chosen, rules))
    files.write_json(out / "verdicts.json", final_verdicts)
    files.write_json(out / "lineage.json", models)
    files.write_bytes(out / "trace.csv", trace.read_bytes())


def _ladder_json(
    climbed: list[ClimbedRung], proposed: ClimbedRung | None, chosen: Settings, rules: GateRules
) -> dict[str, Any]:
    """`ladder.json`."""
    states = [rung.outcome.state for rung in climbed]
    if proposed is not None:
        stopped = "passed"
    elif "hopeless" in states or climbed[-1].outcome.next_state == "hopeless":
        stopped = "hopeless"
    else:
        stopped = "over_budget" if "over_budget" in states else "exhausted"
    retrained = proposed is not None and proposed.name == RETRAIN
    return {
        "schema_version": SCHEMA_VERSION,
        "alpha": chosen.verify.alpha,
        "alpha_each": rules.alpha,
        "shared_over": ladder.tested(chosen),
        "budget": chosen.ladder.budget,
        "rungs": [rung.plain() for rung in climbed],
        "proposed": None if proposed is None else proposed.name,
        "model": None if proposed is None else "retrained" if retrained else "unlearned",
        "stopped": stopped,
    }


def _with_model(lineage: dict[str, Any], rung: ClimbedRung) -> dict[str, Any]:
    """The lineage with the model of a rung as the unlearned one."""
    models = [
        {**one, **{key: rung.model.get(key) for key in one.keys() - {"name", "role"}}}
        if one["role"] == "unlearned"
        else one
        for one in lineage["models"]
    ]
    return {**lineage, "models": models}


def _cost(model: dict[str, Any]) -> dict[str, Any]:
    """What a model cost, without its path and hash."""
    return {key: value for key, value in model.items() if key not in ("path", "weights_sha256")}


def _refuse_unknown_rungs(rungs: Path, chosen: Settings) -> None:
    """Refuse rungs that the settings do not name."""
    present = {path.name for path in rungs.iterdir() if not path.name.startswith(".")}
    extra = sorted(present - {FIRST, *chosen.ladder.rungs})
    if extra:
        raise EvidenceError(
            f"{rungs} holds the rungs {', '.join(extra)}, which the settings do not name; remove "
            "them"
        )


if __name__ == "__main__":
    stage_cli.run(main)
