"""The parts of the evidence that only an audited request has: verdict, measurements, costs,
models."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.common.settings import Settings
from tasks.reporting.evidence_of_ladder import climbed
from tasks.reporting.evidence_of_test import SelfCheck
from tasks.reporting.evidence_sources import Sources, take
from tasks.unlearning import fcalb
from tasks.unlearning.rivals import recipes, registry

TRACE_POINTS = 200
OF_VERDICT = (
    *(
        "verdict",
        "reason",
        "residual_influence",
        "detectability",
        "detection_limit",
        "references_needed",
        "gates",
    ),
    *(
        "references",
        "rank_p",
        "self_check",
        "accuracy",
        "prediction_distribution",
        "influence_points",
    ),
    *("p_pass", "register", "assumptions", "attacks", "score_distribution"),
)
OF_TRACE = ("forget_loss", "recover_loss", "forget_weight", "recover_weight")
NOT_MEASURED = say("no such measurement was made in this audit")
NOT_OF_THIS_RUNG = say("features are measured on the first unlearned model, which is not this one")


def audited(
    sources: Sources, verdict: Mapping[str, Any], request_id: str, where: str
) -> dict[str, Any]:
    """The parts that only an audited request has."""
    facts = {key: take(verdict, key, where) for key in OF_VERDICT}
    kind = test_kind(facts["gates"], sources.settings)
    check = facts["self_check"] if kind == "references" else dict.fromkeys(SelfCheck.model_fields)
    batch = take(sources.verdicts, "batch", "verdicts.json")
    return {
        **facts,
        "readiness": verdict.get("readiness"),
        "status": "audited",
        "test": kind,
        "outcome": outcome(facts["verdict"], take(check, "original_caught", where)),
        "self_check": check,
        "retained_exposure": take(batch, "exposure", "verdicts.json, batch"),
        "utility_by_group": take(batch, "groups", "verdicts.json, batch"),
        "features": features(probes(sources), request_id),
        "seconds": seconds(sources.lineage, sources.reported_settings),
        "unlearn": unlearned(sources),
        "ladder": ladder(sources, request_id),
        "models": [model(entry) for entry in take(sources.lineage, "models", "lineage.json")],
    }


def ladder(sources: Sources, request_id: str) -> dict[str, Any] | None:
    """What was tried until a model passed; None where the settings know one model only."""
    rungs = sources.ladder.get("rungs", [])
    return climbed(sources.ladder, request_id) if len(rungs) > 1 else None


def test_kind(gates: Sequence[Any], chosen: Settings) -> str:
    """Which test was made: with `references`, a `screening`, or `none` where nothing could be
    asked."""
    return chosen.verify.mode if gates else "none"


def outcome(verdict: str, original_caught: bool | None) -> str:
    """The verdict, or `below_detection` where not even the unchanged original model could be told
    from a retrain."""
    return "below_detection" if verdict == "inconclusive" and original_caught is False else verdict


def probes(sources: Sources) -> Mapping[str, Any]:
    """The measurements on features, which only the model of the first rung has."""
    first = sources.reported_settings.unlearn == sources.settings.unlearn
    return sources.probes if first else {"reason": NOT_OF_THIS_RUNG}


def features(probes: Mapping[str, Any], request_id: str) -> dict[str, Any]:
    """What the features still hold of a request's records, each measure with its values or the
    reason for none.

    Raises:
        EvidenceError: the probes are of other requests.
    """
    missing = {"reason": probes.get("reason") or NOT_MEASURED}
    of_request: Mapping[str, Any] = {}
    if "requests" in probes:
        of_request = take(probes["requests"], request_id, "probes.json")
    measures = {
        "linear_probe": of_request.get("linear_probe"),
        "cka": of_request.get("cka"),
        "relearn": probes.get("relearn"),
    }
    return {name: missing if part is None else part for name, part in measures.items()}


def seconds(lineage: Mapping[str, Any], chosen: Settings) -> dict[str, Any]:
    """What training, unlearning and retraining cost, s; a checkpoint of one's own is costed by the
    reference models.

    A screening has no retrained model, and may have no reference model: then the cost is not known.
    A batch that a pool judges may have none either: then a model of the pool says what training
    anew costs.
    """
    models = take(lineage, "models", "lineage.json")
    screening = chosen.verify.mode == "screening" or chosen.references.mode == "pool"
    original, unlearned = (
        of_role(models, role)[0]["seconds"] for role in ("original", "unlearned")
    )
    if unlearned is None and chosen.unlearn.method == "none":
        unlearned = 0.0
    retrained = of_role(models, "retrained", needed=not screening)
    references = [
        entry["seconds"]
        for entry in models
        if entry["role"] == "with" and entry["seconds"] is not None
    ]
    if original is None and not references and not screening:
        raise EvidenceError(
            "lineage.json: neither the original model nor a reference model has its seconds; "
            "score again"
        )
    source = (
        "original"
        if original is not None
        else "median of the reference models"
        if references
        else "not known"
    )
    return {
        "train": statistics.median(references) if original is None and references else original,
        "unlearn": unlearned,
        "retrain": retrained[0]["seconds"] if retrained else _of_pool(lineage),
        "train_source": source,
    }


def _of_pool(lineage: Mapping[str, Any]) -> float | None:
    """What training a model of the pool took, s; None where there is no pool."""
    value = (lineage.get("pool") or {}).get("seconds")
    return None if value is None else float(value)


def of_role(
    models: Sequence[Mapping[str, Any]], role: str, needed: bool = True
) -> list[Mapping[str, Any]]:
    """The models of a role. Raises `EvidenceError` where one is needed and missing, or lacks its
    `seconds` key."""
    of_this_role = [entry for entry in models if take(entry, "role", "lineage.json") == role]
    if needed and not of_this_role:
        raise EvidenceError(f"lineage.json names no {role} model; run the stage score again")
    for entry in of_this_role:
        take(entry, "seconds", f"lineage.json, {role} model")
    return of_this_role


def model(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One model of the lineage; a path outside the workspace is cut to its name."""
    entry = {key: value for key, value in entry.items() if key != "task"}
    path = PurePath(take(entry, "path", "lineage.json"))
    outside = path.is_absolute() or ".." in path.parts
    return {**entry, "file": path.name if outside else path.as_posix()}


