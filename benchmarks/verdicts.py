"""Measure the verdict's error rates: models with a known truth, judged on many requests by
independent references.

For each world and batch of people it trains references with and without them, and then models to be
judged:

    exact retrain       trained without the batch: should pass
    unchanged original  trained with everybody: has to fail
    fine-tuned          an original, trained a quarter longer on the retain set: has to fail
    last layer only     an original whose last layer is made anew on the retain set: has to fail
    gradient ascent     an original that is driven up log(1 - p) of the forget set, over-forgotten:
                        has to fail
    25 % / 50 % left in trained without the batch, but for that share of each person's records:
                        must not pass
    wrong person        trained without other people: has to fail

Every model is judged as the released one on every request of its batch. Models are kept, so that
the command goes on where it was stopped, and the table is made from what is there.

Example: python -m benchmarks.verdicts --world digits --page docs/verification.md
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import adversaries, worlds
from benchmarks.study import Study, run
from benchmarks.worlds import World
from tasks.common import seeds, stage_cli
from tasks.common.errors import EvidenceError
from tasks.common.settings import Train, Verify
from tasks.inspection import views
from tasks.training import architectures, checkpoints, compute, training_loop
from tasks.verification import alikeness, scoring, screening, verdicts
from tasks.verification.attacks import roc
from tasks.verification.gates import GateRules

if TYPE_CHECKING:
    from torch import nn

Answers = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Margins and predicted classes, (models, records) each."""
CASES = {
    "retrain": "exact retrain",
    "original": "unchanged original",
    "fine_tune": "fine-tuned on the retain set",
    "last_layer": "last layer only",
    "ascent": "gradient ascent (over-forgotten)",
    "left_25": "retrained, 25 % left in",
    "left_50": "retrained, 50 % left in",
    "wrong_person": "retrained without others",
}
EDITED = ("fine_tune", "last_layer", "ascent")
"""Cases that start from an original"""
VIEWS = Verify().views
"""Further views that are kept: those of the default"""
SHADOWS = 4
"""Models that an adversary has, which never saw the batch: the last of the fresh retrains"""
HEAD = (
    "model judged",
    "judged",
    "pass",
    "fail",
    "inconclusive",
    "share that passes, 95 % interval",
    "ρ: median, 5 % … 95 %",
    "screening fails",
)


@dataclass(frozen=True)
class Job:
    """One model to make: the `number`th of its kind, for a batch (0 for those that know of
    none)."""

    world: str
    kind: str
    batch: int
    number: int
    seed: int
    keep: Path

    @property
    def path(self) -> Path:
        """Where its answers lie."""
        return (
            self.keep / f"{self.world}-{self.seed}" / f"{self.kind}-{self.batch}-{self.number}.npz"
        )

    @property
    def weights(self) -> Path:
        """Where its weights lie, if they are kept."""
        return self.path.with_suffix(".safetensors")

    @property
    def starts_from_original(self) -> bool:
        """Whether originals have to be made before it."""
        return self.kind in EDITED or self.kind in adversaries.ADVERSARIES

    def views(self, batch: int) -> Path:
        """Where its further views of a batch's records lie."""
        return self.path.with_suffix(f".views-{batch}.npz")


def main(study: Study, fresh: int = 12, planted: int = 6) -> None:
    """Train, judge, write the figures of one world, and put their table into a page between its
    marks.

    Example: python -m benchmarks.verdicts --world digits --references 16 --page
    docs/verification.md
    """
    world = study.given
    todo = plan(world, study.references, fresh, planted, study.seed, study.keep)
    started = time.perf_counter()
    for wave in (False, True):  # those that start from an original come after the originals
        missing = [job for job in todo if not job.path.exists() and (job.kind in EDITED) == wave]
        make_all(missing, study.jobs)
    rows = judge_all(world, todo, study.references)
    figures = {
        "references": study.references,
        "rules": world.settings.verify.model_dump(),
        "models": len(todo),
        "train_seconds": round(sum(_seconds(job) for job in todo), 1),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "cases": rows,
    }
    study.publish("verdicts", figures, table, fresh=fresh, planted=planted)


