"""Estimates the cost of a run, and whether it can decide, before it begins. It changes nothing.

It checks the model, times one training step on this machine, and reads from earlier audits how
detectable such requests were.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.pipeline import exact_retrain
from flows.pipeline.console import counted
from flows.workspace import dvc_graph
from tasks.common import files, settings
from tasks.common.errors import AuditError

if TYPE_CHECKING:
    from torch import nn

    from tasks.training.original_check import OriginalCheck

TIMED_STEPS = 4
"""Training steps that are timed, after one that is not."""
NEIGHBOURS = 5
"""Earlier requests, nearest in their number of records, by which a new one is judged."""
MEGABYTE = 1 << 20
BASE = ("pack", "check", "split", "train")
"""Stages that do not depend on the batch's requests, and those that only look at them."""


@dataclass(frozen=True)
class OriginalModel:
    """The original model before the run.

    Attributes:
        state: `trained` by the pipeline, `sound`, or `unusable`.
        checkpoint: its file.
        classes: of its answers, as the settings have them.
        accuracy: share of its own training records that it classifies correctly; None: unknown.
        note: what is wrong, or why something is unknown.
    """

    state: Literal["trained", "sound", "unusable"]
    checkpoint: str
    classes: int
    accuracy: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Expected:
    """The forecast of one request.

    Attributes:
        request_id: which.
        records: training records that it is about; None: unknown, or it will be set aside.
        detectability: distance of models with and without, in standard deviations, as in earlier
            requests with about as many records; None: there are none.
        decides: whether the test could tell the models of such requests apart.
        earlier: requests that this rests on.
    """

    request_id: str
    records: int | None
    detectability: float | None
    decides: Literal["likely", "unlikely", "no", "unknown"]
    earlier: int


@dataclass(frozen=True)
class RunPlan:
    """The cost of a run.

    Attributes:
        batch: its name.
        stages: those that have to run.
        model: the original model.
        models_to_train: models by stage, without those that are up to date.
        step_seconds: one training step, measured; None: nothing has to be trained.
        minutes: for training, with `jobs` at once; unlearning and scoring come on top.
        jobs: stages that run at once.
        memory_mb: of the training processes that run at once, MB.
        disk_mb: of models and decoded images, twice because DVC's cache keeps a copy, MB.
        free_mb: on the workspace's disk, MB.
        requests: one entry for each.
        ladder: what may be tried further, and what it costs at most; empty: nothing is.
        problems: what will keep the run from starting or from deciding.
    """

    batch: str
    stages: list[str]
    model: OriginalModel
    models_to_train: dict[str, int]
    step_seconds: float | None
    minutes: float
    jobs: int
    memory_mb: int
    disk_mb: int
    free_mb: int
    requests: list[Expected]
    ladder: list[str]
    problems: list[str]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @property
    def brief(self) -> list[str]:
        """The plan in a few lines."""
        count = sum(self.models_to_train.values())
        lines = []
        if count:
            models = counted(count, "model")
            lines.append(
                f"{models} to train, {_minutes(self.minutes)} on this machine, "
                f"{self.memory_mb} MB of memory, {self.disk_mb} MB of disk ({self.free_mb} free)"
            )
        decisions = [
            f"{name} {_count(self.requests, name)}" for name in ("likely", "unlikely", "no")
        ]
        unknown = _count(self.requests, "unknown")
        requests = counted(len(self.requests), "request")
        lines.append(f"{requests}; the test can decide: {', '.join(decisions)}, unknown {unknown}")
        return lines + self.ladder + [f"Problem: {problem}" for problem in self.problems]


