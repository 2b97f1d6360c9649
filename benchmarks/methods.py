"""Compare unlearning methods on the same originals, with the same references and the same test.

Each method makes originals forget that are no references, and each result is judged as the released
model on every request of its batch. Time is the method's own, CPU seconds on one thread, as a share
of one retrain by the full recipe in the same run. Rows named *tuned* have the settings that
`benchmarks.tuning` chose by calibration subjects, with the same number of tries for each method;
the others are as published, or as written in `configurations`.

Example: python -m benchmarks.methods --world digits --page docs/methods.md
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import kept, verdicts, worlds
from benchmarks.study import Study, run
from benchmarks.verdicts import Job
from benchmarks.worlds import World
from tasks.common import seeds
from tasks.common.errors import EvidenceError, ModelError
from tasks.common.settings import Settings, Unlearn
from tasks.training import architectures, checkpoints, compute, training_loop
from tasks.unlearning import fcalb
from tasks.unlearning.rivals import recipes, registry
from tasks.verification import scoring
from tasks.verification.attacks import roc
from tasks.verification.gates import GateRules

if TYPE_CHECKING:
    from torch import nn

RESET = {
    "method": "fcalb_plain",
    "phases": "forget_recover",
    "forget_steps": 0,
    "reset": 0.6,
    "retained_share": 1.0,
    "learning_rate": 0.1,
}
"""Weights 0.6 of the way to the random teacher, then recovery on all retained records"""
FORGET = {"reset": 0.0, "forget_steps": 40, "forget_rate": 0.02, "taps": "all"}
"""No reset, but a phase of the feature constraint alone"""
BALANCES = ("fixed", "gradnorm", "dwa", "imtl_g")
"""Beside the default, learned uncertainty"""
SHARES = (1 / 12, 1 / 6, 1 / 4, 1 / 3, 5 / 12)
"""Lengths of the recovery, as shares of the recipe's epochs"""
LONGER = (1 / 6, 1 / 4, 5 / 12, 7 / 12)
"""Lengths of training anew, as shares of the recipe's epochs"""
LONG = 60
"""Recipes of so many epochs are long: a share of a few per cent is worth trying"""
FEW = (1 / 60, 1 / 30, 1 / 20, 1 / 12, 1 / 8)
"""Lengths tried on long recipes, for recovery and for training anew"""


def configurations(settings: Settings) -> dict[str, dict[str, Any]]:
    """The methods by title, each as `unlearn` settings; lengths follow the world's recipe."""
    half, epochs = settings.train.batch_size // 2, settings.train.epochs
    variants: dict[str, dict[str, Any]] = {
        "exact retrain": {"method": "retrain"},
        "unchanged original": {"method": "none"},
        "fcalb, the default": {"method": "fcalb"},
        "fcalb_reset": {"method": "fcalb_reset"},
        "FCALB, as the abstract has it": {"method": "fcalb_plain"},
        **{
            f"FCALB, balance {name}": {"method": "fcalb_plain", "balance": name}
            for name in BALANCES
        },
    }
    long = epochs >= LONG
    for share in FEW if long else SHARES:
        variants[f"FCALB, reset 0.6, {share:.1%} of the epochs"] = {
            **RESET,
            "epochs": share * epochs,
            "batch_size": half,
        }
    forget = {
        **RESET,
        **FORGET,
        "epochs": (FEW if long else SHARES)[3] * epochs,
        "batch_size": half,
    }
    variants[f"FCALB, 40 forget steps, {(FEW if long else SHARES)[3]:.1%} of the epochs"] = forget
    for share in FEW if long else LONGER:
        anew = {"batch_size": half, "rivals": {"training_share": share}}
        variants[f"short retrain, {share:.1%} of the epochs"] = {"method": "short_retrain", **anew}
        variants[f"distilled anew, {share:.1%} of the epochs"] = {"method": "distil", **anew}
    return variants | {
        name: {"method": name} for name in registry.METHODS if name not in recipes.FROM_SCRATCH
    }


@dataclass(frozen=True)
class Trial:
    """One method on one original and one batch."""

    title: str
    wish: dict[str, Any]
    world: str
    batch: int
    original: int
    references: int
    seed: int
    keep: Path

    @classmethod
    def of(cls, study: Study, title: str, unlearn: dict[str, Any], batch: int, n: int) -> Trial:
        """A trial on the study's `n`th original; the first models with everybody are references."""
        first = study.references + 1
        return cls(
            title, unlearn, study.world, batch, first + n, study.references, study.seed, study.keep
        )


