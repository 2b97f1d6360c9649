"""Tune every method with an equal budget: the same number of tries each, judged by calibration
subjects.

Originals forget people who are in no batch of the benchmark, so that nobody is tuned on whom a
verdict is about. A try is good whose forgotten people look like calibration subjects, whom no model
has seen: neither better nor worse known (`fcalb.unlikeness`, the mean of all records and of the
third that is known best). No reference and no verdict is used.

Example: python -m benchmarks.tuning --world digits
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import kept, methods, worlds
from benchmarks.study import Study, run
from benchmarks.worlds import World
from tasks.common import seeds, stage_cli
from tasks.common.errors import EvidenceError, ModelError
from tasks.common.settings import Unlearn
from tasks.training import checkpoints, compute, training_loop
from tasks.unlearning import fcalb
from tasks.verification import scoring

BUDGET = 6
"""Tries of each method"""
LOST = 0.03
"""Accuracy on calibration subjects that a try may lose against the original; a try that loses more
is no choice"""


def grids(epochs: int, half: int) -> dict[str, list[dict[str, Any]]]:
    """`BUDGET` settings to try of each method: strengths around the published ones, or times the
    recipe's length."""

    def rival(method: str, **values: tuple[Any, ...]) -> list[dict[str, Any]]:
        combined = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
        return [{"method": method, "rivals": wish} for wish in combined]

    reset = {**methods.RESET, "batch_size": half}
    length = epochs / 3 if epochs < methods.LONG else epochs / 12
    return {
        "FCALB, reset": [
            {**reset, "reset": way, "epochs": length} for way in (0.5, 0.6, 0.65, 0.7, 0.75, 0.8)
        ],
        "FCALB, plain": [
            {
                "method": "fcalb_plain",
                "balance": "fixed",
                "forget_weight": weight,
                "taps": taps,
                "epochs": 2.0,
            }
            for weight, taps in product((1.0, 10.0, 100.0), ("last", "all"))
        ],
        "fine_tune": rival("fine_tune", learning_rate=(0.02, 0.1, 0.3), epochs=(5.0, 10.0)),
        "neg_grad": rival("neg_grad", neg_grad_alpha=(0.99, 0.95, 0.9), learning_rate=(0.01, 0.03)),
        "random_labels": rival(
            "random_labels", learning_rate=(1e-4, 1e-3, 5e-3), epochs=(3.0, 6.0)
        ),
        "bad_teacher": rival("bad_teacher", learning_rate=(1e-4, 1e-3, 5e-3), epochs=(1.0, 4.0)),
        "unsir": rival("unsir", learning_rate=(0.002, 0.005, 0.02), unsir_repair_rate=(0.01, 0.05)),
        "scrub": rival("scrub", learning_rate=(5e-4, 2e-3, 5e-3), scrub_max_epochs=(3, 6)),
        "ssd": rival("ssd", ssd_alpha=(1.5, 3.0, 6.0), ssd_lambda=(0.3, 1.0)),
        "salun": rival("salun", learning_rate=(0.003, 0.006, 0.013), salun_share=(0.3, 0.5)),
        "delete": rival("delete", learning_rate=(1e-5, 3e-5, 1e-4), epochs=(5.0, 20.0)),
    }


@dataclass(frozen=True)
class Try:
    """One setting on one original and one group of people to tune on."""

    wish: dict[str, Any]
    world: str
    people: tuple[int, ...]
    original: int
    references: int
    seed: int
    keep: Path


def main(study: Study) -> None:
    """Choose settings for each method on one world, and say them.

    Example: python -m benchmarks.tuning --world digits
    """
    methods.make_models(study)
    for name, choice in chosen(study).items():
        stage_cli.say(f"{name}: {choice}")


