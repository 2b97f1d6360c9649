"""Measure the average gap to exact retrains after forgetting a class or random records, as
published tables do.

Metrics are those of Jia et al. 2023 and of those who follow them: accuracy on the forgotten, the
retained and the test records, and a membership inference attack by confidence. The gap of a model
is the mean over the four of the absolute difference to the mean of retrained models, in points: 0
is alike, and exact retrains themselves show what chance does.

Each method runs at its published settings, and at the best of `TRIES` settings by the same gap on
an original, a forget set, retrains and test records that are in no row of the table. Time is CPU
seconds on one thread, as a share of an exact retrain in the same round.

Where a world has control records, models are also judged as the pipeline judges them: the forgotten
records as requests, by references with and without all of them. *Passes* shows what the average gap
does not ask: whether the records can still be told.

Example: python -m benchmarks.gaps --world garments-class --page docs/methods.md
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import kept, methods, verdicts, worlds
from benchmarks.study import Study, run
from benchmarks.verdicts import Job
from benchmarks.worlds import World
from tasks.common import seeds
from tasks.common.errors import EvidenceError, ModelError, WorkspaceError
from tasks.common.settings import Unlearn
from tasks.training import checkpoints, compute, training_loop
from tasks.unlearning import fcalb
from tasks.unlearning.rivals import registry
from tasks.verification import scoring
from tasks.verification.gates import GateRules

Aim = dict[str, tuple[float, float]]
"""Mean and standard deviation of each metric over retrained models"""
METRICS = {"forget": "forgotten", "retain": "retained", "test": "test", "mia": "MIA"}
"""Four shares of records, by the name that the table has for them"""
TRIES = 4
"""Settings tried of each method, its published ones first"""
ATTACKED = 1000
"""Records of each kind that the attack learns from: a support vector machine takes long on more"""


def grids(epochs: int, half: int) -> dict[str, list[dict[str, Any]]]:
    """`TRIES` settings of each method, the published ones first; `half` is half the recipe's batch
    size."""

    def rival(method: str, *settings: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"method": method}, *({"method": method, "rivals": wish} for wish in settings)]

    def anew(method: str) -> list[dict[str, Any]]:
        lengths = [
            {"method": method, "batch_size": half, "rivals": {"training_share": s}}
            for s in (0.125, 0.25, 0.5)
        ]
        return [{"method": method}, *lengths]

    joint = {"method": "fcalb_plain", "retained_share": 1.0, "learning_rate": 0.1, "epochs": 4.0}
    fixed = {"balance": "fixed", "forget_weight": 0.1}
    return {
        "fcalb": [
            {"method": "fcalb"},
            {"method": "fcalb", "reset": 0.75},
            *(
                {"method": "fcalb", "reset": way, "rivals": {"epochs": epochs / 2}}
                for way in (0.6, 0.75)
            ),
        ],
        "fcalb_plain": [
            {"method": "fcalb_plain"},
            {**joint, "taps": "all"},
            {**joint, **fixed},
            {**joint, **fixed, "learning_rate": 0.03},
        ],
        "fcalb_reset": [
            {"method": "fcalb_reset"},
            {"method": "fcalb_reset", "reset": 0.75},
            *(
                {"method": "fcalb_reset", "reset": way, "rivals": {"epochs": epochs / 2}}
                for way in (0.6, 0.75)
            ),
        ],
        "fine_tune": rival(
            "fine_tune",
            {"learning_rate": 0.1},
            {"learning_rate": 0.3},
            {"learning_rate": 0.1, "epochs": 8.0},
        ),
        "neg_grad": rival(
            "neg_grad",
            {"neg_grad_alpha": 0.9},
            {"neg_grad_alpha": 0.99, "learning_rate": 0.03, "epochs": 5.0},
            {"neg_grad_alpha": 0.95, "learning_rate": 0.03, "epochs": 5.0},
        ),
        "random_labels": rival(
            "random_labels",
            {"learning_rate": 1e-3},
            {"learning_rate": 5e-3},
            {"learning_rate": 1e-3, "epochs": 6.0},
        ),
        "bad_teacher": rival(
            "bad_teacher",
            {"learning_rate": 1e-3},
            {"learning_rate": 5e-3},
            {"learning_rate": 1e-3, "epochs": 4.0},
        ),
        "unsir": rival(
            "unsir",
            {"learning_rate": 0.005},
            {"learning_rate": 0.005, "unsir_repair_rate": 0.05, "retained_share": 1.0},
            {"unsir_repair_rate": 0.05, "retained_share": 1.0},
        ),
        "scrub": rival(
            "scrub",
            {"learning_rate": 2e-3},
            {"learning_rate": 2e-3, "epochs": 5.0, "scrub_max_epochs": 2},
            {"learning_rate": 5e-3, "epochs": 6.0},
        ),
        "ssd": rival(
            "ssd", {"ssd_alpha": 5.0}, {"ssd_alpha": 2.0}, {"ssd_alpha": 5.0, "ssd_lambda": 0.3}
        ),
        "salun": rival(
            "salun",
            {"learning_rate": 0.003},
            {"epochs": 5.0, "salun_share": 0.3},
            {"learning_rate": 0.05},
        ),
        "delete": rival(
            "delete",
            {"learning_rate": 1e-5},
            {"learning_rate": 1e-3},
            {"learning_rate": 1e-3, "epochs": 60.0},
        ),
        "amun": rival(
            "amun",
            {"learning_rate": 0.03},
            {"learning_rate": 0.1},
            {"learning_rate": 0.05, "epochs": 5.0},
        ),
        "msg": rival(
            "msg",
            {"learning_rate": 0.01},
            {"learning_rate": 0.1},
            {"learning_rate": 0.1, "msg_share": 0.6},
        ),
        "ct": rival(
            "ct",
            {"learning_rate": 0.01},
            {"learning_rate": 0.1},
            {"learning_rate": 0.1, "epochs": 6.0},
        ),
        "lotus": rival(
            "lotus",
            {"learning_rate": 1e-3},
            {"learning_rate": 1e-3, "retained_share": 1.0},
            {"learning_rate": 5e-3, "retained_share": 1.0},
        ),
        "short_retrain": anew("short_retrain"),
        "distil": anew("distil"),
    }


@dataclass(frozen=True)
class Trial:
    """One setting on one original and one forget set, measured with the unseen records of one
    role."""

    wish: dict[str, Any]
    world: str
    batch: int
    original: int
    role: str
    references: int
    first_reference: int
    """number of the first model with everybody that no trial starts from"""
    seed: int
    keep: Path


def main(study: Study, tries: int = TRIES) -> None:
    """Train, tune, unlearn, measure, write the figures of one world, and put their table into a
    page between its marks. With `--tries 1` each method runs at its published settings alone.

    What is done is kept: a run that was stopped goes on where it was.

    Example: python -m benchmarks.gaps --world garments-random --originals 3 --page docs/methods.md
    """
    world = study.given
    if len(world.batches) < 2:
        raise WorkspaceError(
            f"got {study.world}, expected a world with a forget set to tune on: "
            "garments-class, -random"
        )
    make_models(study, tuning=tries > 1)
    tuning = tuned(study, tries)
    variants: dict[str, dict[str, Any]] = {
        "exact retrain": {"method": "retrain"},
        "unchanged original": {"method": "none"},
    }
    for name, tried in tuning.items():
        variants[name] = tried[0]["wish"]
        if tries > 1:
            best = min(tried, key=lambda one: math.inf if one["gap"] is None else one["gap"])
            variants[f"{name}, tuned"] = best["wish"]
    rounds = [(batch, n) for batch in range(len(world.batches) - 1) for n in range(study.originals)]
    # a round of all methods after the other, so that their times compare
    trials = [
        (title, trial_of(study, wish, batch, n, "test"))
        for batch, n in rounds
        for title, wish in variants.items()
    ]
    results = each([one for _, one in trials], study.jobs, "methods")
    aims = [goal(study, batch, "test") for batch in range(len(world.batches) - 1)]
    outcomes: dict[str, list[tuple[dict[str, Any], Aim]]] = defaultdict(list)
    for title, trial in trials:
        outcomes[title].append((results[kept.name_of(trial)], aims[trial.batch]))
    retrain = [one["seconds"] for one, _ in outcomes["exact retrain"]]
    result = {
        "recipe": world.settings.train.model_dump(),
        "retrain_seconds": float(np.median(retrain)),
        "retrained": aims,
        "settings": variants,
        "tuning": tuning,
        "methods": {title: figures(rows, retrain) for title, rows in outcomes.items()},
    }
    study.publish("gaps", result, table, tries=tries)


def trial_of(study: Study, wish: dict[str, Any], batch: int, original: int, role: str) -> Trial:
    """One setting on one of the study's originals; references judge it where the world has
    controls."""
    references = study.references if judges(study.given) and role == "test" else 0
    first = study.originals + 1
    return Trial(
        wish, study.world, batch, original, role, references, first, study.seed, study.keep
    )


def judges(given: World) -> bool:
    """Whether the world has the control records that a verdict needs."""
    return bool((given.roles == "control").any())


def make_models(study: Study, tuning: bool = True) -> None:
    """Train the originals, one of them for tuning, the retrained models, and where the world has
    controls as many references with everybody; all that are not there yet. Without `tuning` no
    model is trained without the forget set that methods are tuned on."""
    given, seed, keep = study.given, study.seed, study.keep
    further = 1 + study.references if judges(given) else 0
    count = study.originals + 1 + further
    jobs = [Job(given.name, "with", 0, n, seed, keep) for n in range(count)]
    for batch in range(len(given.batches) if tuning else len(given.batches) - 1):
        jobs += [
            Job(given.name, "without", batch, n, seed, keep) for n in range(1 + study.references)
        ]
    verdicts.make_all([job for job in jobs if not job.path.exists()], study.jobs)


def tuned(study: Study, tries: int) -> dict[str, list[dict[str, Any]]]:
    """The tries of each method, each with the gap that it leaves on the original and the forget set
    for tuning; a single try is not tried out, and has no gap."""
    world = study.given
    grid = grids(world.settings.train.epochs, world.settings.train.batch_size // 2)
    grid = {name: wishes[:tries] for name, wishes in grid.items()}
    if tries == 1:
        return {name: [{"wish": wish, "gap": None}] for name, (wish,) in grid.items()}
    batch, role = len(world.batches) - 1, "calibration"

    def trial(unlearn: dict[str, Any]) -> Trial:
        return trial_of(study, unlearn, batch, study.originals, role)

    wishes_of_all = [wish for wishes in grid.values() for wish in wishes]
    results = each([trial(wish) for wish in wishes_of_all], study.jobs, "tuning")
    aim = goal(study, batch, role)
    return {
        name: [
            {"wish": wish, "gap": gap(results[kept.name_of(trial(wish))], aim)} for wish in wishes
        ]
        for name, wishes in grid.items()
    }


def each(trials: list[Trial], jobs: int, what: str) -> dict[str, dict[str, Any]]:
    """Results by the names of trials; a trial that occurs twice, as when tuning keeps the published
    settings, runs once."""
    by_name = {kept.name_of(one): one for one in trials}
    folder = trials[0].keep / f"gaps-{trials[0].world}-{trials[0].seed}"
    results = kept.each(list(by_name.values()), attempt, folder, jobs, f"{trials[0].world}, {what}")
    return dict(zip(by_name, results, strict=True))


def goal(study: Study, batch: int, role: str) -> Aim:
    """Mean and standard deviation of each metric over the retrained models of a forget set."""
    world = study.given
    jobs = [
        Job(world.name, "without", batch, n, study.seed, study.keep)
        for n in range(study.references)
    ]
    gaps_of_retrains = [
        metrics(phi, predicted, world, batch, role)
        for phi, predicted in zip(*verdicts.answers(jobs), strict=True)
    ]
    return {name: spread(one[name] for one in gaps_of_retrains) for name in METRICS}


def attempt(trial: Trial) -> dict[str, Any]:
    """Apply one method to one original, and measure the result."""
    world = worlds.load(trial.world)
    backend = compute.prepare(world.settings.compute)
    stream = seeds.derive(trial.seed, trial.world, "gaps", trial.batch, trial.original)
    settings = methods.settings_of(world, wish_of(trial, world), stream)
    path = Job(trial.world, "with", 0, trial.original, trial.seed, trial.keep).path
    network = checkpoints.load(path.with_suffix(".safetensors"), settings.model, settings.data)
    started = time.process_time()
    try:
        network = methods.unlearned(network, world, trial.batch, settings, backend)
    except (ModelError, EvidenceError) as error:
        return {"seconds": time.process_time() - started, "error": str(error)}
    seconds = time.process_time() - started
    logits = training_loop.logits(
        network, training_loop.Records(world.images, world.labels, settings.model, backend)
    )
    phi = scoring.margins(logits, world.labels)
    if not np.isfinite(phi).all():
        return {"seconds": seconds, "error": "diverged"}
    predicted = logits.argmax(1).astype(np.int64)
    return {
        "seconds": seconds,
        "metrics": metrics(phi, predicted, world, trial.batch, trial.role),
        "verdicts": verdicts_of(trial, world, phi, predicted),
    }


def wish_of(trial: Trial, given: World) -> Unlearn:
    """The trial's settings; LoTUS is told how well calibration records are known, or control
    records where a world has no others, unless all records of a class are forgotten."""
    wish = Unlearn.model_validate(trial.wish)
    forget = np.isin(given.subjects, given.batches[trial.batch])
    retain = (given.roles == "training") & ~forget
    if wish.method != "lotus" or not np.isin(given.labels[forget], given.labels[retain]).all():
        return wish
    path = Job(trial.world, "with", 0, trial.original, trial.seed, trial.keep).path
    with np.load(path, allow_pickle=False) as answers:
        right = answers["predicted"] == given.labels
    unseen = given.roles == "calibration"
    known = float(right[unseen if unseen.any() else given.roles == "control"].mean())
    rivals = wish.rivals.model_copy(update={"lotus_unseen_accuracy": known})
    return wish.model_copy(update={"rivals": rivals})


def verdicts_of(
    trial: Trial, given: World, phi: NDArray[np.float64], predicted: NDArray[np.int64]
) -> list[str]:
    """The pipeline's verdict on each request of the forget set; none without references.

    Args:
        trial: whose references judge: originals that no trial starts from, and retrained models.
        given: the world.
        phi: (n,) margins of the model to be judged.
        predicted: (n,) its classes.
    """
    if not trial.references:
        return []

    def job(kind: str, batch: int, number: int) -> Job:
        return Job(trial.world, kind, batch, number, trial.seed, trial.keep)

    first, numbers = trial.first_reference, range(1, trial.references + 1)
    fixed = [job("with", 0, first), job("without", trial.batch, 0)]
    fixed += [job("with", 0, first + n) for n in numbers]
    fixed += [job("without", trial.batch, n) for n in numbers]
    scores = verdicts.table_of_scores(
        given, trial.batch, (phi[None], predicted[None]), verdicts.answers(fixed), trial.references
    )
    rules = GateRules(**given.settings.verify.model_dump(exclude={"mode"})).answers_alone()
    return [row["verdict"] for row in verdicts.judged(scores, rules)]


def metrics(
    phi: NDArray[np.float64], predicted: NDArray[Any], world: World, batch: int, role: str
) -> dict[str, float]:
    """Accuracies on forgotten, retained and unseen records, and the attack's verdict on the
    forgotten ones, 0 … 1.

    Unseen records of classes that only the forget set holds are left out: no retrained model could
    know them.

    Args:
        phi: (n,) margins of all records, see `scoring.margins`.
        predicted: (n,) classes.
        world: whose records they are.
        batch: which forget set.
        role: of the unseen records, test or calibration.
    """
    from scipy.special import expit

    trained_on = world.roles == "training"
    forget = trained_on & np.isin(world.subjects, world.batches[batch])
    retain = trained_on & ~forget
    unseen = (world.roles == role) & np.isin(world.labels, world.labels[retain])
    right = predicted == world.labels
    confidence = expit(phi)
    return {
        "forget": float(right[forget].mean()),
        "retain": float(right[retain].mean()),
        "test": float(right[unseen].mean()),
        "mia": not_members(confidence[forget], confidence[retain], confidence[unseen]),
    }


def not_members(
    forgotten: NDArray[np.float64], retained: NDArray[np.float64], unseen: NDArray[np.float64]
) -> float:
    """The share of forgotten records that an attack by confidence takes for unseen ones; high is
    forgotten.

    A support vector machine (radial kernel, C = 3) learns to tell retained from unseen records, as
    many of each, by the probability of the true class: "MIA-efficacy" of Jia J. et al., "Model
    Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, with the settings of its public code;
    SalUn and others report the same.

    Args:
        forgotten: probabilities of the true class, 0 … 1; so are the others.
        retained: members to learn from; `ATTACKED` of them are drawn.
        unseen: others to learn from, likewise.
    """
    from sklearn.svm import SVC

    count = min(ATTACKED, len(retained), len(unseen))
    random = np.random.Generator(np.random.PCG64(0))  # the same records for every model
    members, others = (random.permutation(values)[:count] for values in (retained, unseen))
    attack = SVC(C=3, gamma="auto").fit(
        np.concatenate([members, others])[:, None], np.repeat([1, 0], count)
    )
    return float(1 - attack.predict(forgotten[:, None]).mean())


def gap(result: dict[str, Any], aim: Aim) -> float | None:
    """Mean absolute difference of the metrics to the retrained models' means, points; None without
    metrics."""
    if "metrics" not in result:
        return None
    return 100 * float(np.mean([abs(result["metrics"][name] - aim[name][0]) for name in METRICS]))


def figures(results: list[tuple[dict[str, Any], Aim]], retrain: list[float]) -> dict[str, Any]:
    """One method: means and spread, and its cost as a share of the retrain in the same round
    (median over rounds)."""
    good = [(one, aim) for one, aim in results if "metrics" in one]
    return {
        "trials": len(results),
        "diverged": len(results) - len(good),
        **{
            name: spread(one["metrics"][name] for one, _ in good) if good else None
            for name in METRICS
        },
        "gap": spread(away for one, aim in good if (away := gap(one, aim)) is not None)
        if good
        else None,
        "judged": sum(len(one["verdicts"]) for one, _ in good),
        "passes": sum(one["verdicts"].count("pass") for one, _ in good),
        "time": float(
            np.median(
                [one["seconds"] / whole for (one, _), whole in zip(results, retrain, strict=True)]
            )
        ),
    }


def spread(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation (of a sample; 0 of a single value)."""
    finite = np.array(list(values))
    return float(finite.mean()), float(finite.std(ddof=1)) if len(finite) > 1 else 0.0


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown, the smallest gaps first, and whether FCALB has them."""
    versions, all_of = result["versions"], result["methods"]
    trials = all_of["exact retrain"]["trials"]
    judged = max(one["judged"] for one in all_of.values())
    strict = [f"passes of {judged}"] if judged else []
    names = [f"{name}, %" for name in METRICS.values()]
    lines = [
        f"**{result['world']}**: {result['about']}. {result['recipe']['epochs']} "
        f"epochs; {trials} originals "
        f"a row, mean ± standard deviation. One retrain takes {result['retrain_seconds']:.1f} s.",
        "",
        f"| {' | '.join(['method', 'average gap, points', *names, *strict, 'time / retrain'])} |",
        f"| {' | '.join(['---'] * (3 + len(names) + len(strict)))} |",
    ]
    for title, method in sorted(all_of.items(), key=lambda item: (item[1]["gap"] or [math.inf])[0]):
        if not method["gap"]:
            lines.append(
                f"| {title} | diverged in all {method['trials']} "
                f"|{' |' * (len(names) + len(strict))} {method['time']:.2f} |"
            )
            continue
        cells = [f"{100 * method[name][0]:.1f} ± {100 * method[name][1]:.1f}" for name in METRICS]
        note = (
            f" ({method['diverged']} of {method['trials']} diverged)" if method["diverged"] else ""
        )
        if strict:
            cells.append(str(method["passes"]))
        mean, deviation = method["gap"]
        lines.append(
            f"| {title}{note} | {mean:.1f} ± {deviation:.1f} | {' | '.join(cells)} | "
            f"{method['time']:.2f} |"
        )
    lines += [
        "",
        finding(all_of),
        "",
        f"`{result['command']}` ({versions['processor']}, Python {versions['python']}, torch "
        f"{versions['torch']}, scikit-learn {versions['scikit-learn']}).",
        "",
    ]
    return "\n".join(lines)


def finding(all_of: dict[str, dict[str, Any]]) -> str:
    """Whether the best FCALB has a smaller gap than the best rival, in words; one that ever
    diverged is no best one."""
    complete = {title: one for title, one in all_of.items() if one["gap"] and not one["diverged"]}
    ours = {
        title: one
        for title, one in complete.items()
        if title.removesuffix(", tuned") in fcalb.METHODS
    }
    theirs = {
        title: one
        for title, one in complete.items()
        if title.removesuffix(", tuned") in registry.METHODS
    }
    (best, own), (rival, its) = (
        min(group.items(), key=lambda item: item[1]["gap"][0]) for group in (ours, theirs)
    )
    apart = its["gap"][0] - own["gap"][0]
    sentence = (
        f"The best FCALB, *{best}*, has a gap of {own['gap'][0]:.1f} points at {own['time']:.2f} "
        f"of a retrain's time, the best rival, *{rival}*, {its['gap'][0]:.1f} at "
        f"{its['time']:.2f}; exact retrains themselves {all_of['exact retrain']['gap'][0]:.1f}. "
    )
    if apart <= 0:
        return sentence + "FCALB is not the best here."
    if apart < own["gap"][1] + its["gap"][1]:
        return sentence + "FCALB is ahead by less than the spread of both."
    return sentence + "FCALB is ahead by more than the spread of both."


if __name__ == "__main__":
    run(main, world="garments-class", references=3)
