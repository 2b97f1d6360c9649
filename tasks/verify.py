"""Stage `verify`: judge every request from the scores alone, with the evidence for each verdict."""

from __future__ import annotations

from pathlib import Path

from tasks.common import files, settings, stage_cli
from tasks.unlearning import ladder
from tasks.verification import batch_verdicts
from tasks.verification.scoring import Scores


def main(scores: Path, params: Path, out: Path, outcome: Path | None = None) -> None:
    """Judge the unlearned model on every request.

    Example: python -m tasks.verify --scores artifacts/score/scores.npz --params params.yaml --out
    artifacts/verify --outcome artifacts/ladder/first/outcome.json

    If the ladder has further rungs, each rung is judged at a share of `verify.alpha`, including
    this one. `outcome` records whether the next rung is needed.
    """
    chosen = settings.load(params)
    rules = batch_verdicts.rules(chosen.verify, ladder.alpha(chosen))
    table = Scores.load(scores)
    verdicts = batch_verdicts.judge(table, chosen.verify.mode, rules, stage_cli.say)
    files.write_json(out / "verdicts.json", verdicts)
    requests = verdicts["requests"]
    files.write_json(out / "metrics.json", batch_verdicts.metrics(requests))
    files.write_text(out / "influence.csv", batch_verdicts.influence_table(requests, rules.rho0))
    if outcome is not None:
        ladder.Outcome.of(ladder.of_verdicts(requests)).write(outcome)


if __name__ == "__main__":
    stage_cli.run(main)
