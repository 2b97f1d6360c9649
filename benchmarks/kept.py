"""Run trials in parallel and keep each result as a file, so that a stopped benchmark can
continue."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.common import files, stage_cli


def each(
    trials: Sequence[Any],
    work: Callable[[Any], dict[str, Any]],
    folder: Path,
    jobs: int,
    title: str,
) -> list[dict[str, Any]]:
    """Do every trial that has no result yet, `jobs` processes at a time, and give all results in
    order.

    Args:
        trials: frozen dataclasses; paths in them do not count for what a trial is.
        work: a function of a module, given one trial; its result is kept as JSON.
        folder: where results are kept; delete it after a change of what is measured.
        jobs: processes.
        title: said with the progress.
    """
    paths = [folder / f"{name_of(trial)}.json" for trial in trials]
    missing = [
        (trial, path) for trial, path in zip(trials, paths, strict=True) if not path.exists()
    ]
    if missing:
        for done, _ in enumerate(_run(missing, work, jobs), start=1):
            if done % 20 == 0 or done == len(missing):
                stage_cli.say(
                    f"{title}: {done}/{len(missing)} done, {len(trials) - len(missing)} were there"
                )
    return [files.read_json(path) for path in paths]


def _run(
    missing: Sequence[tuple[Any, Path]], work: Callable[[Any], dict[str, Any]], jobs: int
) -> Iterator[dict[str, Any]]:
    if jobs == 1:
        for trial, path in missing:
            yield _keep(trial, path, work)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(_keep, trial, path, work) for trial, path in missing]
        for future in as_completed(waiting):
            yield future.result()


def _keep(trial: Any, path: Path, work: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    result = work(trial)
    files.write_json(path, result)
    return result


def name_of(trial: Any) -> str:
    """A name from the trial's fields: another trial has another."""
    identity = {key: value for key, value in asdict(trial).items() if not isinstance(value, Path)}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[
        :24
    ]
