"""Stage `climb`: a further unlearning of the original model, if the one before did not pass for
everybody."""

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
    """Unlearn once more with the settings of a rung, score the model, and say whether it passes for
    every request. Where the rung is not needed, or cannot help, only that is written.

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
    before = ladder.Outcome.read(after)
    state = before.next_state
    if state == "tried" and rung not in affordable:
        state = "over_budget"
    with files.whole_folder(models) as kept, files.whole_folder(out) as told:
        if state != "tried":
            stage_cli.say(f"{rung}: not tried ({state.replace('_', ' ')})")
            skipped = ladder.Outcome(state, before.requests, before.passed, before.hopeless)
            skipped.write(kept / ladder.OUTCOME)
            skipped.write(told / ladder.OUTCOME)
            return
        on_rung = chosen.on_rung(rung)
        apply.to_original(original, data, pack, split, forget, on_rung, kept)
        said = _score(kept / apply.MODEL, data, pack, split, forget, on_rung)
        said.save(told / ladder.SCORES)
        (kept / apply.TRACE).rename(told / apply.TRACE)
        cost = files.read_json((kept / apply.MODEL).with_suffix(".json"))
        files.write_json(told / ladder.MODEL, {**cost, "path": (models / apply.MODEL).as_posix()})
        rules = batch_verdicts.rules(chosen.verify, ladder.alpha(chosen))
        judged = ladder.judge(Scores.load(scores).with_unlearned(said), rules)
        outcome = ladder.Outcome.of(judged)
        stage_cli.say(f"{rung}: {outcome.passed} of {outcome.requests} requests pass")
        outcome.write(told / ladder.OUTCOME)


def _score(
    model: Path, data: Path, pack: Path, split: Path, forget: Path, chosen: settings.Settings
) -> ModelScores:
    """What the model says of every record, by answers and in the further views that are set."""
    from tasks.data import image_pack, records
    from tasks.inspection import views
    from tasks.pooling import answers
    from tasks.training import checkpoints, compute

    backend = compute.prepare(chosen.compute)
    known = image_pack.read(pack, data, chosen.data)
    requests = records.read_forget(forget, known.manifest)
    roles = records.read_roles(split, known.manifest)
    network = checkpoints.load(model, chosen.model, chosen.data)
    margins, classes = answers.of_all(network, known, chosen, backend)
    material = views.material(known, roles, requests, chosen, backend)
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
