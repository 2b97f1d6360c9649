"""Stage `climb`: unlearn the original model again, with other settings, if the previous model did
not pass for everybody."""

from __future__ import annotations

from pathlib import Path

from tasks.common import files, settings, stage_cli
from tasks.common.errors import SettingsError
from tasks.unlearning import apply, ladder
from tasks.verification import batch_verdicts
from tasks.verification.scoring import ModelScores, Scores


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
    """Unlearn with the settings of a rung, score the model, and record whether it passes for every
    request. If the rung is not needed or cannot help, only that is recorded.

    Example: python -m tasks.climb --rung longer --after artifacts/ladder/first/outcome.json
    --original artifacts/train/0/seed-0.safetensors --scores artifacts/score/scores.npz --data data
    --pack artifacts/pack --split artifacts/split.csv --forget artifacts/resolve/forget.csv
    --params params.yaml --models artifacts/climb/longer --out artifacts/ladder/longer
    """
    chosen = settings.load(params)
    if rung not in chosen.ladder.rungs:
        names = ", ".join(chosen.ladder.order) or "none"
        raise SettingsError(f"got the rung {rung!r}, expected one of ladder.rungs: {names}")
    affordable = {one.name for one in ladder.planned(chosen) if one.affordable}
    previous = ladder.Outcome.read(after)
    state = previous.next_state
    if state == "tried" and rung not in affordable:
        state = "over_budget"
    with files.whole_folder(models) as model_folder, files.whole_folder(out) as outcome_folder:
        if state != "tried":
            stage_cli.say(f"{rung}: not tried ({state.replace('_', ' ')})")
            skipped = ladder.Outcome(state, previous.requests, previous.passed, previous.hopeless)
            skipped.write(model_folder / ladder.OUTCOME)
            skipped.write(outcome_folder / ladder.OUTCOME)
            return
        on_rung = chosen.on_rung(rung)
        apply.to_original(original, data, pack, split, forget, on_rung, model_folder)
        model_scores = _score(model_folder / apply.MODEL, data, pack, split, forget, on_rung)
        model_scores.save(outcome_folder / ladder.SCORES)
        (model_folder / apply.TRACE).rename(outcome_folder / apply.TRACE)
        cost = files.read_json((model_folder / apply.MODEL).with_suffix(".json"))
        files.write_json(
            outcome_folder / ladder.MODEL, {**cost, "path": (models / apply.MODEL).as_posix()}
        )
        rules = batch_verdicts.rules(chosen.verify, ladder.alpha(chosen))
        verdicts = ladder.judge(Scores.load(scores).with_unlearned(model_scores), rules)
        outcome = ladder.Outcome.of(verdicts)
        stage_cli.say(f"{rung}: {outcome.passed} of {outcome.requests} requests pass")
        outcome.write(outcome_folder / ladder.OUTCOME)


def _score(
    model: Path, data: Path, pack: Path, split: Path, forget: Path, chosen: settings.Settings
) -> ModelScores:
    """Score every record with the model, by its answers and in each view of `verify.views`."""
    from tasks.data import image_pack, records
    from tasks.inspection import views
    from tasks.pooling import answers
    from tasks.training import checkpoints, compute

    backend = compute.prepare(chosen.compute)
    packed = image_pack.read(pack, data, chosen.data)
    requests = records.read_forget(forget, packed.manifest)
    roles = records.read_roles(split, packed.manifest)
    network = checkpoints.load(model, chosen.model, chosen.data)
    margins, classes = answers.of_all(network, packed, chosen, backend)
    material = views.material(packed, roles, requests, chosen, backend)
    return ModelScores(
        margins,
        classes,
        {
            name: views.of_all(name, network, material, requests, roles)
            for name in (chosen.verify.views if material else ())
        },
    )


if __name__ == "__main__":
    stage_cli.run(main)
