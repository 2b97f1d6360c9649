"""Measure how many models to train at a time: processes and threads on the CPU, stacks there and on
CUDA.

All ways train the same models on the same hardware with the loop of the stages. On a processor a
model per core is set against one model with all threads and against all models stacked in one
process (`compute.together`). On CUDA one after the other is set against stacks. The limit is the
operations of the models at the rate of a product of large matrices, measured in the same round.

Example: python -m benchmarks.side_by_side --world digits --models 4 Example: python -m
benchmarks.side_by_side --device cuda --world cifar --model benchmarks.resnet9:build --models 64
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import measure, trainers
from benchmarks.measure import Spread
from benchmarks.trainers import Crew, Job
from tasks.common import files, stage_cli
from tasks.common.errors import WorkspaceError
from tasks.training import compute

LIMIT = "limit"


def main(
    world: str = "digits",
    model: str = "small_cnn",
    models: int = 4,
    rounds: int = 5,
    epochs: int = 0,
    records: int = 0,
    stacks: list[int] = [],  # noqa: B006  # an option that may be given several times
    cores: int = 0,
    device: Literal["cpu", "cuda"] = "cpu",
    out: Path = measure.RESULTS,
    page: Path = measure.PAGE,
) -> None:
    """Train the same models in each way, in turns, and put the rows into the page.

    `stacks` are the sizes of stacks to try; none is all models in one.

    Example: python -m benchmarks.side_by_side --world digits --models 4
    """
    cores = cores or measure.machine()["cores"]
    if models % cores or any(models % size for size in stacks):
        raise WorkspaceError(
            f"got {models} models, expected a multiple of {cores} cores and of each of the stacks"
        )
    job = Job(
        world, tuple(range(models)), model=model, epochs=epochs, records=records, device=device
    )
    arrangements = ways(job, cores, stacks or [models])
    backend = compute.prepare(trainers.settings_of(job).compute)
    work = trainers.operations(job) * models
    crew = Crew(cores if device == "cpu" else 1)
    cpu: dict[str, list[float]] = {name: [] for name in arrangements}
    try:
        for jobs in arrangements.values():
            crew.trial(jobs)
        timed = {
            name: partial(_timed, crew, jobs, cpu[name]) for name, jobs in arrangements.items()
        }
        timings = measure.in_turns(
            {**timed, LIMIT: lambda: work / crew.rate(crew.count, 1, backend.bf16, device)}, rounds
        )
    finally:
        crew.close()
    settings = trainers.settings_of(job)
    title = f"{model} on {world}, {device}"
    row = {
        "device": backend.facts()["device"],
        "records": len(trainers.learned(job)),
        "epochs": settings.train.epochs,
        "models": models,
        "seconds": {
            name: Spread.of(np.divide(values, models).tolist()).plain()
            for name, values in timings.items()
        },
        "cpu_seconds": {
            name: Spread.of(np.divide(values, models).tolist()).plain()
            for name, values in cpu.items()
        },
        "times_the_limit": {
            name: measure.ratio(timings[name], timings[LIMIT]).plain() for name in arrangements
        },
        "against_first": {
            name: measure.ratio(timings[name], timings[next(iter(arrangements))]).plain()
            for name in arrangements
        },
        "processor_time_against_first": {
            name: measure.ratio(cpu[name], cpu[next(iter(arrangements))]).plain()
            for name in arrangements
        },
    }
    path = out / "side-by-side.json"
    rows = (files.read_json(path)["rows"] if path.exists() else {}) | {title: row}
    measure.write(
        "side by side", "python -m benchmarks.side_by_side", {"rows": rows}, text(rows), page, out
    )


def ways(job: Job, cores: int, stacks: Sequence[int]) -> dict[str, list[Job]]:
    """The arrangements by name, each as the jobs of its processes; the first is the stages'
    default."""
    stacked = {
        f"{size} stacked in one process": [replace(job, at_once=size, threads=cores)]
        for size in stacks
    }
    if job.device == "cuda":
        return {"one after the other": [job], **stacked}
    share = len(job.seeds) // cores
    parts = [replace(job, seeds=job.seeds[n * share : (n + 1) * share]) for n in range(cores)]
    together = {f"one process, {cores} threads, one after the other": [replace(job, threads=cores)]}
    return {f"{cores} processes of one thread": parts, **together, **stacked}


def _timed(crew: Crew, jobs: Sequence[Job], cpu: list[float]) -> float:
    """Seconds until all models are trained."""
    results = crew.do(jobs)
    cpu.append(sum(result.cpu for result in results))
    return max(result.seconds for result in results)


def text(rows: dict[str, dict[str, Any]]) -> str:
    """The table, a row per way."""
    head = [
        "models",
        "way",
        "processor s per model",
        "time, against the first",
        "processor time, against the first",
    ]
    lines = [
        [
            f"{title}: {row['models']} models, {row['records']} records, {row['epochs']} epochs",
            name,
            f"{row['cpu_seconds'][name]['median']:.2f}",
            f"{Spread(**row['against_first'][name]):.1f}",
            f"{Spread(**row['processor_time_against_first'][name]):.1f}",
            f"{Spread(**row['times_the_limit'][name]):.1f}",
        ]
        for title, row in rows.items()
        for name in row["against_first"]
    ]
    return measure.table([*head, "time / limit"], lines)


if __name__ == "__main__":
    stage_cli.run(main)
