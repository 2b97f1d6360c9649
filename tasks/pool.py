"""Stage `pool`: a block of models each trained without some of the people, and what they say of
every record. The weights do not leave the stage."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.common import settings as settings_module
from tasks.common import stage_cli
from tasks.common.settings import Settings
from tasks.data import image_pack, records
from tasks.pooling import answers, folds, table
from tasks.training import (
    checkpoints,
    compute,
    original_check,
    reference_blocks,
    release_lineage,
)
from tasks.verification.scoring import Floats, Ints


def main(block: int, data: Path, pack: Path, split: Path, params: Path, out: Path) -> None:
    """Train one round of a pool: a model without each fold of the training subjects, and models
    with everybody.

    Example: python -m tasks.pool --block 0 --data data --pack artifacts/pack --split
    artifacts/split.csv --params params.yaml --out artifacts/pool/0
    """
    settings = settings_module.load(params)
    packed = image_pack.read(pack, data, settings.data)
    manifest = packed.manifest
    roles = records.read_roles(split, manifest)
    original_check.require_before_training(packed, roles, settings)
    training = roles == "training"
    subjects = pd.factorize(manifest["subject_id"])[0].astype(np.int64)
    labels = manifest["label"].to_numpy(np.int64)
    count, everybody = settings.pool.folds, settings.pool.with_everybody
    numbers = [*range(block * count, (block + 1) * count)]
    absent = [
        folds.left_out(
            subjects[training], labels[training], settings.data.classes, count, settings.seed, n
        )
        for n in numbers
    ] + [np.empty(0, np.int64)] * everybody
    seen = folds.membership(subjects, training, absent)
    streams = [("pool", n) for n in numbers]
    streams += [("everybody", n) for n in range(block * everybody, (block + 1) * everybody)]
    backend = compute.prepare(settings.compute)
    phi, predicted, models = [], [], list[dict[str, object]]()
    for position, (stream, rows) in enumerate(zip(streams, seen, strict=True), 1):
        name = f"{stream[0]}-{stream[1]}"
        title = f"model {position}/{len(streams)} ({name})"
        margins, classes, facts = _one(stream, title, rows, packed, settings, backend)
        phi.append(margins)
        predicted.append(classes)
        models.append({"name": name, "records": int(rows.sum()), **facts})
    for facts, share in zip(
        models, _unseen_accuracy(np.stack(predicted), labels, seen), strict=True
    ):
        facts["unseen_accuracy"] = share
    pool = table.PoolTable(
        table.keys(manifest),
        np.stack(phi).astype(np.float32),
        np.stack(predicted).astype(np.int16),
        seen,
        np.array([*numbers, *[-1] * everybody], np.int64),
    )
    table.save(
        out,
        pool,
        {
            "recipe": release_lineage.recipe(settings),
            "seed": settings.seed,
            "folds": count,
            "models": models,
            "training_set_sha256": release_lineage.training_set(manifest, training),
            "erased": [],
        },
    )


def _one(
    stream: tuple[str, int],
    title: str,
    rows: NDArray[np.bool_],
    packed: image_pack.Packed,
    settings: Settings,
    backend: compute.Backend,
) -> tuple[Floats, Ints, dict[str, object]]:
    """Train one model, take its answers, and delete it.

    Returns:
        (n,) margins, (n,) predicted classes, and the cost of the training.
    """
    loaded = reference_blocks.load_rows(rows, packed, settings, backend)
    folder = Path(tempfile.mkdtemp(prefix="pool-"))
    try:
        path = folder / "model.safetensors"
        cost = reference_blocks.train_model(loaded, settings, stream, path, title)
        network = checkpoints.load(path, settings.model, settings.data)
    finally:
        shutil.rmtree(folder)
    margins, classes = answers.of_all(network, packed, settings, backend)
    return margins, classes, cost


def _unseen_accuracy(predicted: Ints, labels: Ints, seen: NDArray[np.bool_]) -> list[float | None]:
    """Share of the records of people whom no model saw that each model answers rightly."""
    unseen = ~seen.any(axis=0)
    if not unseen.any():
        return [None] * len(predicted)
    return [float(share) for share in (predicted == labels)[:, unseen].mean(axis=1)]


if __name__ == "__main__":
    stage_cli.run(main)
