"""What has to be seen on a GPU once: that stacked models equal single ones, and what unlearning
costs against a retrain.

`benchmarks/gpu.sh` runs it. On the CPU it runs the embedded digits, to see that it works.

Example: python -m benchmarks.gpu --device cuda --out results-of-gpu
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import measure, worlds
from benchmarks.worlds import World
from tasks.common import files, stage_cli
from tasks.common.settings import Settings
from tasks.training import architectures, compute, stacked, training_loop
from tasks.unlearning import fcalb

TOGETHER = 4
"""Models that are trained at once, and then one by one."""
FORGOTTEN = 0.05
"""Share of the training records that is forgotten, drawn at random."""


def main(
    device: Literal["cpu", "cuda"] = "cuda", epochs: int = 2, out: Path = measure.RESULTS
) -> None:
    """Train, unlearn and retrain on the device, and write `gpu.json`.

    Example: python -m benchmarks.gpu --device cpu --out /tmp/gpu
    """
    world = worlds.load("cifar" if device == "cuda" else "digits")
    chosen = world.settings.model_copy(
        update={
            "train": world.settings.train.model_copy(update={"epochs": epochs}),
            "compute": world.settings.compute.model_copy(update={"device": device}),
        }
    )
    place = compute.prepare(chosen.compute)
    rows = np.flatnonzero(world.roles == "training")
    parts = {
        "stacked": _stacked_against_single(world, rows, chosen, place),
        "unlearning": _unlearning_against_retrain(world, rows, chosen, place),
    }
    figures = {
        "place": place.facts(),
        "world": world.name,
        "records": len(rows),
        "epochs": epochs,
        **parts,
    }
    files.write_json(out / "gpu.json", figures)
    lines = [[name, value] for part in parts.values() for name, value in part.items()]
    stage_cli.say(measure.table(["figure", "value"], lines))


def _records(
    world: World, rows: np.ndarray, chosen: Settings, place: compute.Place
) -> training_loop.Records:
    return training_loop.Records(world.images[rows], world.labels[rows], chosen.model, place)


def _stacked_against_single(
    world: World, rows: np.ndarray, chosen: Settings, place: compute.Place
) -> dict[str, Any]:
    """The largest difference of logits, relative to their largest value, after one epoch of few
    records, where rounding has not yet grown; and the seconds of both ways."""
    records = _records(world, rows[: 4 * chosen.train.batch_size], chosen, place)
    recipe = chosen.train.model_copy(update={"epochs": 1})

    def networks() -> list[Any]:
        return [architectures.build(chosen.model, chosen.data, seed) for seed in range(TOGETHER)]

    seeds = list(range(TOGETHER))
    at_once, alone = networks(), networks()
    began = time.perf_counter()
    stacked.fit(at_once, records, recipe, seeds)
    stacked_seconds = time.perf_counter() - began
    began = time.perf_counter()
    for network, seed in zip(alone, seeds, strict=True):
        training_loop.fit(network, records, recipe, seed)
    single_seconds = time.perf_counter() - began
    pairs = [
        (training_loop.logits(a, records), training_loop.logits(b, records))
        for a, b in zip(at_once, alone, strict=True)
    ]
    difference = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    return {
        "largest_relative_difference": difference,
        "stacked_seconds": round(stacked_seconds, 3),
        "single_seconds": round(single_seconds, 3),
    }


def _unlearning_against_retrain(
    world: World, rows: np.ndarray, chosen: Settings, place: compute.Place
) -> dict[str, Any]:
    """Seconds and accuracy of the default method and of a retrain."""
    shuffled = np.random.default_rng(0).permutation(rows)
    count = max(1, round(FORGOTTEN * len(rows)))
    forget, retain = (
        _records(world, part, chosen, place) for part in (shuffled[:count], shuffled[count:])
    )
    everybody = _records(world, rows, chosen, place)
    unseen = _records(world, np.flatnonzero(world.roles != "training"), chosen, place)
    original = architectures.build(chosen.model, chosen.data, 1)
    training_loop.fit(original, everybody, chosen.train, 1)
    began = time.perf_counter()
    unlearned, _ = fcalb.unlearn(original, forget, retain, chosen)
    unlearning = time.perf_counter() - began
    retrained = architectures.build(chosen.model, chosen.data, 2)
    began = time.perf_counter()
    training_loop.fit(retrained, retain, chosen.train, 2)
    retraining = time.perf_counter() - began

    def accuracy(network: Any) -> float:
        answers = training_loop.logits(network, unseen).argmax(1)
        return round(float((answers == unseen.labels.cpu().numpy()).mean()), 4)

    return {
        "forgotten": count,
        "unlearning_seconds": round(unlearning, 3),
        "retraining_seconds": round(retraining, 3),
        "accuracy_unlearned": accuracy(unlearned),
        "accuracy_retrained": accuracy(retrained),
    }


if __name__ == "__main__":
    stage_cli.run(main)
