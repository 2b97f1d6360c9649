"""Applies the method of the settings to the original model, and writes the result."""

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
from tasks.inspection.answers import AuditRecords
from tasks.training import checkpoints, original_check, reference_blocks, training_loop
from tasks.unlearning import fcalb
from tasks.unlearning.rivals import registry

if TYPE_CHECKING:
    from torch import nn

MODEL, TRACE = "unlearned.safetensors", "trace.csv"
"""Files of the result: the model, with its cost beside it, and a row per step."""


def to_original(original: Path, audit: AuditRecords, out: Path) -> None:
    """Make the original model forget, by the method of `unlearn.method`.

    Files are written only if everything succeeds; an error leaves earlier results in place.

    Args:
        original: the model's file.
        audit: the records, with the settings of the audit or of a rung of its ladder.
        out: folder for the model, its cost and its trace.

    Raises:
        EvidenceError: there is no record to forget, or none is retained.
        ModelError: the method cannot work with the model, or the result's answers are not finite.
    """
    settings, path = audit.settings, out / MODEL
    forgotten, retained = _forgotten_and_retained(audit)
    network = checkpoints.load_original(original, settings)
    original_check.require(original, network, audit.packed, audit.roles, settings, audit.backend)
    trace: list[fcalb.TraceRow] = []
    if settings.unlearn.method == "retrain":
        cost = reference_blocks.train_model(
            audit.load(retained), settings, ("unlearn", 0), path, "retraining"
        )
    else:
        facts: dict[str, Any] = {"seconds": 0.0}
        if settings.unlearn.method != "none":
            network, trace, facts = _unlearn(network, forgotten, retained, audit)
        weights = checkpoints.save(network, path, settings.model)
        cost = cost_ledger.keep("unlearn", weights, {**facts, **audit.backend.facts()})
    files.write_json(path.with_suffix(".json"), cost)
    files.write_text(out / TRACE, _table(trace))


def _forgotten_and_retained(audit: AuditRecords) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) the forget set, and (n,) the retain set; refuses an empty one."""
    forgotten = audit.requests != ""
    retained = (audit.roles == "training") & ~forgotten
    if not forgotten.any():
        raise EvidenceError(f"{audit.forget} names no record; expected a forget set")
    if not retained.any():
        raise EvidenceError(
            "no training record is retained, expected some; train a new model instead"
        )
    _warn_of_lost_classes(set(audit.labels[forgotten]) - set(audit.labels[retained]))
    return forgotten, retained


def _unlearn(
    network: nn.Module,
    forgotten: NDArray[np.bool_],
    retained: NDArray[np.bool_],
    audit: AuditRecords,
) -> tuple[nn.Module, list[fcalb.TraceRow], dict[str, Any]]:
    """Run FCALB or a rival. Returns the model, the trace, and the facts for the cost ledger."""
    settings, method = audit.settings, audit.settings.unlearn.method
    forget_set, retain_set = audit.load(forgotten), audit.load(retained)
    stage_cli.say(f"{method}: {len(forget_set)} records to forget, {len(retain_set)} retained")
    started = time.perf_counter()
    announcer = reference_blocks.Announcer(method)
    trace: list[fcalb.TraceRow] = []
    facts: dict[str, Any] = {}
    if method in registry.METHODS:
        network = registry.unlearn(network, forget_set, retain_set, settings, announcer)
    else:
        task = fcalb.task_of(settings, audit.labels[forgotten], audit.labels[retained])
        facts = {"task": task} if method == "fcalb" else {}
        network, trace = fcalb.unlearn(
            network, forget_set, retain_set, settings, announcer, _calibration(audit)
        )
    seconds = time.perf_counter() - started
    _refuse_without_answers(network, forget_set, settings)
    stage_cli.say(f"{method}: done in {seconds:.1f} s")
    return network, trace, {"seconds": round(seconds, 3), **facts}


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


def _calibration(audit: AuditRecords) -> training_loop.Records | None:
    """The records of calibration subjects, if FCALB needs them and there are any."""
    rows = audit.roles == "calibration"
    return audit.load(rows) if audit.settings.unlearn.resets and rows.any() else None


def _table(trace: list[fcalb.TraceRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(fcalb.TraceRow))
    writer.writerows(astuple(row) for row in trace)
    return text.getvalue()