def main(study: Study, tune_originals: int = 3) -> None:
    """Train, unlearn, judge, write the figures of one world, and put their table into a page
    between its marks.

    What is done is kept: a run that was stopped goes on where it was.

    Example: python -m benchmarks.methods --world digits --originals 3 --page docs/methods.md
    """
    from benchmarks import tuning

    world = study.given
    make_models(study, max(study.originals, tune_originals))
    tuned = tuning.chosen(replace(study, originals=tune_originals))
    variants = configurations(world.settings) | {
        f"{name}, tuned": choice["wish"] for name, choice in tuned.items()
    }
    outcomes = in_rounds(study, variants, "methods")
    retrain = [row["seconds"] for row in outcomes["exact retrain"]]
    results_of_all = {
        "retrain_seconds": float(np.median(retrain)),
        "settings": variants,
        "tuning": tuned,
        "methods": {title: figures(rows, retrain) for title, rows in outcomes.items()},
    }
    study.publish("methods", results_of_all, table, tune_originals=tune_originals)


def in_rounds(
    study: Study, variants: Mapping[str, dict[str, Any]], name: str
) -> dict[str, list[dict[str, Any]]]:
    """Unlearn in each way on every original and batch, and judge: the results by title.

    Args:
        study: whose models are there.
        variants: settings of `unlearn` by title.
        name: of the benchmark, under which results are kept.
    """
    name_of_world, seed, keep = study.given.name, study.seed, study.keep
    for batch in range(len(study.given.batches)):  # here, as trials run side by side
        for n in range(1 + study.references):
            for kind, own in (("with", 0), ("without", batch)):
                verdicts.keep_views(Job(name_of_world, kind, own, n, seed, keep), batch)
    trials = [
        Trial.of(study, title, wish, batch, n)
        for batch in range(len(study.given.batches))
        for n in range(study.originals)
        # a round of all ways after the other, so that their times compare
        for title, wish in variants.items()
    ]
    results = kept.each(trials, attempt, study.folder(name), study.jobs, f"{study.world}, {name}")
    outcomes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trial, result in zip(trials, results, strict=True):
        outcomes[trial.title].append(result)
    return outcomes


def make_models(study: Study, originals: int | None = None) -> None:
    """Train the originals and references that are not there yet.

    Args:
        study: whose world, seed and references.
        originals: how many; None: as many as the study says.
    """
    first = 1 + study.references
    count = study.originals if originals is None else originals
    name, seed, keep = study.given.name, study.seed, study.keep
    jobs = [Job(name, "with", 0, n, seed, keep) for n in range(first + count)]
    for batch in range(len(study.given.batches)):
        jobs += [Job(name, "without", batch, n, seed, keep) for n in range(first)]
    verdicts.make_all([job for job in jobs if not job.path.exists()], study.jobs)


def attempt(trial: Trial) -> dict[str, Any]:
    """Apply one method to one original, and judge the result."""
    world = worlds.load(trial.world)
    backend = compute.prepare(world.settings.compute)
    stream = seeds.derive(
        trial.seed, trial.world, "methods", trial.batch, trial.original
    )  # each draws its own
    settings = settings_of(world, Unlearn.model_validate(trial.wish), stream)
    folder = trial.keep / f"{trial.world}-{trial.seed}"
    network = checkpoints.load(
        folder / f"with-0-{trial.original}.safetensors", settings.model, settings.data
    )
    started = time.process_time()
    try:
        network = unlearned(network, world, trial.batch, settings, backend)
    except (ModelError, EvidenceError) as error:
        return {"seconds": time.process_time() - started, "error": str(error), "rows": []}
    seconds = time.process_time() - started
    logits = training_loop.logits(
        network, training_loop.Records(world.images, world.labels, settings.model, backend)
    )
    phi, predicted = scoring.margins(logits, world.labels), logits.argmax(1).astype(np.int64)
    if not np.isfinite(phi).all():
        return {"seconds": seconds, "error": "diverged", "rows": []}

    def job(kind: str, batch: int, number: int) -> Job:
        return Job(trial.world, kind, batch, number, trial.seed, trial.keep)

    numbers = range(1, trial.references + 1)
    fixed = [
        job("with", 0, 0),
        job("without", trial.batch, 0),
        *(job("with", 0, n) for n in numbers),
    ]
    fixed += [job("without", trial.batch, n) for n in numbers]
    scores = verdicts.table_of_scores(
        world, trial.batch, (phi[None], predicted[None]), verdicts.answers(fixed), trial.references
    )
    own = verdicts.in_views(network, world, trial.batch, trial.seed)
    seen = [own, *(np.load(one.views(trial.batch), allow_pickle=False) for one in fixed)]
    scores = replace(
        scores, views={name: np.stack([kept[name] for kept in seen]) for name in verdicts.VIEWS}
    )
    rules = GateRules(**settings.verify.model_dump(exclude={"mode"})).answers_alone()
    correct = scores.predicted == scores.labels
    shares = correct[:, scores.unseen].mean(axis=1)
    return {
        "seconds": seconds,
        "control": float(shares[0]),
        "control_retrained": float(shares[scores.model_roles == "without"].mean()),
        "rows": list(verdicts.judged(scores, rules)),
    }


