"""Check on a GPU that stacked models equal single ones, and time the steps of an audit.

`benchmarks/gpu.sh` runs it. Without `../shared/datasets` it runs the embedded digits.

Example: python -m benchmarks.gpu --device cuda --out results-of-gpu
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import measure, verdicts, worlds
from benchmarks.worlds import World
from tasks.common import files, stage_cli
from tasks.common.errors import ModelError
from tasks.common.settings import Settings
from tasks.training import architectures, compute, stacked, training_loop
from tasks.unlearning import fcalb
from tasks.verification.gates import GateRules

TOGETHER = 4
"""Models that are trained at once, and then one by one."""
DIFFERENCE = 1e-4
"""Largest difference of logits of stacked and single models, as a share of the largest logit."""
REQUESTS, RECORDS = 8, 40
"""Where nobody asks: how many requests, of how many random records each."""


def main(
    device: Literal["cpu", "cuda"] = "cuda",
    world: str = "cifar",
    epochs: int = 8,
    references: int = 16,
    block: int = 8,
    out: Path = measure.RESULTS,
) -> None:
    """Compare stacked with single models, audit one batch on the device, write `gpu.json`.

    `references` are trained with the batch, and as many without it, `block` at a time.

    Raises:
        ModelError: stacked models differ from single ones.

    Example: python -m benchmarks.gpu --device cpu --world digits --epochs 6 --references 6
    """
    chosen_world = _asked(worlds.load(world))
    chosen = chosen_world.settings.model_copy(
        update={
            "train": chosen_world.settings.train.model_copy(update={"epochs": epochs}),
            "compute": chosen_world.settings.compute.model_copy(update={"device": device}),
        }
    )
    backend = compute.prepare(chosen.compute)
    rows = np.flatnonzero(chosen_world.roles == "training")
    figures: dict[str, Any] = {
        "place": backend.facts(),
        "world": world,
        "records": len(rows),
        "epochs": epochs,
        "stacked": _stacked_against_single(chosen_world, rows, chosen, backend),
    }
    files.write_json(out / "gpu.json", figures)
    figures["audit"] = _audit(chosen_world, chosen, backend, references, block)
    files.write_json(out / "gpu.json", figures)
    audit = figures["audit"]
    lines = [
        *figures["stacked"].items(),
        *((f"{name}, s", value) for name, value in audit["seconds"].items()),
        ("unlearning / retrain", audit["unlearning_share_of_a_retrain"]),
        *audit["verdicts"].items(),
    ]
    stage_cli.say(measure.table(["figure", "value"], lines))
    difference = figures["stacked"]["largest_relative_difference"]
    if difference > DIFFERENCE:
        raise ModelError(
            f"stacked models differ from single ones by {difference:.1e} of the largest logit, "
            f"expected at most {DIFFERENCE:g}; set compute.together to 1"
        )


def _records(
    world: World, rows: np.ndarray, chosen: Settings, backend: compute.Backend
) -> training_loop.Records:
    return training_loop.Records(world.images[rows], world.labels[rows], chosen.model, backend)


def _stacked_against_single(
    world: World, rows: np.ndarray, chosen: Settings, backend: compute.Backend
) -> dict[str, Any]:
    """The largest difference of logits, relative to their largest value, after two steps,
    where rounding has not yet grown; and the seconds of both ways."""
    records = _records(world, rows[: 2 * chosen.train.batch_size], chosen, backend)
    # large steps would enlarge the rounding of the gradients
    recipe = chosen.train.model_copy(update={"epochs": 1, "learning_rate": 1e-3})

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


def _audit(
    world: World, chosen: Settings, backend: compute.Backend, references: int, block: int
) -> dict[str, Any]:
    """One audit in memory, as the stages do it: seconds of each step, and the verdicts on the
    unlearned model and on an exact retrain."""
    trained_on = world.roles == "training"
    forget_set = trained_on & (world.requests(0) != "")
    everybody = _records(world, np.flatnonzero(trained_on), chosen, backend)
    retain = _records(world, np.flatnonzero(trained_on & ~forget_set), chosen, backend)
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        seconds[name] = round(time.perf_counter() - began, 3)
        return result

    def trained(records: training_loop.Records, numbers: list[int]) -> list[Any]:
        networks = [architectures.build(chosen.model, chosen.data, number) for number in numbers]
        for start in range(0, len(networks), block):
            part = slice(start, start + block)
            if len(networks[part]) == 1:
                training_loop.fit(networks[start], records, chosen.train, numbers[start])
            else:
                stacked.fit(networks[part], records, chosen.train, numbers[part])
        return networks

    (original,) = timed("original", lambda: trained(everybody, [1]))
    unlearned, _ = timed(
        "unlearning",
        lambda: fcalb.unlearn(
            copy.deepcopy(original),
            _records(world, np.flatnonzero(forget_set), chosen, backend),
            retain,
            chosen,
        ),
    )
    retrained, second = timed("two retrains", lambda: trained(retain, [2, 3]))
    numbers = list(range(10, 10 + references))
    others = timed(
        "references",
        lambda: trained(everybody, numbers) + trained(retain, [100 + n for n in numbers]),
    )

    fixed = timed(
        "scores", lambda: verdicts.answers_of([original, retrained, *others], world, backend)
    )
    rules = GateRules(**chosen.verify.model_dump(exclude={"mode"})).answers_alone()
    verdict_counts = {}
    for name, network in {"unlearned": unlearned, "exact retrain": second}.items():
        scores = verdicts.table_of_scores(
            world, 0, verdicts.answers_of([network], world, backend), fixed, references
        )
        rows = list(verdicts.judged(scores, rules))
        verdict_counts[name] = {
            **Counter(row["verdict"] for row in rows),
            "accuracy": round(float((scores.predicted[0] == world.labels)[~trained_on].mean()), 4),
            "detectability": round(float(np.median([row["detectability"] for row in rows])), 2),
        }
    share = seconds["unlearning"] / (seconds["two retrains"] / 2)
    return {
        "requests": len(world.batches[0]),
        "references": 2 * references,
        "seconds": seconds,
        "unlearning_share_of_a_retrain": round(share, 3),
        "verdicts": verdict_counts,
    }


def _asked(world: World) -> World:
    """The world with people who ask: where it has none, random records stand for them."""
    if world.batches:
        return replace(world, batches=world.batches[:1])
    random = np.random.Generator(np.random.PCG64(0))
    rows = random.permutation(np.flatnonzero(world.roles == "training"))
    subjects, roles = world.subjects.copy(), world.roles.astype("<U16")
    subjects[rows[: REQUESTS * RECORDS]] = np.repeat(np.arange(REQUESTS), RECORDS)
    # half of what nobody trained on calibrates, the other half controls
    roles[np.flatnonzero(world.roles == "test")[::2]] = "control"
    roles[rows[-RECORDS * REQUESTS :]] = "calibration"
    return replace(world, subjects=subjects, roles=roles, batches=(tuple(range(REQUESTS)),))


if __name__ == "__main__":
    stage_cli.run(main)