def plan(
    world: World, references: int, fresh: int, planted: int, seed: int, keep: Path
) -> list[Job]:
    """All models of a world. Number 0 of `with` and `without` is for the self-check, then come the
    references."""
    jobs = [Job(world.name, "with", 0, n, seed, keep) for n in range(1 + references + fresh)]
    for batch in range(len(world.batches)):
        jobs += [
            Job(world.name, "without", batch, n, seed, keep) for n in range(1 + references + fresh)
        ]
        jobs += [Job(world.name, "left_50", batch, n, seed, keep) for n in range(fresh)]
        for kind in ("left_25", "wrong_person", *EDITED):
            jobs += [
                Job(world.name, kind, batch, n, seed, keep) for n in range(min(planted, fresh))
            ]
    return jobs


def make_all(missing: list[Job], jobs: int) -> None:
    """Make models side by side, one thread each, and say how far it is."""
    if jobs == 1:
        for job in missing:
            make(job)
        return
    if not missing:
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for position, _ in enumerate(pool.map(make, missing), 1):
            if position % 10 == 0 or position == len(missing):
                stage_cli.say(f"{missing[0].world}: {position}/{len(missing)} models made")


def make(job: Job, rows: NDArray[np.bool_] | None = None) -> None:
    """Make one model and keep its answers on every record, and its weights where an edited one
    starts from it or `benchmarks.sharpness` looks into it.

    Args:
        job: the model.
        rows: (n,) what it is trained on; None: what its kind says.
    """
    world = worlds.load(job.world)
    settings, backend = world.settings, compute.prepare(world.settings.compute)
    started = time.perf_counter()
    stream = (job.world, job.kind, job.batch, job.number)
    if job.kind in adversaries.ADVERSARIES:
        network = deceiving(job, world, backend)
    elif job.kind in EDITED:
        network = edited(job, world, backend)
    else:
        network = architectures.build(
            settings.model, settings.data, seeds.derive(job.seed, *stream, "weights")
        )
        rows = training_rows(world, job) if rows is None else rows
        training_records = training_loop.Records(
            world.images[rows], world.labels[rows], settings.model, backend
        )
        training_loop.fit(
            network, training_records, settings.train, seeds.derive(job.seed, *stream, "order")
        )
    seconds = time.perf_counter() - started
    logits = training_loop.logits(
        network, training_loop.Records(world.images, world.labels, settings.model, backend)
    )
    if job.kind in ("with", "without", "left_50"):
        checkpoints.save(network, job.weights)
    if job.kind in adversaries.ADVERSARIES:
        keep_views(job, job.batch, network)
    job.path.parent.mkdir(parents=True, exist_ok=True)
    draft = job.path.with_suffix(".draft.npz")
    phi = scoring.margins(logits, world.labels)
    np.savez(draft, phi=phi, predicted=logits.argmax(1).astype(np.int16), seconds=seconds)
    draft.replace(job.path)


def keep_views(job: Job, batch: int, network: nn.Module | None = None) -> None:
    """Keep a model's scores in each further view of a batch's records; NaN for those that no view
    is asked about.

    Args:
        job: the model.
        batch: whose records.
        network: the model itself; None: from its weights.
    """
    arrays: dict[str, Any] = {}
    if job.views(batch).exists():
        arrays = dict(np.load(job.views(batch), allow_pickle=False))
    missing = [name for name in VIEWS if name not in arrays]
    if not missing:
        return
    world = worlds.load(job.world)
    if network is None:
        network = checkpoints.load(job.weights, world.settings.model, world.settings.data)
    arrays |= in_views(network, world, batch, job.seed, missing)
    job.views(batch).parent.mkdir(parents=True, exist_ok=True)
    draft = job.path.with_suffix(f".draft-{batch}.npz")
    np.savez(draft, **arrays)
    draft.replace(job.views(batch))


