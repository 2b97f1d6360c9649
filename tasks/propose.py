"""Stage `propose`: find the first model that passes for every request of the batch, and list the
models tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.common import cost_ledger, files, settings, stage_cli
from tasks.common.errors import EvidenceError
from tasks.common.settings import FIRST, RETRAIN, Rung, Settings
from tasks.unlearning import apply, ladder
from tasks.verification import batch_verdicts
from tasks.verification.gates import GateRules
from tasks.verification.scoring import ModelScores, Scores

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ClimbedRung:
    """A rung and its result.

    Attributes:
        name: of the rung.
        settings: of the audit, with what the rung changes.
        outcome: how it ended.
        judged: the verdict on each request; empty where it was not tried.
        model: its model's cost, place and hash; empty where it was not tried.
        cost: in trainings from scratch; 0 where nothing had to be trained for it.
        added: references that were trained for it.
    """

    name: str
    settings: Settings
    outcome: ladder.Outcome
    judged: ladder.Judged
    model: dict[str, Any]
    cost: float
    added: int = 0

    @property
    def passes(self) -> bool:
        """Whether its model passes for every request."""
        return self.outcome.state == "tried" and self.outcome.passed == self.outcome.requests

    @property
    def own(self) -> Rung | None:
        """Its settings; None for `first` and `retrain`."""
        return self.settings.ladder.rungs.get(self.name)

    def plain(self) -> dict[str, Any]:
        """Its entry in `ladder.json`."""
        mode = self.settings.references.mode
        judges = self.own is not None and bool(self.own.references)
        return {
            "name": self.name,
            "state": self.outcome.state,
            "method": RETRAIN if self.name == RETRAIN else self.settings.unlearn.method,
            "changes": self.own.unlearn if self.own else {},
            "references": {"mode": mode, "added": self.added} if judges else None,
            "cost": self.cost,
            "seconds": self.model.get("seconds"),
            "verdicts": {request: verdict for request, (verdict, _) in self.judged.items()},
        }


@dataclass(frozen=True)
class Batch:
    """The data by which the rungs of a batch are judged."""

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
            self.of_role("unlearned"),
            ladder.cost(self.settings),
        )
        yield rung
        last = rung
        for planned in ladder.planned_rungs(self.settings):
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
        judged = ladder.judge(self.scores_of(planned.name), self.rules)
        model = files.read_json(folder / ladder.MODEL)
        # models that came from another machine bring their cost along
        cost_ledger.keep("unlearn", str(model["weights_sha256"]), _cost(model))
        for reference in ladder.references_of(folder):
            stage = "train" if reference["role"] == "with" else "retrain"
            cost_ledger.keep(stage, str(reference["weights_sha256"]), _cost(reference))
        outcome = ladder.Outcome.of(judged)
        return ClimbedRung(
            planned.name, planned.settings, outcome, judged, model, planned.cost, planned.added
        )

    def _exact(self, last: ClimbedRung, exact: ModelScores) -> ClimbedRung:
        """The exact retrain, judged with the references of the last rung that was tried. It is
        trained in any case, whatever the budget."""
        before, model = last.outcome, self.of_role("retrained")
        if before.next_state() != "tried":
            skipped = ladder.Outcome(
                before.next_state(), before.requests, before.passed, before.hopeless
            )
            return ClimbedRung(RETRAIN, self.settings, skipped, {}, {}, 0.0)
        judged = ladder.judge(self.scores_of(last.name).with_unlearned(exact), self.rules)
        outcome = ladder.Outcome.of(judged)
        return ClimbedRung(RETRAIN, self.settings, outcome, judged, model, 0.0)

    def scores_of(self, name: str) -> Scores:
        """The scores that a rung is judged by: with its model as the unlearned one, and with its
        references."""
        if name == FIRST:
            return self.scores
        folder = self.rungs / name
        table = ladder.scores_with(self.scores, folder, self.settings.on_rung(name))
        return table.with_unlearned(ModelScores.load(folder / ladder.SCORES))

    def lineage_of(self, rung: ClimbedRung) -> dict[str, Any]:
        """The lineage with the model of a rung as the unlearned one, and with its references."""
        models = [
            {**model, **{key: rung.model.get(key) for key in model.keys() - {"name", "role"}}}
            if model["role"] == "unlearned"
            else model
            for model in self.lineage["models"]
        ]
        keys = dict.fromkeys(("name", "role", *models[0]))
        further = [
            {key: reference.get(key) for key in keys}
            for reference in ladder.references_of(self.rungs / rung.name)
        ]
        return {**self.lineage, "models": [*models, *further]}

    def of_role(self, role: str) -> dict[str, Any]:
        """The model of a role in the lineage; empty where there is none."""
        models = self.lineage["models"]
        return next((dict(model) for model in models if model["role"] == role), {})


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
    request. The report shows its verdicts and lineage. If no unlearned model passes, the report
    shows the first rung, or the first with the most references.

    Example: python -m tasks.propose --rungs artifacts/ladder --scores artifacts/score/scores.npz
    --verdicts artifacts/verify/verdicts.json --lineage artifacts/score/lineage.json --trace
    artifacts/unlearn/trace.csv --params params.yaml --out artifacts/propose
    """
    chosen = settings.load(params)
    _refuse_unknown_rungs(rungs, chosen)
    judged, models = files.read_json(verdicts), files.read_json(lineage)
    rules = batch_verdicts.rules(chosen.verify, ladder.alpha(chosen))
    batch = Batch(rungs, Scores.load(scores), chosen, rules, models)
    climbed = list(batch.climbed(ladder.of_verdicts(judged["requests"])))
    proposed = next((rung for rung in climbed if rung.passes), None)
    reported = _reported(climbed, proposed)
    if reported.name != FIRST:
        judged = batch_verdicts.judge(
            batch.scores_of(reported.name), chosen.verify.mode, rules, stage_cli.say
        )
        models = batch.lineage_of(reported)
        trace = rungs / reported.name / apply.TRACE
    stage_cli.say(f"proposed: {proposed.name if proposed else 'no model'}")
    summary = _ladder_json(climbed, proposed, chosen, rules) | {"reported": reported.name}
    files.write_json(out / "ladder.json", summary)
    files.write_json(out / "verdicts.json", judged)
    files.write_json(out / "lineage.json", models)
    files.write_bytes(out / "trace.csv", trace.read_bytes())


