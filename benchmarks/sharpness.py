"""What makes the test sharp: the same models measured by the statistic in use and by others.

It works from the models that `benchmarks.verdicts` keeps, so it costs little: what references say
of changed copies, their logits and features are looked up once and kept, and one original is
trained for its loss trace. Each statistic takes the same references and is cross-fitted by leaving
each reference out. Detectability d' is the gap of the references over their pooled standard
deviation, for every request. Kept exact retrains, and models with half of the records left in, are
judged by gates A, B and C of each statistic.

With more references the weights of the records are known better. Where weights are the noisy part,
1 / d'^2 falls linearly with 1 / references. So d' with fewer of the same references tells what the
statistic in use would reach with endless ones.

Example: python -m benchmarks.sharpness --world digits --page docs/verification.md
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import discriminants, verdicts
from benchmarks.discriminants import Said, Statistic
from benchmarks.study import Study, run
from benchmarks.verdicts import Job
from benchmarks.worlds import World
from tasks.common import seeds, stage_cli
from tasks.common.errors import EvidenceError
from tasks.common.settings import Verify
from tasks.inspection import feature_probes, views
from tasks.training import architectures, checkpoints, compute, training_loop
from tasks.verification import contrast, scoring
from tasks.verification.scoring import Floats

NEAREST = 8
"""Control records of a class that are most similar to a record, in pixels."""
FEWEST = 6
"""Fewest references of each kind that d' is looked at with."""
DRAWS = 8
"""Random draws of fewer references."""
MOST_PLANTED = 24
"""Models of a case that are looked for."""
MARKS = 10
"""Times in a training at which the losses of the records are taken."""
KINDS = ("with", "without")
JUDGED = {"without": "exact retrain", "left_50": "half left in"}
"""Cases that the statistics judge."""


@dataclass(frozen=True)
class Batch:
    """The people who are forgotten together, and what kept models say of their records."""

    study: Study
    number: int

    @property
    def kept(self) -> bool:
        """Whether its references were made."""
        return all(job.path.exists() for kind in KINDS for job in self.references(kind))

    @cached_property
    def asked(self) -> NDArray[np.bool_]:
        """(n,) their records."""
        return np.isin(self.study.given.subjects, self.study.given.batches[self.number])

    def job(self, kind: str, number: int) -> Job:
        """One model; those trained with everybody belong to no batch."""
        study = self.study
        batch = 0 if kind == "with" else self.number
        return Job(study.world, kind, batch, number, study.seed, study.keep)

    def references(self, kind: str) -> list[Job]:
        """The references; number 0 is for the self-check."""
        return [self.job(kind, number) for number in range(1, 1 + self.study.references)]

    def planted(self, kind: str) -> list[Job]:
        """Kept models to be judged: no reference, and not the self-check's."""
        first = 0 if kind.startswith("left_") else 1 + self.study.references
        jobs = [self.job(kind, number) for number in range(first, first + MOST_PLANTED)]
        return [job for job in jobs if job.path.exists()]

    @cached_property
    def near(self) -> NDArray[np.intp]:
        """(asked, k) the control records of the class that are most similar in pixels."""
        given = self.study.given
        pixels = given.images.reshape(len(given.images), -1).astype(np.float32)
        nearest = []
        for row in np.flatnonzero(self.asked):
            same = np.flatnonzero((given.roles == "control") & (given.labels == given.labels[row]))
            distance = ((pixels[same] - pixels[row]) ** 2).sum(axis=1)
            nearest.append(same[np.argsort(distance, kind="stable")[:NEAREST]])
        return np.array(nearest)

    @cached_property
    def trace(self) -> Floats:
        """(asked,) interquartile range of each record's loss while an original is trained."""
        study = self.study
        path = study.keep / f"{study.world}-{study.seed}" / f"trace-{self.number}.npy"
        if not path.exists():
            losses = losses_in_training(study, self.asked)
            np.save(path, np.subtract(*np.quantile(losses, (0.75, 0.25), axis=0)))
        return np.asarray(np.load(path, allow_pickle=False), np.float64)

    def said(self, jobs: list[Job], person: int) -> Said:
        """What models say of one person's records."""
        given = self.study.given
        rows, controls = given.subjects == person, given.roles == "control"
        own = rows[self.asked]
        phi = verdicts.answers(jobs)[0] if jobs else np.empty((0, len(rows)))
        centred, _ = contrast.centre(
            phi[:, rows], given.labels[rows], phi[:, controls], given.labels[controls]
        )
        further = [self.further(job) for job in jobs]
        return Said(
            phi[:, rows],
            centred,
            phi[:, controls],
            phi[:, self.near[own]].mean(axis=2),
            np.tile(self.trace[own], (len(jobs), 1)),
            *(_stack([each[name][own] for each in further]) for name in FURTHER),
        )

    def further(self, job: Job) -> dict[str, Floats]:
        """What only the weights tell of the batch's records; NaN where none were kept."""
        given, path = self.study.given, job.path.with_suffix(f".further-{self.number}.npz")
        if not job.weights.exists():
            count = int(self.asked.sum())
            shapes = {"logits": (count, given.settings.data.classes)}
            return {name: np.full(shapes.get(name, (count,)), np.nan) for name in FURTHER}
        if not path.exists():
            draft = path.with_suffix(".draft.npz")
            np.savez(draft, **asked_of_weights(job, given, self.asked))  # type: ignore[arg-type]
            draft.replace(path)
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name].astype(np.float64) for name in FURTHER}