def make(workspace: Path, batch: str | None = None, jobs: int | None = None) -> RunPlan:
    """Plan a run of a batch with the settings in `params.yaml`.

    Args:
        workspace: the workspace.
        batch: its name; None: the one in the settings.
        jobs: stages that run at once; None: one per core.

    Raises:
        AuditError: the settings or the workspace cannot be used.
    """
    current = settings.load(workspace / "params.yaml")
    wished = current.model_copy(update={"batch": batch or current.batch})
    chosen = exact_retrain.planned(workspace, wished)
    stages = _stages(workspace, current, chosen)
    counts = _models_to_train(stages, chosen)
    blocks = [name for name in stages if name.partition("@")[0] in counts]
    at_once = max(1, min(jobs or os.cpu_count() or 1, len(blocks) or 1))
    manifest, roles = _records(workspace)
    training = int((roles == "training").sum()) if manifest is not None else 0
    model, weights = _model(workspace, chosen, roles)
    seconds, memory = _timed_step(chosen) if counts else (None, 0)
    steps = _steps(training, chosen)
    problems = [f"{model.checkpoint}: {model.note}"] if model.state == "unusable" else []
    if manifest is None:
        problems.append("data/ cannot be read; `erasure-audit import --help`, `dvc checkout data`")
    problems += _too_few(chosen)
    disk = 2 * (_kept_models(counts) * weights + _pack(stages, manifest, chosen)) // MEGABYTE
    free = shutil.disk_usage(workspace).free // MEGABYTE
    if disk > free:
        problems.append(f"the run needs about {disk} MB of disk, and {free} MB are free")
    return RunPlan(
        chosen.batch,
        stages,
        model,
        counts,
        seconds,
        round(sum(counts.values()) * steps * (seconds or 0.0) / at_once / 60, 1),
        at_once,
        memory * at_once // MEGABYTE,
        disk,
        free,
        _expected(workspace, chosen, manifest, roles),
        _ladder(chosen, steps * (seconds or 0.0) / 60),
        problems,
    )


# -- what has to run ------------------------------------------------------------------------------


def _stages(workspace: Path, current: settings.Settings, chosen: settings.Settings) -> list[str]:
    """Names of the stages that have to run; a block of `retrain` that the run will add counts."""
    due = [stage.name for stage in _due(workspace, chosen.batch != current.batch)]
    present, required = (
        {f"retrain@{block}" for block in each.references.without_blocks}
        for each in (current, chosen)
    )
    remaining = [name for name in due if name not in present - required]
    return [*remaining, *sorted(required - present)]


def _due(workspace: Path, other_batch: bool) -> list[dvc_graph.Stage]:
    """The stages that have to run; for another batch than the current one, all that judge it."""
    stages, stale = dvc_graph.read(workspace), dvc_graph.stale(workspace)
    if other_batch:
        stale |= {stage.name for stage in stages if stage.name.partition("@")[0] not in BASE}
    return dvc_graph.due(stages, stale) if stale else []


def _models_to_train(stages: Collection[str], chosen: settings.Settings) -> dict[str, int]:
    counts = {
        stage: sum(name.partition("@")[0] == stage for name in stages)
        * chosen.references.seeds_per_block
        for stage in ("train", "retrain")
    }
    return {stage: count for stage, count in counts.items() if count}


def _too_few(chosen: settings.Settings) -> list[str]:
    """Reasons why the test cannot decide with these settings."""
    if chosen.verify.mode == "screening":
        return ["verify.mode is screening, which can never pass anybody"]
    if chosen.references.mode != "batch":
        return []  # `erasure-audit readiness` says whom the pool can judge
    size = chosen.references.seeds_per_block
    without = size * len(chosen.references.without_blocks) - 1  # one of them is the baseline
    if without < chosen.verify.min_references:
        return [
            f"{max(without, 0)} references without the records, expected at least "
            f"{chosen.verify.min_references} (references.without_blocks)"
        ]
    return []


def _ladder(chosen: settings.Settings, minutes: float) -> list[str]:
    """The further models that may be tried if the first one does not pass for every request.

    Args:
        chosen: the settings.
        minutes: of one training from scratch; 0: not measured.
    """
    from tasks.unlearning import ladder

    planned = ladder.planned_rungs(chosen)
    rungs = [rung for rung in planned if rung.affordable]
    beyond = [rung for rung in planned if not rung.affordable]
    lines = [
        f"Ladder: {rung.name} lies beyond ladder.budget, and what comes after it is left out; it "
        f"needs {sum(each.cost for each in [*rungs, rung]):.3g} trainings"
        for rung in beyond[:1]
    ]
    if not rungs:
        return lines
    cost = sum(rung.cost for rung in rungs)
    time = f", {_minutes(cost * minutes)}" if minutes else ""
    names = ", ".join(rung.name for rung in rungs)
    return [
        f"Ladder: at most {len(rungs)} more attempts ({names}) for {cost:.2g} trainings{time}; "
        f"each is judged at {ladder.alpha(chosen):.2g} instead of {chosen.verify.alpha:g}",
        *lines,
        *_too_few_to_share(chosen, ladder.alpha(chosen)),
    ]


