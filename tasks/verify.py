"""Stage `verify`: one verdict with its evidence per request, from the scores alone."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tasks import files, settings, stage, verification
from tasks.errors import EvidenceError
from tasks.scoring import Scores
from tasks.verification import Finding, Rules, Verdict

SCHEMA_VERSION = 1


def main(scores: Path, params: Path, out: Path) -> None:
    """Judge the unlearned model on every request.

    Example: python -m tasks.verify --scores artifacts/score/scores.npz --params params.yaml --out artifacts/verify
    """
    wish = settings.load(params).verify
    rules = Rules(**wish.model_dump())
    table = Scores.load(scores)
    requests = sorted(set(table.requests.tolist()) - {""})
    if not requests:
        raise EvidenceError(f"{scores} holds no request's records; expected a forget set")
    verdicts = {request: judged(table, request, rules) for request in requests}
    for request, verdict in verdicts.items():
        stage.say(f"{request}: {verdict['verdict']}")
    files.write_json(
        out / "verdicts.json",
        {"schema_version": SCHEMA_VERSION, "alpha": rules.alpha, "rho0": rules.rho0, "requests": verdicts},
    )
    files.write_json(out / "metrics.json", metrics(verdicts))
    files.write_text(out / "influence.csv", influence_table(verdicts))


def judged(table: Scores, request: str, rules: Rules) -> dict[str, Any]:
    """One request's verdict; what cannot be judged is inconclusive with the reason and stops no other request."""
    try:
        return as_json(verification.judge(table, request, rules))
    except EvidenceError as error:
        return unjudged(table, request, rules, str(error))


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as `verdicts.json` has it."""
    whole, check = verdict.whole, verdict.self_check
    points = whole.influence(whole.judged) if whole.gap > 0 else np.full(3, np.nan)
    return {
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "records": verdict.records,
        "residual_influence": asdict(verdict.finding.interval),
        "detectability": whole.detectability,
        "detection_limit": verdict.detection_limit,
        "references_needed": verdict.references_needed,
        "gates": [asdict(gate) for gate in verdict.finding.gates],
        "references": {"with": len(whole.with_), "without": len(whole.without)},
        "rank_p": verdict.rank_p,
        "self_check": {
            "original_caught": check.original_caught,
            "retrain_cleared": check.retrain_cleared,
            "original": _short(check.original),
            "retrained": _short(check.retrained),
        },
        "accuracy": verdict.accuracy,
        "prediction_distribution": verdict.distribution,
        "influence_points": {
            "unlearned": _finite(points[0]),
            "original": _finite(points[1]),
            "retrained": _finite(points[2]),
            "with": whole.influence(whole.with_).tolist() if whole.gap > 0 else [],
            "without": whole.influence(whole.without).tolist() if whole.gap > 0 else [],
        },
    }


def unjudged(table: Scores, request: str, rules: Rules, reason: str) -> dict[str, Any]:
    """What is known of a request that no test could be made for."""
    nothing = {"estimate": None, "low": None, "high": None}
    rows = table.requests == request
    return {
        "verdict": "inconclusive",
        "reason": f"No test could be made: {reason}.",
        "records": int(rows.sum()),
        "residual_influence": {**nothing, "confidence": 1 - 2 * rules.alpha},
        "detectability": None,
        "detection_limit": None,
        "references_needed": None,
        "gates": [],
        "references": {kind: int((table.model_roles == kind).sum()) for kind in ("with", "without")},
        "rank_p": None,
        "self_check": {
            "original_caught": False,
            "retrain_cleared": False,
            "original": {**nothing, "verdict": "inconclusive"},
            "retrained": {**nothing, "verdict": "inconclusive"},
        },
        "accuracy": verification.accuracies(table, rows),
        "prediction_distribution": verification.distributions(table, rows),
        "influence_points": {"unlearned": None, "original": None, "retrained": None, "with": [], "without": []},
    }


def _short(finding: Finding) -> dict[str, Any]:
    span = finding.interval
    return {"estimate": span.estimate, "low": span.low, "high": span.high, "verdict": finding.verdict}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def metrics(verdicts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `dvc metrics show` shows: how many of each verdict, and the middle of the residual influences."""
    names = [verdict["verdict"] for verdict in verdicts.values()]
    found = [v["residual_influence"]["estimate"] for v in verdicts.values()]
    known = [value for value in found if value is not None]
    return {
        **{name: names.count(name) for name in ("pass", "fail", "inconclusive")},
        "median_residual_influence": float(np.median(known)) if known else None,
        "control_accuracy": next(iter(verdicts.values()))["accuracy"]["unlearned"]["control"],
    }


def influence_table(verdicts: dict[str, dict[str, Any]]) -> str:
    """A CSV for `dvc plots show`: request, kind of model, residual influence."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("request", "model", "influence"))
    for request, verdict in verdicts.items():
        for model in ("original", "unlearned", "retrained"):
            value = verdict["influence_points"][model]
            if value is not None:
                writer.writerow((request, model, f"{value:.4f}"))
    return text.getvalue()


if __name__ == "__main__":
    stage.run(main)