def _stack(values: list[Floats]) -> Floats:
    return np.stack(values) if values else np.empty((0, 0))


FURTHER = ("copies", "logits", "norms")
"""What only the weights tell, as in `Said`."""


def asked_of_weights(job: Job, given: World, asked: NDArray[np.bool_]) -> dict[str, Floats]:
    """Mean margins of changed copies, sorted logits and lengths of features of some records."""
    settings, backend = given.settings, compute.prepare(given.settings.compute)
    network = checkpoints.load(job.weights, settings.model, settings.data)
    labels = given.labels[asked]
    records = training_loop.Records(given.images[asked], labels, settings.model, backend)
    logits = training_loop.logits(network, records).astype(np.float64)
    logits -= logits.mean(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = np.inf  # the true class comes first
    order = np.argsort(-others, axis=1)
    copies = views.changed_copies(
        records.images, seeds.derive(job.seed, job.world, "copies") % 2**63
    )
    margins = [
        scoring.margins(training_loop.logits(network, records.with_images(images)), labels)
        for images in copies
    ]
    lengths = np.linalg.norm(feature_probes.read(network, records).astype(np.float64), axis=1)
    return {
        "copies": np.mean(margins, axis=0),
        "logits": np.take_along_axis(logits, order, axis=1),
        "norms": np.log(lengths + 1e-6),
    }


def losses_in_training(study: Study, asked: NDArray[np.bool_]) -> Floats:
    """(marks, asked) losses of the records at even times while an original is trained."""
    given = study.given
    settings, backend = given.settings, compute.prepare(given.settings.compute)
    network = architectures.build(
        settings.model, settings.data, seeds.derive(study.seed, study.world, "trace", "weights")
    )
    known, observed = (
        training_loop.Records(given.images[rows], given.labels[rows], settings.model, backend)
        for rows in (given.roles == "training", asked)
    )
    steps = training_loop.steps(len(known), settings.train)
    marks = {round(steps * mark / MARKS) for mark in range(1, MARKS + 1)}
    losses: list[Floats] = []

    def progress(step: int, _: float) -> None:
        if step in marks:
            logits = training_loop.logits(network, observed)
            losses.append(np.logaddexp(0, -scoring.margins(logits, given.labels[asked])))
            network.train()

    order = seeds.derive(study.seed, study.world, "trace", "order")
    training_loop.fit(network, known, settings.train, order, progress)
    return np.stack(losses)


@dataclass(frozen=True)
class Measured:
    """T of references and of models judged, for one request and one statistic: over all records,
    and over the most memorised ones."""

    with_: Floats
    """(2, J)"""
    without: Floats
    """(2, M)"""
    judged: Floats
    """(2, k)"""

    @property
    def detectabilities(self) -> list[float]:
        """d' of T over all records, and over the most memorised ones."""
        high, low = self.with_, self.without
        degrees = high.shape[1] - 1, low.shape[1] - 1
        squares = degrees[0] * high.var(axis=1, ddof=1) + degrees[1] * low.var(axis=1, ddof=1)
        gap = high.mean(axis=1) - low.mean(axis=1)
        return [float(d) for d in gap / np.sqrt(squares / sum(degrees))]

    def passes(self, rules: Verify) -> list[bool | None]:
        """Whether each model judged passes gates A, B and C; None where the statistic needs more of
        it than was kept."""
        passed: list[bool | None] = []
        for model in self.judged.T:
            if not np.isfinite(model).all():
                passed.append(None)
                continue
            whole, most = (
                contrast.from_statistics(high, low, float(judged))
                for high, low, judged in zip(self.with_, self.without, model, strict=True)
            )
            worst = max(
                whole.p_below(rules.rho0),
                most.p_below(rules.rho0),
                whole.p_above(-rules.rho0),
            )
            passed.append(worst < rules.alpha)
        return passed


def measure(high: Said, low: Said, judged: Said, statistic: Statistic, share: float) -> Measured:
    """Each reference by a fit without it, and the models judged by the mean over all the fits."""
    aggregates, fit = (contrast.overall, statistic.most(share)), statistic.fit
    values: tuple[list[list[float]], ...] = ([], [])
    others: list[Floats] = []
    for kind, group in enumerate((high, low)):
        for place in range(len(group)):
            rest = group.without(place)
            fitted = fit(rest, low) if kind == 0 else fit(high, rest)
            own = fitted(group.rows(slice(place, place + 1)))
            values[kind].append([float(one(own)[0]) for one in aggregates])
            others.append(np.stack([one(fitted(judged)) for one in aggregates]))
    means = np.asarray(np.mean(others, axis=0), np.float64)
    return Measured(np.array(values[0]).T, np.array(values[1]).T, means)


def main(study: Study) -> None:
    """Measure the statistics on the references of one world, and put their table into a page
    between its marks.

    Example: python -m benchmarks.sharpness --world digits --page docs/verification.md
    """
    given = study.given
    found: dict[str, list[list[float]]] = defaultdict(list)
    passes: dict[str, dict[str, list[bool | None]]] = {case: defaultdict(list) for case in JUDGED}
    fewer: dict[int, list[float]] = defaultdict(list)
    effects: list[float] = []
    for number, people in enumerate(given.batches):
        batch = Batch(study, number)
        if not batch.kept:
            continue
        for person in people:
            high, low = (batch.said(batch.references(kind), person) for kind in KINDS)
            judged = {case: batch.planted(case) for case in JUDGED}
            said = batch.said([job for jobs in judged.values() for job in jobs], person)
            for name, statistic in discriminants.STATISTICS.items():
                result = measure(high, low, said, statistic, given.settings.verify.memorised)
                found[name].append(result.detectabilities)
                passed = iter(result.passes(given.settings.verify))
                for case, jobs in judged.items():
                    passes[case][name] += [next(passed) for _ in jobs]
            for count in counts(study.references):
                fewer[count].append(by_so_many(high, low, count))
            effects.append(dependence(high, low))
        stage_cli.say(f"{given.name}: batch {number + 1}/{len(given.batches)} measured")
    if not found:
        raise EvidenceError(
            f"{study.keep} has no {study.references} references of each kind of {given.name}; "
            f"python -m benchmarks.verdicts --world {given.name} makes them"
        )
    study.publish("sharpness", figures(study, found, passes, fewer, effects), table)


def counts(references: int) -> list[int]:
    """With how many of the references d' is looked at: evenly spaced in 1 / references."""
    inverse = np.linspace(1 / FEWEST, 1 / references, 4)
    return sorted({round(1 / share) for share in inverse})


def by_so_many(high: Said, low: Said, count: int) -> float:
    """Mean d' of the statistic in use over random draws of so many references of each kind, without
    the upward bias that few references give it (Hedges 1981)."""
    random = np.random.Generator(np.random.PCG64(count))
    nobody, today = low.rows(slice(0, 0)), Statistic(discriminants.today)
    found = []
    for _ in range(DRAWS if count < min(len(high), len(low)) else 1):
        with_, without = (kind.rows(random.permutation(len(kind))[:count]) for kind in (high, low))
        found.append(measure(with_, without, nobody, today, share=1.0).detectabilities[0])
    return float(np.mean(found)) * (1 - 3 / (4 * (2 * count - 2) - 1))


def endless(fewer: dict[int, list[float]]) -> float | None:
    """d' with endless references: the median 1 / d'^2 as a line over 1 / references, at 0.

    None where the line does not end above 0.
    """
    share = np.array([1 / count for count in fewer])
    middle = np.array([float(np.median(values)) for values in fewer.values()])
    at_zero = float(np.polynomial.polynomial.polyfit(share, middle**-2, 1)[0])
    return at_zero**-0.5 if at_zero > 0 else None


def dependence(high: Said, low: Said) -> float:
    """By how much records of a person vary together: the variance of T over what it would be if the
    records varied independently."""
    fitted = discriminants.today(high, low)
    ratios = [fitted(kind) for kind in (high, low)]
    apart = np.concatenate([kind - kind.mean(axis=0) for kind in ratios])
    return float((apart.sum(axis=1) ** 2).sum() / (apart**2).sum())


def figures(
    study: Study,
    found: dict[str, list[list[float]]],
    passes: dict[str, dict[str, list[bool | None]]],
    fewer: dict[int, list[float]],
    effects: list[float],
) -> dict[str, Any]:
    """What the table shows."""
    shares = {}
    for case, by_name in passes.items():
        known = {
            name: [passed for passed in values if passed is not None]
            for name, values in by_name.items()
        }
        shares[case] = {name: [sum(judged), len(judged)] for name, judged in known.items()}
    return {
        "references": study.references,
        "requests": len(effects),
        "detectability": {
            name: [float(q) for q in np.quantile(values, (0, 0.5, 1), axis=0)[:, 0]]
            for name, values in found.items()
        },
        "memorised": {name: float(np.median(values, axis=0)[1]) for name, values in found.items()},
        "passes": shares,
        "fewer": {count: float(np.median(values)) for count, values in fewer.items()},
        "endless": endless(fewer),
        "dependence": float(np.median(effects)),
    }


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    cases = [f"{case} passes" for case in JUDGED.values()]
    head = ("statistic", "source", "d′: median (range)", "d′ of gate B", *cases)
    lines = [
        f"**{result['world']}**, {result['requests']} requests, {result['references']} references "
        "of each kind",
        "",
        f"| {' | '.join(head)} |",
        f"| {' | '.join(['---'] * len(head))} |",
    ]
    for name in (name for name in discriminants.STATISTICS if name in result["detectability"]):
        low, middle, high = result["detectability"][name]
        counted = [result["passes"][case].get(name, [0, 0]) for case in JUDGED]
        cells = [f"{passed} of {judged}" if judged else "–" for passed, judged in counted]
        source, most = discriminants.STATISTICS[name].source, result["memorised"][name]
        lines.append(
            f"| {name} | {source} | {middle:.1f} ({low:.1f} to {high:.1f}) | {most:.1f} | "
            f"{' | '.join(cells)} |"
        )
    curve = ", ".join(f"{value:.1f} with {count}" for count, value in result["fewer"].items())
    limit = result["endless"]
    end = "no end of the line above 0" if limit is None else f"about {limit:.1f}"
    lines += [
        "",
        f"Median d′ of the statistic in use by references of each kind, without the bias of few "
        f"references: {curve}; with endless ones: {end}. Variance of T over that of independent "
        f"records: {result['dependence']:.1f}.",
        "",
        f"`{result['command']}`",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
