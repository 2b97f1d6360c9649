"""Training as the stages do it, against the way that public unlearning code does it, on the same
cores.

All cores are for both. The public loop trains one model after the other with all threads, or a
model per core at a time, each with and without workers; the best median counts. Ours trains a model
per core at a time, or several in one step (`tasks.training.channel_stack`). The limit is what the
hardware could do: the operations of the models, at the rate of a product of large matrices of the
same precision, measured in the same round.

Accuracy is that of the models whose training was timed. Processor time is that of all processes
with their workers; on a machine with other work it is the fairer measure, since more processes take
more of the machine from others.

Example: python -m benchmarks.training --world digits --models 4
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import measure, trainers, worlds
from benchmarks.measure import Spread
from benchmarks.trainers import Crew, Done, Job
from tasks.common import files, stage_cli
from tasks.training import stacked

PUBLIC = "public"
PRECISIONS: tuple[Literal["float32"], Literal["bf16"]] = ("float32", "bf16")
AT_ONCE = stacked.IN_CHANNELS
"""Models in one step, where several are"""
OURS = {
    f"{precision}{f', {at_once} at once' if at_once > 1 else ''}": (precision, at_once)
    for precision in PRECISIONS
    for at_once in (1, AT_ONCE)
}
"""Our ways by the name of their rows: the precision that ran, and models in one step"""


def main(
    world: list[str] = ["digits"],  # noqa: B006  # an option that may be given several times
    models: int = 2,
    rounds: int = 5,
    epochs: int = 0,
    records: int = 0,
    cores: int = 0,
    bf16: bool = False,
    out: Path = measure.RESULTS,
    page: Path = measure.PAGE,
) -> None:
    """Train models of each world in each way, in turns, and put its row into the page.

    Example: python -m benchmarks.training --world digits --world faces --models 4
    """
    cores = cores or measure.machine()["cores"]
    options = {"models": models, "rounds": rounds, "epochs": epochs, "records": records}
    told = (
        "".join(f" --{name} {value}" for name, value in options.items() if value) + " --bf16" * bf16
    )
    crew = Crew(cores)
    try:
        for name in world:
            stage_cli.say(f"{name}: {worlds.load(name).about}")
            row = _measured(
                Job(name, (), epochs=epochs, records=records),
                crew,
                math.ceil(models / cores),
                rounds,
                bf16,
            )
            keep(
                "training",
                name,
                {**row, "command": f"python -m benchmarks.training --world {name}{told}"},
                out,
                page,
            )
    finally:
        crew.close()


def _measured(job: Job, crew: Crew, each: int, rounds: int, bf16: bool) -> dict[str, Any]:
    """The row of one world; `each` models are trained per core."""
    arrangements = ways(job, crew.count, each, bf16)
    work = trainers.operations(job) * each * crew.count
    for jobs in arrangements.values():
        crew.trial(jobs)  # all that is imported is now
    done: dict[str, list[Done]] = defaultdict(list)
    timed = {name: partial(_timed, crew, jobs, done[name]) for name, jobs in arrangements.items()}
    limits = {
        _limit_of(precision): partial(_limit, crew, work, precision == "bf16")
        for precision in PRECISIONS[: 1 + bf16]
    }
    found = measure.in_turns({**timed, **limits}, rounds)
    return figures(job, found, done, each * crew.count)


def _limit_of(precision: str) -> str:
    """Name of what the hardware could do in a precision."""
    return f"limit, {precision}"


def _limit(crew: Crew, work: float, half: bool) -> float:
    """Seconds of the operations alone, in bf16 or float32."""
    return work / crew.rate(crew.count, 1, half)


def ways(job: Job, cores: int, each: int, bf16: bool) -> dict[str, list[Job]]:
    """The arrangements by name, each as the jobs of its processes; all of them train `each` models
    per core."""

    def processes(count: int, **how: Any) -> list[Job]:
        share = each * cores // count
        return [
            replace(job, seeds=tuple(range(n * share, (n + 1) * share)), **how)
            for n in range(count)
        ]

    found = {
        name: processes(cores, precision=precision, at_once=at_once)
        for name, (precision, at_once) in OURS.items()
        if each % at_once == 0 and (bf16 or precision == "float32")
    }
    for count in sorted({1, cores}):
        for workers in (0, 2):
            title = f"{PUBLIC}, {count} at a time, {workers} workers"
            found[title] = processes(count, loop="public", threads=cores // count, workers=workers)
    return found


def _timed(crew: Crew, jobs: Sequence[Job], done: list[Done]) -> float:
    """Seconds until all models are trained, other ones than in the round before."""
    models = sum(len(job.seeds) for job in jobs)
    shift = len(done) // len(jobs) * models
    results = crew.do(
        [replace(job, seeds=tuple(seed + shift for seed in job.seeds)) for job in jobs]
    )
    done += results
    return max(result.seconds for result in results)


def figures(
    job: Job, found: dict[str, list[float]], done: dict[str, list[Done]], models: int
) -> dict[str, Any]:
    """What is told of one world; times are seconds for one model."""
    rivals = [name for name in found if name.startswith(PUBLIC)]
    rival = min(rivals, key=lambda name: float(np.median(found[name])))
    known = [accuracy for name in rivals for one in done[name] for accuracy in one.accuracies]
    rounds = len(found[rival])
    cpu = {
        name: np.sum(np.reshape([one.cpu for one in results], (rounds, -1)), axis=1).tolist()
        for name, results in done.items()
    }
    settings = trainers.settings_of(job)
    row: dict[str, Any] = {
        "about": worlds.load(job.world).about,
        "records": len(trainers.learned(job)),
        "epochs": settings.train.epochs,
        "models": models,
        "rival": rival,
        "seconds": {
            name: Spread.of(np.divide(values, models).tolist()).plain()
            for name, values in found.items()
        },
        "cpu_seconds": {
            name: Spread.of(np.divide(values, models).tolist()).plain()
            for name, values in cpu.items()
        },
        "accuracy_public": _mean(known),
    }
    for name, (precision, _) in OURS.items():
        if name in done:
            own = [accuracy for one in done[name] for accuracy in one.accuracies]
            row[name] = {
                "times_as_fast": measure.ratio(found[rival], found[name]).plain(),
                "times_less_processor_time": measure.ratio(cpu[rival], cpu[name]).plain(),
                "times_the_limit": measure.ratio(found[name], found[_limit_of(precision)]).plain(),
                "accuracy": _mean(own),
                "difference": difference(own, known),
            }
    return row


def _mean(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "models": len(values)}


def difference(own: Sequence[float], known: Sequence[float]) -> list[float]:
    """Difference of the mean accuracies and its 95 % interval (Welch): middle, low, high."""
    from scipy import stats

    interval = stats.ttest_ind(own, known, equal_var=False).confidence_interval(0.95)
    return [float(np.mean(own) - np.mean(known)), float(interval.low), float(interval.high)]


def keep(name: str, world: str, row: dict[str, Any], out: Path, page: Path) -> None:
    """Put a row beside those of other worlds, into the results and the page."""
    path = out / f"{name}.json"
    rows = (files.read_json(path)["worlds"] if path.exists() else {}) | {world: row}
    measure.write(
        name,
        f"python -m benchmarks.{name} --world {'|'.join(rows)}",
        {"worlds": rows},
        text(rows),
        page,
        out,
    )


def text(rows: dict[str, dict[str, Any]]) -> str:
    """The table, a row per world and precision."""
    head = [
        "data",
        "public, processor s",
        "ours, processor s",
        "times as fast",
        "in processor time",
    ]
    head += ["time / limit", "accuracy, public", "ours less public, points"]
    lines = []
    for world, row in rows.items():
        for name in OURS:
            if name not in row:
                continue
            own = row[name]
            middle, low, high = (100 * value for value in own["difference"])
            lines.append(
                [
                    f"{world}, {name}: {row['records']} records, {row['epochs']} epochs",
                    f"{row['cpu_seconds'][row['rival']]['median']:.2f}",
                    f"{row['cpu_seconds'][name]['median']:.2f}",
                    *(
                        f"{Spread(**own[key]):.1f}"
                        for key in ("times_as_fast", "times_less_processor_time", "times_the_limit")
                    ),
                    f"{row['accuracy_public']['mean']:.1%}",
                    f"{middle:+.1f} ({low:+.1f} to {high:+.1f})",
                ]
            )
    best = "; ".join(
        f"{world}: {row['rival'].removeprefix('public, ')}" for world, row in rows.items()
    )
    note = f"Seconds are for one model. The best arrangement of the public loop: {best}."
    return f"{measure.table(head, lines)}\n\n{note}"


if __name__ == "__main__":
    stage_cli.run(main)