def _reported(climbed: list[ClimbedRung], proposed: ClimbedRung | None) -> ClimbedRung:
    """The rung whose verdicts and model are reported."""
    if proposed is not None and proposed.name != RETRAIN:
        return proposed
    with_more = [rung for rung in climbed if rung.own and rung.own.references and rung.judged]
    return with_more[-1] if with_more else climbed[0]


def _ladder_json(
    climbed: list[ClimbedRung], proposed: ClimbedRung | None, chosen: Settings, rules: GateRules
) -> dict[str, Any]:
    """The content of `ladder.json`: the rungs and the proposal."""
    states = [rung.outcome.state for rung in climbed]
    last = climbed[-1].outcome
    if proposed is not None:
        stopped = "passed"
    elif "over_budget" in states:
        stopped = "over_budget"
    else:
        hopeless = last.state == "hopeless" or last.next_state() == "hopeless"
        stopped = "hopeless" if hopeless else "exhausted"
    retrained = proposed is not None and proposed.name == RETRAIN
    return {
        "schema_version": SCHEMA_VERSION,
        "alpha": chosen.verify.alpha,
        "alpha_each": rules.alpha,
        "shared_over": ladder.count_of_tests(chosen),
        "budget": chosen.ladder.budget,
        "rungs": [rung.plain() for rung in climbed],
        "proposed": None if proposed is None else proposed.name,
        "model": None if proposed is None else "retrained" if retrained else "unlearned",
        "stopped": stopped,
    }


def _cost(model: dict[str, Any]) -> dict[str, Any]:
    """The cost of a model, without its name, path and hash."""
    identity = ("name", "role", "path", "weights_sha256")
    return {key: value for key, value in model.items() if key not in identity}


def _refuse_unknown_rungs(rungs: Path, chosen: Settings) -> None:
    """Refuse results of rungs that the settings do not name."""
    names = {path.name for path in rungs.iterdir() if not path.name.startswith(".")}
    extra = sorted(names - {FIRST, *chosen.ladder.rungs})
    if extra:
        raise EvidenceError(
            f"{rungs} holds the rungs {', '.join(extra)}, which the settings do not name; remove "
            "them"
        )


if __name__ == "__main__":
    stage_cli.run(main)
