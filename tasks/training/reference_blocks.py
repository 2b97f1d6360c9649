"""Trains a block of models by one recipe, for the stages `train` and `retrain`."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks import __version__
from tasks.common import cost_ledger, files, seeds, stage_cli
from tasks.common.errors import DataError, EvidenceError
from tasks.common.settings import Settings
from tasks.data import image_pack
from tasks.training import architectures, checkpoints, compute, stacked, training_loop

if TYPE_CHECKING:
    from torch import Tensor

RECIPE = "recipe.sha256"
"""File that identifies what a folder of finished models was trained from."""


def train_block(
    kind: str,
    block: int,
    rows: NDArray[np.bool_],
    data: image_pack.Packed,
    settings: Settings,
    out: Path,
) -> None:
    """Train a block of models and write each with its cost. Models that were finished before an
    interruption are kept.

    Args:
        kind: `train` or `retrain`; it names the random streams.
        block: number of the block; it holds the seeds block·n … block·n + n - 1.
        rows: (n records,) which records of the manifest are trained on.
        data: all records.
        settings: recipe, architecture, number of seeds per block.
        out: folder for `seed-<n>.safetensors` and `seed-<n>.json`; written whole or not at all.

    Raises:
        EvidenceError: a class has no record among `rows`.
    """
    backend = compute.prepare(settings.compute)
    training_records = load_rows(rows, data, settings, backend)
    missing = sorted(set(range(settings.data.classes)) - set(training_records.labels.tolist()))
    if missing:
        raise EvidenceError(
            f"classes {', '.join(map(str, missing))} have no record to train on; expected every "
            "class of data.classes"
        )
    size = settings.references.seeds_per_block
    numbers = range(block * size, (block + 1) * size)
    build = partial(architectures.build, settings.model, settings.data, seed=0)
    at_once = stacked.count(settings.compute, size, build, training_records)
    waiting = _kept_models(out, _recipe(kind, rows, data, settings))
    for first in range(0, size, at_once):
        group = numbers[first : first + at_once]
        paths = [waiting / f"seed-{number}.safetensors" for number in group]
        title = _title(first, group, size)
        if all(path.with_suffix(".json").exists() for path in paths):
            stage_cli.say(f"{title}: kept from a run that was interrupted")
            continue
        streams = [(kind, number) for number in group]
        train_models(training_records, settings, streams, paths, title, costs_beside=True)
    with files.whole_folder(out) as draft:
        for path in sorted(waiting.glob("seed-*")):
            path.rename(draft / path.name)
    shutil.rmtree(waiting)


def _kept_models(out: Path, recipe: str) -> Path:
    """The folder beside `out` that holds a block's finished models until all are done.

    After an interruption the next run of the same recipe continues there; models of another recipe
    are removed.
    """
    waiting = out.with_name(f".{out.name}-kept")
    if not (waiting / RECIPE).exists() or (waiting / RECIPE).read_text(encoding="utf-8") != recipe:
        shutil.rmtree(waiting, ignore_errors=True)
        waiting.mkdir(parents=True)
        files.write_text(waiting / RECIPE, recipe)
    return waiting


def _recipe(kind: str, rows: NDArray[np.bool_], data: image_pack.Packed, settings: Settings) -> str:
    """SHA-256 of everything that determines a block's models: program, settings, labels, pixels,
    rows."""
    parts = settings.model_dump(mode="json", include={"seed", "data", "model", "train", "compute"})
    parts |= {"kind": kind, "size": settings.references.seeds_per_block, "tool": __version__}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for values in (rows, data.sums, data.manifest["label"].to_numpy(np.int64)):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _title(first: int, group: range, size: int) -> str:
    if len(group) == 1:
        return f"model {first + 1}/{size} (seed {group[0]})"
    return f"models {first + 1} to {first + len(group)} of {size} (seeds {group[0]} to {group[-1]})"


def train_model(
    training_records: training_loop.Records,
    settings: Settings,
    stream: tuple[str, int],
    path: Path,
    title: str,
) -> dict[str, object]:
    """Train one model and write its weights. Returns its cost from the ledger."""
    (cost,) = train_models(training_records, settings, [stream], [path], title)
    return cost


def groups_of_pool(
    counts: Sequence[int], settings: Settings, backend: compute.Backend
) -> list[list[int]]:
    """Groups of a pool's models that are trained at once: models with equally many steps, in the
    best number.

    Args:
        counts: records of each model.
        settings: recipe, architecture and `compute.together`.
        backend: where they are trained.

    Returns:
        Places of the models, each in one group.
    """
    like = architectures.build(settings.model, settings.data, seed=0)
    size = stacked.count_of_pool(settings.compute, like, backend)
    by_steps: dict[int, list[int]] = {}
    for index, count in enumerate(counts):
        by_steps.setdefault(training_loop.steps(count, settings.train), []).append(index)
    return [
        places[first : first + size]
        for places in by_steps.values()
        for first in range(0, len(places), size)
    ]


def train_models(
    training_records: training_loop.Records,
    settings: Settings,
    streams: Sequence[tuple[str, int]],
    paths: Sequence[Path],
    title: str,
    *,
    costs_beside: bool = False,
    rows: Sequence[Tensor] | None = None,
) -> list[dict[str, object]]:
    """Train models at once and write the weights of each. Returns the cost of each, its share of
    the time.

    With `rows`, numbers of records for each of several models, a model learns from these alone; all
    models have the same number of steps. With `costs_beside` the costs are written beside the
    weights, as JSON and after them: a model with a cost is finished. "done" is printed only when
    everything is written.
    """
    count = len(training_records) if rows is None else max(map(len, rows))
    stage_cli.say(f"{title}: {settings.train.epochs} epochs over {count} records")
    started = time.perf_counter()
    weights, orders = (
        [seeds.derive(settings.seed, *stream, purpose) for stream in streams]
        for purpose in ("weights", "order")
    )
    networks = [architectures.build(settings.model, settings.data, seed) for seed in weights]
    facts = training_records.backend.facts()
    if len(networks) == 1:
        training_loop.fit(
            networks[0], training_records, settings.train, orders[0], Announcer(title)
        )
    else:
        stacked.fit(networks, training_records, settings.train, orders, Announcer(title), rows)
        facts["together"] = len(networks)
    seconds = time.perf_counter() - started
    measured = {"seconds": round(seconds / len(networks), 3), **facts}
    costs = [
        cost_ledger.keep(kind, checkpoints.save(network, path, settings.model), measured)
        for (kind, _), network, path in zip(streams, networks, paths, strict=True)
    ]
    if costs_beside:
        for path, cost in zip(paths, costs, strict=True):
            files.write_json(path.with_suffix(".json"), cost)
    stage_cli.say(f"{title}: done in {seconds:.1f} s")
    return costs


def load_rows(
    rows: NDArray[np.bool_] | slice,
    data: image_pack.Packed,
    settings: Settings,
    backend: compute.Backend,
) -> training_loop.Records:
    """Some of the n records of a data set on the device, by a mask (n,) or a slice.

    Raises:
        DataError: a label is no class, or an image is not what the manifest says.
    """
    labels = data.manifest["label"].to_numpy(np.int64)[rows]
    beyond = labels[(labels < 0) | (labels >= settings.data.classes)]
    if len(beyond):
        raise DataError(
            f"manifest.csv: got label {beyond[0]}, expected 0 to {settings.data.classes - 1}; mend "
            "the manifest or set data.classes"
        )
    return training_loop.Records(data.images(rows), labels, settings.model, backend)


class Announcer:
    """Prints the progress of a long training, at most every few seconds."""

    def __init__(self, title: str, every: float = 5.0) -> None:
        self.title, self.every, self.next = title, every, time.perf_counter() + every

    def __call__(self, step: int, loss: float) -> None:
        """A step was done."""
        if time.perf_counter() >= self.next:
            self.next = time.perf_counter() + self.every
            stage_cli.say(f"{self.title}: step {step}, loss {loss:.3f}")
