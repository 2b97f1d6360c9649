"""Apply the method of the settings to the original model, and write the result."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.common import cost_ledger, files, stage_cli
from tasks.common.errors import EvidenceError, ModelError
from tasks.common.settings import Settings
from tasks.data import image_pack, records
from tasks.training import checkpoints, compute, original_check, reference_blocks, training_loop
from tasks.unlearning import fcalb
from tasks.unlearning.rivals import registry

if TYPE_CHECKING:
    from torch import nn

MODEL, TRACE = "unlearned.safetensors", "trace.csv"
"""Files of the result: the model, with its cost beside it, and a row per step."""


def to_original(
    original: Path, data: Path, pack: Path, split: Path, forget: Path, settings: Settings, out: Path
) -> None:
    """Make the original model forget, by the method of `unlearn.method`.

    Files are written only if everything succeeds; an error leaves earlier results in place.

    Args:
        original: the model's file.
        data: folder of the data set.
        pack: its decoded images.
        split: the role of each record.
        forget: the records to forget.
        settings: of the audit, or of a rung of its ladder.
        out: folder for the model, its cost and its trace.

    Raises:
        EvidenceError: there is no record to forget, or none is retained.
        ModelError: the method cannot work with the model, or the result's answers are not finite.
    """
    backend = compute.prepare(settings.compute)
    packed = image_pack.read(pack, data, settings.data)
    manifest = packed.manifest
    in_forget_set = records.read_forget(forget, manifest) != ""
    roles = records.read_roles(split, manifest)
    retained = (roles == "training") & ~in_forget_set
    if not in_forget_set.any():
        raise EvidenceError(f"{forget} names no record; expected a forget set")
    if not retained.any():
        raise EvidenceError(
            "no training record is retained, expected some; train a new model instead"
        )
    labels = manifest["label"].to_numpy(np.int64)
    _warn_of_lost_classes(set(labels[in_forget_set].tolist()) - set(labels[retained].tolist()))
    network = checkpoints.load_original(original, settings)
    original_check.require(original, network, packed, roles, settings, backend)
    trace: list[fcalb.TraceRow] = []
    path = out / MODEL
    if settings.unlearn.method == "none":
        cost = cost_ledger.keep(
            "unlearn",
            checkpoints.save(network, path, settings.model),
            {"seconds": 0.0, **backend.facts()},
        )
    else:
        retain_set = reference_blocks.load_rows(retained, packed, settings, backend)
        if settings.unlearn.method == "retrain":
            cost = reference_blocks.train_model(
                retain_set, settings, ("unlearn", 0), path, "retraining"
            )
        else:
            forget_set = reference_blocks.load_rows(in_forget_set, packed, settings, backend)
            stage_cli.say(
                f"{settings.unlearn.method}: {len(forget_set)} records to forget, "
                f"{len(retain_set)} retained"
            )
            started = time.perf_counter()
            announcer = reference_blocks.Announcer(settings.unlearn.method)
            facts: dict[str, Any] = {}
            if settings.unlearn.method in registry.METHODS:
                network = registry.unlearn(network, forget_set, retain_set, settings, announcer)
            else:
                task = fcalb.task_of(settings, labels[in_forget_set], labels[retained])
                facts = {"task": task} if settings.unlearn.method == "fcalb" else {}
                calibration = _calibration(roles == "calibration", packed, settings, backend)
                network, trace = fcalb.unlearn(
                    network, forget_set, retain_set, settings, announcer, calibration
                )
            seconds = time.perf_counter() - started
            _refuse_without_answers(network, forget_set, settings)
            stage_cli.say(f"{settings.unlearn.method}: done in {seconds:.1f} s")
            cost = cost_ledger.keep(
                "unlearn",
                checkpoints.save(network, path, settings.model),
                {"seconds": round(seconds, 3), **facts, **backend.facts()},
            )
    files.write_json(path.with_suffix(".json"), cost)
    files.write_text(out / TRACE, _table(trace))


def _warn_of_lost_classes(classes: set[int]) -> None:
    """Warn that a class has no retained record: methods still run, but `retrain` cannot, so there
    will be no verdict."""
    if classes:
        names = ", ".join(map(str, sorted(classes)))
        stage_cli.say(
            f"warning: no retained record is of class {names}: the model keeps an output for it "
            "that no record teaches, and the stage retrain refuses to train references without it; "
            "take the class out of the data and of data.classes, and train a new model"
        )


def _refuse_without_answers(
    network: nn.Module, forget: training_loop.Records, settings: Settings
) -> None:
    """Refuse a model whose answers are not finite, even if its weights are."""
    if not np.isfinite(training_loop.logits(network, forget)).all():
        method = settings.unlearn.method
        raise ModelError(
            f"{method}: the model's answers became NaN or infinite: the stage stops and nothing is "
            f"released; lower the learning rate ({fcalb.key(method)})"
        )


def _calibration(
    rows: NDArray[np.bool_], data: image_pack.Packed, settings: Settings, backend: compute.Backend
) -> training_loop.Records | None:
    """The records of calibration subjects, if FCALB needs them and there are any."""
    return (
        reference_blocks.load_rows(rows, data, settings, backend)
        if settings.unlearn.resets and rows.any()
        else None
    )


def _table(trace: list[fcalb.TraceRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(fcalb.TraceRow))
    writer.writerows(astuple(row) for row in trace)
    return text.getvalue()
