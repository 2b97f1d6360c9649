"""Stage `pool`: train a block of models, each without some of the people, and keep their answers
for every record. The weights do not leave the stage."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.common import settings as settings_module
from tasks.common import stage_cli
from tasks.common.settings import Settings
from tasks.data import image_pack, records
from tasks.inspection import answers
from tasks.pooling import folds, table
from tasks.training import (
    checkpoints,
    compute,
    original_check,
    reference_blocks,
    release_lineage,
    training_loop,
)
from tasks.verification.scoring import Floats, Ints

if TYPE_CHECKING:
    from torch import Tensor


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
        folds.absent_subjects(
            subjects[training], labels[training], settings.data.classes, count, settings.seed, n
        )
        for n in numbers
    ] + [np.empty(0, np.int64)] * everybody
    seen = folds.membership(subjects, training, absent)
    streams = [("pool", n) for n in numbers]
    streams += [("everybody", n) for n in range(block * everybody, (block + 1) * everybody)]
    block_of = _Block(packed, training, seen, streams, settings, compute.prepare(settings.compute))
    trained = block_of.train()
    phi = [model.margins for model in trained]
    predicted = [model.classes for model in trained]
    models = [
        {"name": f"{kind}-{number}", "records": int(rows.sum()), **model.cost}
        for (kind, number), rows, model in zip(streams, seen, trained, strict=True)
    ]
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


@dataclass(frozen=True)
class _Answers:
    """One model's answers for every record, and the cost of its training."""

    margins: Floats
    classes: Ints
    cost: dict[str, object]


@dataclass(frozen=True)
class _Block:
    """The models of a block, to be trained."""

    packed: image_pack.Packed
    training: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    streams: list[tuple[str, int]]
    settings: Settings
    backend: compute.Backend

    def train(self) -> list[_Answers]:
        """Train all models, several at once where they can be, take their answers, and delete
        them."""
        answered: dict[int, _Answers] = {}
        counts = [int(rows.sum()) for rows in self.seen]
        for group in reference_blocks.groups_of_pool(counts, self.settings, self.backend):
            answered |= dict(zip(group, self._train_group(group), strict=True))
        return [answered[index] for index in range(len(self.streams))]

    def _train_group(self, group: list[int]) -> list[_Answers]:
        names = ", ".join("-".join(map(str, self.streams[index])) for index in group)
        title = f"models {names}" if len(group) > 1 else f"model {names}"
        folder = Path(tempfile.mkdtemp(prefix="pool-"))
        try:
            paths = [folder / f"{index}.safetensors" for index in group]
            costs = reference_blocks.train_models(
                self._records(self.training if len(group) > 1 else self.seen[group[0]]),
                self.settings,
                [self.streams[index] for index in group],
                paths,
                title,
                rows=self._numbers(group) if len(group) > 1 else None,
            )
            networks = [
                checkpoints.load(path, self.settings.model, self.settings.data) for path in paths
            ]
        finally:
            shutil.rmtree(folder)
        outputs = [
            answers.margins_and_classes(network, self.packed, self.settings, self.backend)
            for network in networks
        ]
        return [_Answers(*output, cost) for output, cost in zip(outputs, costs, strict=True)]

    def _records(self, rows: NDArray[np.bool_]) -> training_loop.Records:
        return reference_blocks.load_rows(rows, self.packed, self.settings, self.backend)

    def _numbers(self, group: list[int]) -> list[Tensor]:
        """For each model the places of its records among all training records."""
        import torch

        return [
            torch.from_numpy(np.flatnonzero(self.seen[index][self.training])) for index in group
        ]


def _unseen_accuracy(predicted: Ints, labels: Ints, seen: NDArray[np.bool_]) -> list[float | None]:
    """Share of the records of people whom no model saw that each model answers rightly."""
    unseen = ~seen.any(axis=0)
    if not unseen.any():
        return [None] * len(predicted)
    return [float(share) for share in (predicted == labels)[:, unseen].mean(axis=1)]


if __name__ == "__main__":
    stage_cli.run(main)