def in_views(
    network: nn.Module, world: World, batch: int, seed: int, names: Sequence[str] = VIEWS
) -> dict[str, Any]:
    """A model's scores (n,) of a batch's records in each further view, NaN for those that no view
    is asked about, and the processor seconds of each view.

    Args:
        network: the model; it is left as it is.
        world: the world.
        batch: whose records.
        seed: of the study: all models of it are viewed in the same way.
        names: of the views.
    """
    settings, backend = world.settings, compute.prepare(world.settings.compute)
    requests = world.requests(batch)
    scored = (requests != "") | (world.roles == "control")
    retained = (world.roles == "training") & (requests == "")

    def records(rows: NDArray[np.bool_]) -> training_loop.Records:
        return training_loop.Records(
            world.images[rows], world.labels[rows], settings.model, backend
        )

    stream = seeds.derive(seed, world.name, batch)
    material = views.Material(
        records(scored),
        views.halves(requests[scored], stream),
        records(retained),
        settings.train,
        stream,
    )
    arrays: dict[str, Any] = {}
    for name in names:
        started = time.process_time()
        arrays[name] = np.full(len(requests), np.nan)
        arrays[name][scored] = views.score(name, network, material)
        arrays[f"{name}_seconds"] = time.process_time() - started
    return arrays


def deceiving(job: Job, world: World, backend: compute.Backend) -> nn.Module:
    """An original that an adversary has changed. The adversary's own models are no references."""
    settings = world.settings
    folder = job.path.parent

    def last(kind: str) -> list[Path]:
        paths = folder.glob(f"{kind}-*.safetensors")
        return sorted(paths, key=lambda path: int(path.stem.rpartition("-")[2]))

    shadows = [
        checkpoints.load(path, settings.model, settings.data)
        for path in last(f"without-{job.batch}")[-SHADOWS:]
    ]
    network = checkpoints.load(last("with-0")[-1 - job.number], settings.model, settings.data)
    stream = (job.world, job.kind.removesuffix("_int8"), job.batch, job.number)
    seed = seeds.derive(job.seed, *stream)
    scene = adversaries.scene_of(world, job.batch, shadows, backend, seed)
    return adversaries.make(job.kind, network, scene)


def training_rows(world: World, job: Job) -> NDArray[np.bool_]:
    """(n,) which records a model is trained on."""
    everybody = np.asarray(world.roles == "training")
    if job.kind == "with":
        return everybody
    random = np.random.Generator(
        np.random.PCG64(seeds.derive(job.seed, job.kind, job.batch, job.number, "rows"))
    )
    batch = world.batches[job.batch]
    if job.kind == "wrong_person":
        others = np.setdiff1d(world.subjects[everybody], np.concatenate(world.batches))
        batch = tuple(
            int(person)
            for person in random.choice(others, min(len(batch), len(others)), replace=False)
        )
    forgotten = np.isin(world.subjects, batch)
    if job.kind.startswith("left_"):
        share = int(job.kind.removeprefix("left_")) / 100
        for person in batch:
            own = random.permutation(np.flatnonzero(world.subjects == person))
            forgotten[own[: round(share * len(own))]] = False
    return np.asarray(everybody & ~forgotten)