def _too_few_to_share(chosen: settings.Settings, alpha: float) -> list[str]:
    """If references are not normally distributed, p is at least 1 / (their number + 1)."""
    if chosen.references.mode != "batch" or chosen.references.with_from != settings.TRAINED:
        return []
    size, references = chosen.references.seeds_per_block, chosen.references
    count = size * (len(references.with_blocks) + len(references.without_blocks)) - 2
    if 1 / (count + 1) < alpha:
        return []
    return [
        f"Ladder: with {count} references a model whose references are not normally distributed "
        f"cannot pass at {alpha:.2g}; expected {math.floor(1 / alpha)} or more"
    ]


# -- the records and the model --------------------------------------------------------------------


def _records(workspace: Path) -> tuple[Any, Any]:
    """The manifest, None if it cannot be read, and the role of each record."""
    import numpy as np

    from tasks.data import records

    try:
        manifest = records.read_manifest(workspace / "data")
    except AuditError:
        return None, np.array([])
    try:
        return manifest, records.read_roles(workspace / "artifacts" / "split.csv", manifest)
    except AuditError:  # no roles yet: at most all records are for training
        return manifest, np.full(len(manifest), "training")


def _model(workspace: Path, chosen: settings.Settings, roles: Any) -> tuple[OriginalModel, int]:
    """The original model's state, and the size of its weights in bytes."""
    from tasks.training import architectures, checkpoints, original_check

    network = architectures.build(chosen.model, chosen.data, 0)
    weights = sum(value.nbytes for value in network.state_dict().values())
    checkpoint, classes = chosen.original.checkpoint, chosen.data.classes
    if checkpoint.startswith(settings.TRAINED):
        return OriginalModel("trained", checkpoint, classes), weights
    try:
        loaded = checkpoints.load_original(workspace / checkpoint, chosen)
    except AuditError as error:
        return OriginalModel("unusable", checkpoint, classes, note=str(error)), weights
    try:
        check = _scored(workspace, chosen, loaded, roles)
    except AuditError as error:
        note = f"its accuracy is unknown until the stage pack has run ({error})"
        return OriginalModel("sound", checkpoint, classes, note=note), weights
    fault = check.fault(classes, chosen.original.accuracy)
    note = f"{fault}; {original_check.ADVICE}" if fault else ""
    state: Literal["sound", "unusable"] = "unusable" if fault else "sound"
    return OriginalModel(state, checkpoint, classes, check.training, note), weights


def _scored(
    workspace: Path, chosen: settings.Settings, network: nn.Module, roles: Any
) -> OriginalCheck:
    """The check of the original that the stages make before they train anything."""
    from tasks.data import image_pack
    from tasks.training import compute, original_check

    packed = image_pack.read(workspace / "artifacts" / "pack", workspace / "data", chosen.data)
    return original_check.measure(
        workspace / chosen.original.checkpoint,
        network,
        packed,
        roles,
        chosen,
        compute.prepare(chosen.compute),
    )


# -- what it takes --------------------------------------------------------------------------------


def _timed_step(chosen: settings.Settings) -> tuple[float, int]:
    """The time of one training step on this machine, s, and the memory of its process, bytes.

    The images are noise: their content does not change the time.
    """
    import numpy as np
    import psutil

    from tasks.training import architectures, compute, training_loop

    generator, data, size = np.random.default_rng(0), chosen.data, chosen.train.batch_size
    shape = (size, data.channels, data.image_size, data.image_size)
    records = training_loop.Records(
        generator.integers(0, 256, shape, np.uint8),
        generator.integers(0, data.classes, size),
        chosen.model,
        compute.prepare(chosen.compute),
    )
    network = architectures.build(chosen.model, data, 0)
    training_loop.fit(network, records, chosen.train.model_copy(update={"epochs": 1}), 0)
    start = time.perf_counter()
    recipe = chosen.train.model_copy(update={"epochs": TIMED_STEPS})
    training_loop.fit(network, records, recipe, 0)
    seconds = (time.perf_counter() - start) / TIMED_STEPS
    return seconds, int(psutil.Process().memory_info().rss)


