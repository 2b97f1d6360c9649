"""Measure how often a misread model is recognised, and how often a correctly read model is stopped.

Small models are trained under several values of mean and std on three data sets, and each is shown
its training records as it was trained and under the other values, as if the settings were wrong. A
misreading counts where the model knows at least 0.8 of the records when it is read rightly, and
loses at least 0.15 by it. The value `uncommon` is one that `tasks.training.other_readings` does not
try.

Example: python -m benchmarks.readings --epochs 2 --epochs 12 --epochs 30
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import measure, worlds
from tasks.common import seeds, settings, stage_cli
from tasks.training import architectures, compute, other_readings, training_loop

RECORDS = 1000
"""Training records of a model, at most."""
COST = 0.15
"""Accuracy that a misreading has to cost."""
VALUES: dict[str, dict[str, Any]] = {
    "-1 … 1": {"mean": 0.5, "std": 0.5},
    "0 … 1": {"mean": 0.0, "std": 1.0},
    "0 … 255": {"mean": 0.0, "std": 1 / 255},
    "MNIST": {"mean": 0.1307, "std": 0.3081},
    "torchvision": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "uncommon": {"mean": 0.2, "std": 0.1},
}
"""Mean and std by name; those with three values are for colour images alone."""


def main(
    world: list[str] = ["faces", "garments-class", "cifar"],  # noqa: B006  # typer reads it
    epochs: list[int] = [2, 12, 30],  # noqa: B006  # typer reads it
    out: Path = measure.RESULTS,
    page: Path = Path("docs/models.md"),
) -> None:
    """Train models of each length, read them in each way, and put the counts into the page.

    Example: python -m benchmarks.readings --world faces --epochs 12
    """
    rows: dict[str, dict[str, int]] = {}
    for name in world:
        counts = {"models": 0, "stopped": 0, "misreadings": 0, "recognised": 0, "uncommon": 0}
        for length in epochs:
            for row in read(worlds.load(name), length):
                for key, count in row.items():
                    counts[key] += count
        rows[name] = counts
        stage_cli.say(f"{name}: {counts}")
    words = [f"--world {name}" for name in world] + [f"--epochs {length}" for length in epochs]
    command = f"python -m benchmarks.readings {' '.join(words)}"
    measure.write("readings", command, {"rows": rows}, table(rows), page, out)


def read(world: worlds.World, epochs: int) -> Iterator[dict[str, int]]:
    """The counts of one model for each of `VALUES` that fits the data."""
    training = np.flatnonzero(world.roles == "training")[:RECORDS]
    images, labels = world.images[training], world.labels[training]
    values = {
        name: value
        for name, value in VALUES.items()
        if images.shape[1] == 3 or not isinstance(value["mean"], tuple)
    }
    for name, value in values.items():
        chosen = world.settings.model_copy(
            update={
                "model": settings.Model(**value),
                "train": world.settings.train.model_copy(update={"epochs": epochs}),
            }
        )
        backend = compute.prepare(chosen.compute)
        shown_records = training_loop.Records(images, labels, chosen.model, backend)
        seed = seeds.derive(0, world.name, name, epochs)
        network = architectures.build(chosen.model, chosen.data, seed)
        training_loop.fit(network, shown_records, chosen.train, seed)
        order = torch.randperm(len(shown_records), generator=torch.Generator().manual_seed(seed))
        shown = shown_records.rows(order[: other_readings.MOST])
        rightly = accuracy(network, shown)
        stopped = other_readings.better(network, shown, chosen)
        counts = {"models": 1, "stopped": int(stopped is not None and stopped.is_right)}
        counts |= {"misreadings": 0, "recognised": 0, "uncommon": 0}
        for other in values.keys() - {name}:
            wrong = chosen.model_copy(update={"model": settings.Model(**values[other])})
            misread = shown.normalised_as(wrong.model)
            if rightly < other_readings.KNOWN or rightly - accuracy(network, misread) < COST:
                continue
            named = other_readings.better(network, misread, wrong)
            counts["misreadings"] += 1
            counts["recognised"] += int(named is not None and named.is_right)
            counts["uncommon"] += int(name == "uncommon")
        yield counts


def accuracy(network: torch.nn.Module, records: training_loop.Records) -> float:
    """The share of records that a model classifies rightly."""
    answers = training_loop.logits(network, records).argmax(1)
    return float((answers == records.labels.cpu().numpy()).mean())


def table(rows: dict[str, dict[str, int]]) -> str:
    """The counts as Markdown."""
    head = (
        "data",
        "models",
        "stopped when read rightly",
        "costly misreadings",
        "of these recognised",
        "of these of models with uncommon values",
    )
    return measure.table(head, [(name, *map(str, row.values())) for name, row in rows.items()])


if __name__ == "__main__":
    stage_cli.run(main)
