"""Stage `climb`: try the next rung of the ladder, if the previous one did not pass for
everybody."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.common import files, settings, stage_cli
from tasks.common.errors import SettingsError
from tasks.common.settings import Settings
from tasks.inspection.answers import AuditRecords
from tasks.training import checkpoints
from tasks.unlearning import apply, ladder
from tasks.verification import batch_verdicts
from tasks.verification.scoring import ModelScores, Scores

KINDS = (("train", "with", "with_blocks"), ("retrain", "without", "without_blocks"))
"""Kinds of further references: the stage whose recipe trains them, their role, and the setting with
their blocks."""


def main(
    rung: str,
    after: Path,
    original: Path,
    scores: Path,
    data: Path,
    pack: Path,
    split: Path,
    forget: Path,
    params: Path,
    models: Path,
    out: Path,
) -> None:
    """Unlearn with the settings of a rung, train the references that it adds, score these models,
    and record whether the unlearned one passes for every request. If the rung is not needed or
    cannot help, only that is recorded.

    Example: python -m tasks.climb --rung longer --after artifacts/ladder/first
    --original artifacts/train/0/seed-0.safetensors --scores artifacts/score/scores.npz --data data
    --pack artifacts/pack --split artifacts/split.csv --forget artifacts/resolve/forget.csv
    --params params.yaml --models artifacts/climb/longer --out artifacts/ladder/longer
    """
    chosen = settings.load(params)
    if rung not in chosen.ladder.rungs:
        names = ", ".join(chosen.ladder.order) or "none"
        raise SettingsError(f"got the rung {rung!r}, expected one of ladder.rungs: {names}")
    planned = {each.name: each for each in ladder.planned_rungs(chosen)}.get(rung)
    before = ladder.Outcome.read(after / ladder.OUTCOME)
    state = before.next_state(planned is not None and planned.judges_otherwise)
    if state == "tried" and (planned is None or not planned.affordable):
        state = "over_budget"
    with files.whole_folder(models) as draft, files.whole_folder(out) as results:
        _hand_on(after, results)
        if state != "tried" or planned is None:
            stage_cli.say(f"{rung}: not tried ({state.replace('_', ' ')})")
            skipped = ladder.Outcome(state, before.requests, before.passed, before.hopeless)
            skipped.write(draft / ladder.OUTCOME)
            skipped.write(results / ladder.OUTCOME)
            return
        on_rung = planned.settings
        records = AuditRecords(data, pack, split, forget, on_rung)
        apply.to_original(original, records, draft)
        scored = _scores(records, draft / apply.MODEL)
        scored.save(results / ladder.SCORES)
        (draft / apply.TRACE).rename(results / apply.TRACE)
        cost = files.read_json((draft / apply.MODEL).with_suffix(".json"))
        path = (models / apply.MODEL).as_posix()
        files.write_json(results / ladder.MODEL, {**cost, "path": path})
        _add_references(records, chosen.on_rung(planned.below), draft, models, results)
        rules = batch_verdicts.rules(chosen.verify, ladder.alpha(chosen))
        table = ladder.scores_with(Scores.load(scores), results, on_rung)
        outcome = ladder.Outcome.of(ladder.judge(table.with_unlearned(scored), rules))
        stage_cli.say(f"{rung}: {outcome.passed} of {outcome.requests} requests pass")
        outcome.write(results / ladder.OUTCOME)


def _hand_on(after: Path, results: Path) -> None:
    """Copy the references of the rungs below."""
    if added := ladder.references_of(after):
        files.write_json(results / f"{ladder.REFERENCES}.json", added)
        shutil.copytree(after / ladder.REFERENCES, results / ladder.REFERENCES)


def _add_references(
    records: AuditRecords, below: Settings, draft: Path, models: Path, results: Path
) -> None:
    """Train and score the references that the rung adds to those of the rung below.

    Args:
        records: what they are trained and scored on, with the settings of the rung.
        below: the settings of the rung below.
        draft: of the folder with the rung's models.
        models: where that folder will lie.
        results: folder for their scores and the list of them.
    """
    added = ladder.references_of(results)
    for stage, role, key in KINDS:
        blocks = getattr(records.settings.references, key)
        for block in blocks[len(getattr(below.references, key)) :]:
            for path in records.train(stage, block, draft / stage / str(block)):
                number = path.stem.removeprefix("seed-")
                reference = {"name": f"{role}-{number}", "role": role}
                reference |= {"path": (models / path.relative_to(draft)).as_posix()}
                added.append(reference | files.read_json(path.with_suffix(".json")))
                _scores(records, path).save(
                    results / ladder.REFERENCES / f"{reference['name']}.npz"
                )
    if added:
        files.write_json(results / f"{ladder.REFERENCES}.json", added)


def _scores(records: AuditRecords, path: Path) -> ModelScores:
    """The scores of the model in a file."""
    network = checkpoints.load(path, records.settings.model, records.settings.data)
    return records.scores(network)


if __name__ == "__main__":
    stage_cli.run(main)