def _steps(training: int, chosen: settings.Settings) -> int:
    from tasks.training import training_loop

    return training_loop.steps(training, chosen.train)


def _kept_models(counts: dict[str, int]) -> int:
    """The number of models that are written: the trained ones and the unlearned one."""
    return sum(counts.values()) + 1


def _pack(stages: Collection[str], manifest: Any, chosen: settings.Settings) -> int:
    """The size of the decoded images in bytes; 0 if this run does not decode them."""
    data = chosen.data
    size = data.channels * data.image_size**2
    return len(manifest) * size if "pack" in stages and manifest is not None else 0


# -- what it can show -----------------------------------------------------------------------------


def _expected(
    workspace: Path, chosen: settings.Settings, manifest: Any, roles: Any
) -> list[Expected]:
    """The forecast of each request of the batch."""
    earlier = _earlier(workspace, chosen.batch)
    usable = chosen.verify.mode == "references" and not _too_few(chosen)
    return [
        expected(request, records, earlier, usable)
        for request, records in _requests(workspace, chosen.batch, manifest, roles)
    ]


def expected(
    request_id: str,
    records: int | None,
    earlier: Sequence[tuple[int, float, bool]],
    usable: bool = True,
) -> Expected:
    """The forecast of a request, from earlier requests with about as many records.

    Args:
        request_id: of the request.
        records: number of its records; None: unknown.
        earlier: for each earlier request its number of records, its detectability, and whether
            the test caught the original model.
        usable: whether the settings allow a verdict at all.
    """
    if not usable or records == 0:
        return Expected(request_id, records, None, "no", 0)
    if records is None or not earlier:
        return Expected(request_id, records, None, "unknown", 0)

    def apart(case: tuple[int, float, bool]) -> float:
        return abs(math.log(max(case[0], 1) / records))

    near = sorted(earlier, key=apart)[:NEIGHBOURS]
    caught = sum(case[2] for case in near) * 2 >= len(near)
    distance = statistics.median(case[1] for case in near)
    return Expected(request_id, records, distance, "likely" if caught else "unlikely", len(near))


def _earlier(workspace: Path, batch: str) -> list[tuple[int, float, bool]]:
    """Records, detectability and self-check of the requests of other batches."""
    cases = []
    for path in sorted((workspace / "reports").glob("*/*/evidence.json")):
        evidence = files.read_json(path)
        caught = (evidence.get("self_check") or {}).get("original_caught")
        distance = evidence.get("detectability")
        records = (evidence.get("request") or {}).get("records")
        if path.parts[-3] == batch or caught is None or distance is None or records is None:
            continue
        cases.append((int(records), float(distance), bool(caught)))
    return cases


def _requests(
    workspace: Path, batch: str, manifest: Any, roles: Any
) -> list[tuple[str, int | None]]:
    """The requests of a batch with their numbers of records; 0 for those to be set aside."""
    from tasks import resolve
    from tasks.requests import directory, opendsr

    entries = opendsr.read_batch(workspace / "requests" / f"{batch}.json")
    if manifest is None:
        return [(entry.request_id, None) for entry in entries]
    identities = directory.read_directory(workspace / "data", manifest)
    resolved = resolve.decide(entries, manifest, roles, identities).register
    return [
        (str(entry["request_id"]), int(entry["records"]) if entry["status"] == "accepted" else 0)
        for entry in resolved
    ]


def _count(requests: Sequence[Expected], decides: str) -> int:
    return sum(request.decides == decides for request in requests)


def _minutes(minutes: float) -> str:
    return "less than a minute" if minutes < 1 else f"about {minutes:.0f} minutes"