def edited(job: Job, world: World, backend: compute.Backend) -> nn.Module:
    """An original that was changed after training. The originals taken are no references."""
    import torch
    from torch import nn
    from torch.nn import functional

    settings = world.settings
    originals = sorted(
        job.path.parent.glob("with-0-*.safetensors"), key=lambda p: int(p.stem.rpartition("-")[2])
    )
    network = checkpoints.load(originals[-1 - job.number], settings.model, settings.data)
    seed = seeds.derive(job.seed, job.world, job.kind, job.batch, job.number, "order")
    forget = np.isin(world.subjects, world.batches[job.batch])
    retain = (world.roles == "training") & ~forget
    retained = training_loop.Records(
        world.images[retain], world.labels[retain], settings.model, backend
    )
    longer = {"epochs": max(1, settings.train.epochs // 4), "learning_rate": 0.02}
    recipe = Train(**{**settings.train.model_dump(), **longer})
    if job.kind == "fine_tune":
        training_loop.fit(network, retained, recipe, seed)
    elif job.kind == "last_layer":
        fresh = architectures.build(settings.model, settings.data, seed)
        last = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
        network.get_submodule(last).load_state_dict(fresh.get_submodule(last).state_dict())
        for name, weight in network.named_parameters():
            weight.requires_grad_(name.startswith(last))
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.0  # the features stay as they are
        training_loop.fit(network, retained, recipe, seed)
    else:
        forgotten = training_loop.Records(
            world.images[forget], world.labels[forget], settings.model, backend
        )
        network.eval()  # batch norm stays as it is

        def away(_: int) -> torch.Tensor:
            logits = network(forgotten.floats(slice(None)))
            truth = functional.one_hot(forgotten.labels, logits.shape[1]).bool()
            others = logits.masked_fill(truth, -torch.inf).logsumexp(1)
            return functional.softplus(
                logits[truth] - others
            ).mean()  # -log(1 - p_y): bounded, unlike -log(p_y)'s rise

        for _ in range(200):  # a step at a time, until three records of four are got wrong
            training_loop.optimise([{"params": list(network.parameters())}], away, 1, 0.002, recipe)
            if (
                training_loop.logits(network, forgotten).argmax(1) == world.labels[forget]
            ).mean() < 0.25:
                break
    return network.eval()


def judge_all(world: World, todo: list[Job], references: int) -> dict[str, dict[str, Any]]:
    """Each model judged as the released one on each request of its batch; figures by case."""
    rules = GateRules(**world.settings.verify.model_dump(exclude={"mode"})).answers_alone()
    cases: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for batch in range(len(world.batches)):
        by_kind: dict[str, list[Job]] = defaultdict(list)
        for job in todo:
            if job.kind == "with" or job.batch == batch:
                by_kind[job.kind].append(job)
        yardstick = by_kind["with"][1 : 1 + references], by_kind["without"][1 : 1 + references]
        fixed = answers([by_kind["with"][0], by_kind["without"][0], *yardstick[0], *yardstick[1]])
        spare = {
            "retrain": by_kind["without"][1 + references :],
            "original": by_kind["with"][1 + references :],
        }
        for case in CASES:
            for job in spare.get(case, by_kind[case]):
                scores = table_of_scores(world, batch, answers([job]), fixed, references)
                cases[case] += [
                    {"seconds": _seconds(job), "model": f"{batch}-{job.number}", **one}
                    for one in judged(scores, rules)
                ]
        stage_cli.say(f"{world.name}: batch {batch + 1}/{len(world.batches)} judged")
    return {case: figures(rows) for case, rows in cases.items()}


def judged(scores: scoring.Scores, rules: GateRules) -> Iterator[dict[str, Any]]:
    """The verdict and the screening of one model on each request."""
    for request in sorted(set(scores.requests.tolist()) - {""}):
        verdict = verdicts.judge(scores, request, rules)

        def outside(views: tuple[Any, ...], request: str = request) -> list[str]:
            asked = replace(rules, views=views, alike=True)
            gates = alikeness.likeness_gates(scores, request, asked)
            return [gate.name for gate in gates if gate.state != "good"]

        try:
            screened = screening.screen(scores, request, rules.alpha).verdict
        except EvidenceError:
            screened = "inconclusive"
        yield {
            "verdict": verdict.verdict,
            "rho": verdict.influence["unlearned"],
            "detectability": verdict.measured.whole.detectability,
            "limit": verdict.detection_limit,
            "self_check": verdict.self_check.original_caught and verdict.self_check.retrain_cleared,
            "centred": verdict.measured.centred,
            "equal": verdict.measured.whole.equal,
            "normal": verdict.measured.whole.normal,
            "open": [gate.name for gate in verdict.finding.gates if gate.state != "good"],
            "unlike": outside(()),
            "outside": outside(tuple(scores.views)),
            "screening": screened,
        }


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One case: counts, shares with exact intervals, spread."""
    counts = Counter(row["verdict"] for row in rows)
    influence = [row["rho"] for row in rows if row["rho"] is not None]
    power = [row["detectability"] for row in rows]
    limits = [row["limit"] if row["limit"] is not None else 1.0 for row in rows]
    return {
        "judged": len(rows),
        "models": len({row["model"] for row in rows}),
        **{name: counts[name] for name in ("pass", "fail", "inconclusive")},
        "pass_interval": roc.clopper_pearson(counts["pass"], len(rows)),
        "fail_interval": roc.clopper_pearson(counts["fail"], len(rows)),
        "influence": [float(q) for q in np.quantile(influence, (0.05, 0.5, 0.95))],
        "detectability": [float(q) for q in np.quantile(power, (0, 0.5, 1))],
        "detection_limit": float(np.median(limits)),
        "self_check_held": sum(row["self_check"] for row in rows),
        "centred": sum(row["centred"] for row in rows),
        "unequal_variances": sum(not row["equal"] for row in rows),
        "not_normal": sum(not row["normal"] for row in rows),
        "not_good": dict(Counter(name for row in rows for name in row["open"])),
        "screening_fails": sum(row["screening"] == "fail" for row in rows),
        "seconds": float(np.median([row["seconds"] for row in rows])),
    }


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown, with all that is needed to get them again."""
    retrain = result["cases"]["retrain"]
    low, middle, high = retrain["detectability"]
    versions = result["versions"]
    lines = [
        f"**{result['world']}**: {result['about']}. {result['references']} + "
        f"{result['references']} references, α {result['rules']['alpha']:g}, ρ₀ "
        f"{result['rules']['rho0']:g}, accuracy margin {result['rules']['utility_margin']:g}. "
        f"Detectability d′ {middle:.1f} ({low:.1f} to {high:.1f}), median detection limit "
        f"{retrain['detection_limit']:.2f}.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"| {' | '.join(['---'] * len(HEAD))} |",
    ]
    for case, outcome in result["cases"].items():
        low, high = outcome["pass_interval"]
        lower, median, upper = outcome["influence"]
        lines.append(
            f"| {CASES[case]} | {outcome['judged']} ({outcome['models']} models) | "
            f"{outcome['pass']} | {outcome['fail']} | {outcome['inconclusive']} | {low:.1%} to "
            f"{high:.1%} | {median:.2f}, {lower:.2f} … {upper:.2f} | {outcome['screening_fails']} |"
        )
    lines += [
        "",
        f"{result['models']} models, {result['train_seconds']:.0f} s of training on one thread "
        f"each, seed and all: `{result['command']}` ({versions['processor']}, Python "
        f"{versions['python']}, torch {versions['torch']}, NumPy {versions['numpy']}, SciPy "
        f"{versions['scipy']}).",
        "",
    ]
    return "\n".join(lines)


def answers_of(networks: Sequence[nn.Module], world: World, backend: compute.Backend) -> Answers:
    """Margins and predicted classes, (models, records) each, of networks on every record."""
    records = training_loop.Records(world.images, world.labels, world.settings.model, backend)
    logits = [training_loop.logits(network, records) for network in networks]
    margins = np.stack([scoring.margins(each, world.labels) for each in logits])
    return margins, np.stack([each.argmax(1).astype(np.int64) for each in logits])


def answers(jobs: list[Job]) -> Answers:
    """Margins and predicted classes, (models, records) each, of models that were made."""
    phi, predicted = [], []
    for job in jobs:
        with np.load(job.path, allow_pickle=False) as arrays:
            phi.append(arrays["phi"])
            predicted.append(arrays["predicted"].astype(np.int64))
    return np.stack(phi), np.stack(predicted)


def _seconds(job: Job) -> float:
    with np.load(job.path, allow_pickle=False) as arrays:
        return float(arrays["seconds"])


def table_of_scores(
    world: World, batch: int, answers: Any, fixed: Any, references: int
) -> scoring.Scores:
    """The scores of one model judged, as `tasks.score` would write them."""
    roles = [
        "unlearned",
        "original",
        "retrained",
        *["with"] * references,
        *["without"] * references,
    ]
    names = list(world.attributes)
    return scoring.Scores(
        np.array(roles),
        np.concatenate([answers[0], fixed[0]]),
        np.concatenate([answers[1], fixed[1]]),
        world.labels,
        world.roles,
        world.requests(batch),
        world.subjects,
        np.array(names, np.str_),
        np.stack([world.attributes[name] for name in names], axis=1)
        if names
        else np.empty((len(world.labels), 0), "<U1"),
    )


if __name__ == "__main__":
    run(main)