def chosen(study: Study) -> dict[str, Any]:
    """The best try of each method by calibration subjects, with how unlike them it leaves the
    forgotten ones.

    Differences are averaged over originals and people before their size counts: single people
    differ for reasons other than having been trained on.
    """
    world, first = study.given, study.references + 1
    recipe = world.settings.train
    grid = grids(recipe.epochs, recipe.batch_size // 2)
    groups = tuning_people(world)
    tries = [
        Try(wish, world.name, people, first + n, study.references, study.seed, study.keep)
        for wishes in grid.values()
        for wish in wishes
        for people in groups
        for n in range(study.originals)
    ]
    results = kept.each(tries, attempt, study.folder("tuning"), study.jobs, f"{world.name}, tuning")
    results_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one_try, result in zip(tries, results, strict=True):
        results_of[repr(one_try.wish)].append(result)
    best = {}
    for name, variants in grid.items():
        ranked = sorted(
            (judged(results_of[repr(wish)], wish) for wish in variants),
            key=lambda choice: choice["order"],
        )
        best[name] = {key: value for key, value in ranked[0].items() if key != "order"}
    return best


def judged(results: list[dict[str, Any]], unlearn: dict[str, Any]) -> dict[str, Any]:
    """How good a try is: those that keep accuracy first, then those that leave people most alike
    the unseen ones."""
    if any("error" in result for result in results):
        return {"wish": unlearn, "unlike": None, "lost": None, "order": (2, 0.0)}
    unlike = np.mean([result["unlike"] for result in results], axis=0)
    accuracy_lost = float(np.mean([result["lost"] for result in results]))
    away = float(np.abs(unlike).max())
    return {
        "wish": unlearn,
        "unlike": [float(u) for u in unlike],
        "lost": accuracy_lost,
        "order": (int(accuracy_lost > LOST), away),
    }


def tuning_people(world: World) -> list[tuple[int, ...]]:
    """Two groups as large as the world's batches, of training subjects who are in none of them."""
    in_batches = np.concatenate(world.batches)
    rest = np.setdiff1d(world.subjects[world.roles == "training"], in_batches)
    size = max(1, min(len(world.batches[0]), len(rest) // 3))
    return [tuple(int(person) for person in rest[start : start + size]) for start in (0, size)]


def attempt(trial: Try) -> dict[str, Any]:
    """Let an original forget people who are in no batch; compare them with calibration subjects."""
    world = replace(worlds.load(trial.world), batches=(trial.people,))
    backend = compute.prepare(world.settings.compute)
    stream = seeds.derive(trial.seed, "tune", trial.original)
    settings = methods.settings_of(world, Unlearn.model_validate(trial.wish), stream)
    path = trial.keep / f"{trial.world}-{trial.seed}" / f"with-0-{trial.original}.safetensors"
    network = checkpoints.load(path, settings.model, settings.data)
    spare = world.roles == "calibration"
    in_forget_set = np.isin(world.subjects, trial.people)
    training_records = training_loop.Records(
        world.images[spare], world.labels[spare], settings.model, backend
    )
    forget_records = training_loop.Records(
        world.images[in_forget_set], world.labels[in_forget_set], settings.model, backend
    )
    before = float(
        (training_loop.logits(network, training_records).argmax(1) == world.labels[spare]).mean()
    )
    try:
        network = methods.unlearned(network, world, 0, settings, backend)
    except (ModelError, EvidenceError) as error:
        return {"error": str(error)}
    answers, its = (
        training_loop.logits(network, forget_records),
        training_loop.logits(network, training_records),
    )
    margins, yardstick = (
        scoring.margins(answers, world.labels[in_forget_set]),
        scoring.margins(its, world.labels[spare]),
    )
    unlike = fcalb.unlikeness(margins, world.labels[in_forget_set], yardstick, world.labels[spare])
    if not np.isfinite(unlike).all():
        return {"error": "diverged"}
    return {
        "unlike": list(unlike),
        "lost": before - float((its.argmax(1) == world.labels[spare]).mean()),
    }


if __name__ == "__main__":
    run(main)