def unlearned(sources: Sources) -> dict[str, Any]:
    """Method, its settings, a rival's with the numbers that stood for null, and its trace."""
    chosen = sources.reported_settings
    (entry,) = of_role(take(sources.lineage, "models", "lineage.json"), "unlearned")
    task: fcalb.Task = "class" if entry.get("task") == "class" else "people"
    used = fcalb.effective_settings(chosen, task).unlearn.model_dump(mode="json")
    if chosen.unlearn.method == "fcalb":
        used["task"] = task
    if sources.trace and "reset" in sources.trace[0]:
        used["reset"] = float(sources.trace[0]["reset"])
    if chosen.unlearn.method in registry.METHODS:
        used["rivals"] |= asdict(recipes.recipe(chosen))
    return {
        "method": chosen.unlearn.method,
        "settings": used,
        "trace": trace(sources.trace),
    }


def trace(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The rows of `trace.csv` as columns, thinned evenly to at most 200 with the first and the
    last."""
    shown_rows = [rows[index] for index in thinned(len(rows))]
    try:
        return {
            "step": [int(row["step"]) for row in shown_rows],
            "phase": [row["phase"] for row in shown_rows],
            **{
                name: [
                    float(row[name]) if row[name] not in ("", "nan") else None for row in shown_rows
                ]
                for name in OF_TRACE
            },
        }
    except (KeyError, ValueError, TypeError) as error:
        raise EvidenceError(
            f"trace.csv: got a row with {error}, expected numbers in {', '.join(OF_TRACE)}"
        ) from error


def thinned(count: int, most: int = TRACE_POINTS) -> list[int]:
    """At most `most` of the indices 0 … count - 1, evenly spread, the ends among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})
