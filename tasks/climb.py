"""Stage `climb`: the next rung of the ladder, if the previous one did not pass for everybody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.common import files, settings, stage_cli
from tasks.common.errors import SettingsError
from tasks.common.settings import Settings
from tasks.unlearning import apply, ladder
from tasks.verification import batch_verdicts
from tasks.verification.scoring import Floats, ModelScores, Scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tasks.data import image_pack
    from tasks.training import compute

KINDS = (("train", "with", "with_blocks"), ("retrain", "without", "without_blocks"))
"""Of further references: the stage by whose recipe they are trained, their role, and the setting
that numbers their blocks."""


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
    planned = {each.name: each for each in ladder.planned(chosen)}.get(rung)
    before = ladder.Outcome.read(after / ladder.OUTCOME)
    state = before.next_state(planned is not None and planned.judges_otherwise)
    if state == "tried" and (planned is None or not planned.affordable):
        state = "over_budget"
    with files.whole_folder(models) as kept, files.whole_folder(out) as results:
        _hand_on(after, results)
        if state != "tried" or planned is None:
            stage_cli.say(f"{rung}: not tried ({state.replace('_', ' ')})")
            skipped = ladder.Outcome(state, before.requests, before.passed, before.hopeless)
            skipped.write(kept / ladder.OUTCOME)
            skipped.write(results / ladder.OUTCOME)
            return
        on_rung = planned.settings
        apply.to_original(original, data, pack, split, forget, on_rung, kept)
        records = AuditRecords(data, pack, split, forget, on_rung)
        scored = records.scores(kept / apply.MODEL)
        scored.save(results / ladder.SCORES)
        (kept / apply.TRACE).rename(results / apply.TRACE)
        cost = files.read_json((kept / apply.MODEL).with_suffix(".json"))
        path = (models / apply.MODEL).as_posix()
        files.write_json(results / ladder.MODEL, {**cost, "path": path})
        _add_references(records, chosen.on_rung(planned.below), kept, models, results)
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
    records: AuditRecords, below: Settings, kept: Path, models: Path, results: Path
) -> None:
    """Train and score the references that the rung adds to those of the rung below.

    Args:
        records: what they are trained and scored on, with the settings of the rung.
        below: the settings of the rung below.
        kept: draft of the folder with the rung's models.
        models: where that folder will lie.
        results: folder for their scores and the list of them.
    """
    added = ladder.references_of(results)
    for stage, role, key in KINDS:
        blocks = getattr(records.settings.references, key)
        for block in blocks[len(getattr(below.references, key)) :]:
            for path in records.train(stage, block, kept / stage / str(block)):
                number = path.stem.removeprefix("seed-")
                reference = {"name": f"{role}-{number}", "role": role}
                reference |= {"path": (models / path.relative_to(kept)).as_posix()}
                added.append(reference | files.read_json(path.with_suffix(".json")))
                scored = records.scores(path)
                scored.save(results / ladder.REFERENCES / f"{reference['name']}.npz")
    if added:
        files.write_json(results / f"{ladder.REFERENCES}.json", added)


@dataclass(frozen=True)
class AuditRecords:
    """The records of an audit, for the models of a rung.

    Attributes:
        data: folder of the data set.
        pack: its decoded images.
        split: the role of each record.
        forget: the records to forget.
        settings: of the audit, with what the rung changes.
    """

    data: Path
    pack: Path
    split: Path
    forget: Path
    settings: Settings

    @cached_property
    def backend(self) -> compute.Backend:
        """Where the arithmetic is done."""
        from tasks.training import compute

        return compute.prepare(self.settings.compute)

    @cached_property
    def packed(self) -> image_pack.Packed:
        """Manifest and pixels."""
        from tasks.data import image_pack

        return image_pack.read(self.pack, self.data, self.settings.data)

    @cached_property
    def requests(self) -> NDArray[np.str_]:
        """(n,) the request that asks to forget each record, or empty."""
        from tasks.data import records

        return records.read_forget(self.forget, self.packed.manifest)

    @cached_property
    def roles(self) -> NDArray[np.str_]:
        """(n,) the role of each record."""
        from tasks.data import records

        return records.read_roles(self.split, self.packed.manifest)

    @cached_property
    def material(self) -> Any:
        """What the further views of the records are made of; None where none is set."""
        from tasks.inspection import views

        return views.material(self.packed, self.roles, self.requests, self.settings, self.backend)

    def scores(self, model: Path) -> ModelScores:
        """What a model says of every record, by answers and in the further views that are set."""
        from tasks.inspection import views
        from tasks.pooling import answers
        from tasks.training import checkpoints

        network = checkpoints.load(model, self.settings.model, self.settings.data)
        margins, classes = answers.of_all(network, self.packed, self.settings, self.backend)
        names = self.settings.verify.views if self.material else ()
        in_views: dict[str, Floats] = {
            name: views.of_all(name, network, self.material, self.requests, self.roles)
            for name in names
        }
        return ModelScores(margins, classes, in_views)

    def train(self, stage: str, block: int, out: Path) -> Iterator[Path]:
        """Train a block of references as the stage `train` or `retrain` does, and yield the path
        of each."""
        from tasks.training import reference_blocks

        rows = self.roles == "training"
        if stage == "retrain":
            rows &= self.requests == ""
        reference_blocks.train_block(stage, block, rows, self.packed, self.settings, out)
        size = self.settings.references.seeds_per_block
        for number in range(block * size, (block + 1) * size):
            yield out / f"seed-{number}.safetensors"


if __name__ == "__main__":
    stage_cli.run(main)