def settings_of(world: World, unlearn: Unlearn, stream: int) -> Settings:
    """The world's settings with a method and a seed; methods from scratch get the batch size that
    others have."""
    recipe = world.settings.train
    if (
        unlearn.method in recipes.FROM_SCRATCH
    ):  # they train by the recipe, whose batch size is as free as FCALB's
        recipe = recipe.model_copy(update={"batch_size": unlearn.batch_size})
    return world.settings.model_copy(
        update={"seed": stream % 2**31, "unlearn": unlearn, "train": recipe}
    )


def unlearned(
    network: nn.Module, world: World, batch: int, settings: Settings, backend: compute.Backend
) -> nn.Module:
    """The network after the method that the settings name."""
    in_forget_set = np.isin(world.subjects, world.batches[batch])

    def records(rows: Any) -> training_loop.Records:
        return training_loop.Records(
            world.images[rows], world.labels[rows], settings.model, backend
        )

    retain = records((world.roles == "training") & ~in_forget_set)
    if settings.unlearn.method == "none":
        return network
    if settings.unlearn.method == "retrain":
        network = architectures.build(
            settings.model, settings.data, seeds.derive(settings.seed, "retrain", "weights")
        )
        training_loop.fit(
            network, retain, settings.train, seeds.derive(settings.seed, "retrain", "order")
        )
        return network
    if settings.unlearn.method in fcalb.METHODS:
        return fcalb.unlearn(network, records(in_forget_set), retain, settings)[0]
    return registry.unlearn(network, records(in_forget_set), retain, settings)


def figures(trials: list[dict[str, Any]], retrain: list[float]) -> dict[str, Any]:
    """One method: counts, spread, and its cost as a share of the retrain in the same round (median
    over rounds)."""
    rows = [row for trial in trials for row in trial["rows"]]
    counts = Counter(row["verdict"] for row in rows)
    influence = [row["rho"] for row in rows if row["rho"] is not None]
    completed = [trial for trial in trials if trial["rows"]]
    return {
        "trials": len(trials),
        "diverged": len(trials) - len(completed),
        "judged": len(rows),
        **{name: counts[name] for name in ("pass", "fail", "inconclusive")},
        "alike": sum(row["verdict"] == "pass" and not row["unlike"] for row in rows),
        "all_gates": sum(row["verdict"] == "pass" and not row["outside"] for row in rows),
        "outside": dict(Counter(name for row in rows for name in row["outside"])),
        "pass_interval": roc.clopper_pearson(counts["pass"], len(rows)) if rows else (0.0, 1.0),
        "influence": [float(q) for q in np.quantile(influence, (0.05, 0.5, 0.95))]
        if influence
        else None,
        "control": [float(f([t["control"] for t in completed])) for f in (np.mean, np.std)]
        if completed
        else None,
        "control_retrained": float(np.mean([t["control_retrained"] for t in completed]))
        if completed
        else None,
        "not_good": dict(Counter(name for row in rows for name in row["open"])),
        "time": float(
            np.median([t["seconds"] / whole for t, whole in zip(trials, retrain, strict=True)])
        ),
    }


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown, those that pass most first."""
    versions, methods = result["versions"], result["methods"]
    first = next(iter(methods.values()))
    lines = [
        f"**{result['world']}**: {result['about']}. {first['trials']} originals × batches, "
        f"{first['judged']} judged in a row. Control accuracy of the retrained references "
        f"{first['control_retrained']:.1%}; one retrain takes {result['retrain_seconds']:.2f} s.",
        "",
        "| method | pass | fail | inconclusive | ρ: median, 5 % … 95 % | control accuracy, ± sd | "
        "time / retrain |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    ranked = sorted(methods.items(), key=lambda item: (-item[1]["pass"], item[1]["fail"]))
    lines += [row(title, one) for title, one in ranked]
    lines += [
        "",
        f"`{result['command']}` ({versions['processor']}, Python {versions['python']}, torch "
        f"{versions['torch']}).",
        "",
    ]
    return "\n".join(lines)


def row(title: str, outcome: dict[str, Any]) -> str:
    """One method's figures as a row of Markdown."""
    if not outcome["influence"]:
        return f"| {title} | diverged in all {outcome['trials']} | | | | | {outcome['time']:.2f} |"
    low, middle, high = outcome["influence"]
    mean, spread = outcome["control"]
    note = (
        f" ({outcome['diverged']} of {outcome['trials']} diverged)" if outcome["diverged"] else ""
    )
    return (
        f"| {title}{note} | {outcome['pass']} | {outcome['fail']} | {outcome['inconclusive']} | "
        f"{middle:.2f}, {low:.2f} … {high:.2f} | {mean:.1%} ± {spread:.1%} | "
        f"{outcome['time']:.2f} |"
    )


if __name__ == "__main__":
    run(main)
