"""The verdicts of a batch on one model, and the figures reported beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from tasks.common.errors import EvidenceError
from tasks.common.language import Sentence, say, with_sentences
from tasks.common.settings import Verify
from tasks.verification import alikeness, multiplicity, screening, utility
from tasks.verification import verdicts as verification
from tasks.verification.attacks import examination, exposure
from tasks.verification.attacks.rows import Memory
from tasks.verification.gates import GateRules, JudgedModel
from tasks.verification.scoring import Scores
from tasks.verification.verdicts import Verdict

SCHEMA_VERSION = 3


def rules(wish: Verify, alpha: float) -> GateRules:
    """The rules that a batch is judged by, at an error rate that may be a share of `wish.alpha`."""
    return GateRules(**{**wish.model_dump(exclude={"mode"}), "alpha": alpha})


def judge(
    table: Scores, mode: str, rules: GateRules, tell: Callable[[str], None]
) -> dict[str, Any]:
    """The verdicts on the unlearned model, one for each request, as `verdicts.json` has them.

    Args:
        table: all scores of the audit.
        mode: references or screening.
        rules: what was fixed before the run.
        tell: is given a line for each request.

    Raises:
        EvidenceError: the scores hold no request's records.
    """
    requests = requests_of(table)
    memory: Memory = {}
    make = screened if mode == "screening" else judged
    verdicts = {}
    for request in requests:
        view = verification.scores_for_figures(table, request, rules)
        cache = memory if view is table else {}
        verdicts[request] = make(table, request, rules, memory) | figures_beside(
            view, request, rules, cache
        )
        tell(f"{request}: {verdicts[request]['verdict']}")
    add_register(verdicts, rules)
    content = {
        "schema_version": SCHEMA_VERSION,
        "alpha": rules.alpha,
        "rho0": rules.rho0,
        "batch": {
            "exposure": value_or_reason(lambda: exposure.measure(table, rules.alpha).as_json()),
            "groups": value_or_reason(lambda: utility.by_group(table, rules.alpha)),
            "control_loss": value_or_reason(lambda: utility.control_loss(table, rules.alpha)),
        },
        "requests": verdicts,
    }
    return with_sentences(content)


def requests_of(table: Scores) -> list[str]:
    """The requests that have records among the scores, sorted. Raises `EvidenceError` if there are
    none."""
    requests = sorted(set(table.requests.tolist()) - {""})
    if not requests:
        raise EvidenceError("the scores hold no request's records; expected a forget set")
    return requests


def judged(
    table: Scores, request: str, rules: GateRules, _memory: Memory | None = None
) -> dict[str, Any]:
    """One request's verdict. A request that cannot be judged is inconclusive, with the reason."""
    try:
        return as_json(verification.judge(table, request, rules), rules.alpha)
    except EvidenceError as error:
        return unjudged(
            table, request, rules, say("No test could be made: {why}.", why=error.args[0])
        )


def screened(
    table: Scores, request: str, rules: GateRules, memory: Memory | None = None
) -> dict[str, Any]:
    """One request's screening, which can fail and never pass."""
    try:
        result = screening.screen(table, request, rules.alpha, memory)
    except EvidenceError as error:
        return unjudged(
            table, request, rules, say("No screening could be made: {why}.", why=error.args[0])
        )
    return unjudged(table, request, rules, result.reason) | {
        "verdict": result.verdict,
        "gates": [asdict(gate) for gate in result.gates],
    }


def figures_beside(table: Scores, request: str, rules: GateRules, memory: Memory) -> dict[str, Any]:
    """The figures beside the verdict: attacks, accuracies, predictions, scores."""
    rows = table.rows_of(request)
    return {
        "attacks": value_or_reason(lambda: attacks(table, request, rules, memory)),
        "accuracy": utility.accuracies(table, rows),
        "prediction_distribution": utility.distributions(table, rows),
        "score_distribution": value_or_reason(lambda: utility.score_distribution(table, rows)),
    }


def attacks(
    table: Scores, request: str, rules: GateRules, memory: Memory
) -> list[dict[str, object]]:
    """The attacks, each with the range that the question about it has (`alikeness`), so that no
    figure is outside the range that is shown and inside the one that decides."""
    examined = examination.examine(table, request, rules.alpha, memory).attacks
    return [
        replace(attack, auc_band=alikeness.attack_range(attack, rules)).as_json()
        for attack in examined
    ]


def value_or_reason(measure: Any) -> Any:
    """The result of a measurement, or the reason that there is none."""
    try:
        return measure()
    except EvidenceError as error:
        return {"reason": error.args[0]}


def add_register(verdicts: dict[str, dict[str, Any]], rules: GateRules) -> None:
    """Add which passes hold when false discoveries among all of the batch are controlled."""
    q_values = multiplicity.false_discovery([verdict["p_pass"] for verdict in verdicts.values()])
    for verdict, q in zip(verdicts.values(), q_values, strict=True):
        verdict["register"] = {
            "q_pass": q,
            "holds": verdict["verdict"] == "pass" and q < rules.alpha,
        }


def as_json(verdict: Verdict, alpha: float) -> dict[str, Any]:
    """The verdict at the error rate `alpha` as `verdicts.json` has it."""
    whole, check = verdict.measured.whole, verdict.self_check
    measurable = whole.gap > 0
    return {
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "records": verdict.records,
        "p_pass": verdict.finding.p_pass if verdict.verdict == "pass" else 1.0,
        "residual_influence": asdict(verdict.finding.interval),
        "detectability": whole.detectability,
        "detection_limit": verdict.detection_limit,
        "references_needed": verdict.references_needed,
        "gates": [asdict(gate) for gate in verdict.finding.gates],
        "references": {"with": len(whole.with_), "without": len(whole.without)},
        "assumptions": {
            "usual_confidence": not verdict.measured.centred,
            "all": whole.assumptions,
            "memorised": verdict.measured.most.assumptions,
        },
        "rank_p": verdict.rank_p,
        "readiness": _readiness(verdict, alpha),
        "self_check": {
            "original_caught": check.original_caught,
            "retrain_cleared": check.retrain_cleared,
            "original": _short(check.original),
            "retrained": _short(check.retrained),
        },
        "influence_points": {
            **verdict.influence,
            "with": whole.influence(whole.with_).tolist() if measurable else [],
            "without": whole.influence(whole.without).tolist() if measurable else [],
        },
    }


def _readiness(verdict: Verdict, alpha: float) -> dict[str, float | None] | None:
    """How well a pool can judge the person, whatever the model; None without a pool."""
    readiness = verdict.readiness
    if readiness is None:
        return None
    detectability = readiness.whole.detectability
    return {"detectability": detectability, "smallest_rho0": readiness.limit(alpha)}


def unjudged(table: Scores, request: str, rules: GateRules, reason: Sentence) -> dict[str, Any]:
    """The entry of a request that was not tested with references."""
    nothing = {"estimate": None, "low": None, "high": None}
    return {
        "verdict": "inconclusive",
        "reason": reason,
        "records": int(table.rows_of(request).sum()),
        "p_pass": 1.0,
        "residual_influence": {**nothing, "confidence": 1 - 2 * rules.alpha},
        "detectability": None,
        "detection_limit": None,
        "references_needed": None,
        "gates": [],
        "references": {
            kind: int((table.model_roles == kind).sum()) for kind in ("with", "without")
        },
        "assumptions": None,
        "rank_p": None,
        "readiness": None,
        "self_check": {
            "original_caught": False,
            "retrain_cleared": False,
            "original": {**nothing, "verdict": "inconclusive"},
            "retrained": {**nothing, "verdict": "inconclusive"},
        },
        "influence_points": {
            "unlearned": None,
            "original": None,
            "retrained": None,
            "with": [],
            "without": [],
        },
    }


def _short(finding: JudgedModel) -> dict[str, Any]:
    span = finding.interval
    return {
        "estimate": span.estimate,
        "low": span.low,
        "high": span.high,
        "verdict": finding.verdict,
    }


def metrics(verdicts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of `dvc metrics show` and `diff`, which list them by name: how many requests
    ended how, the influence left in the model, and its accuracy beside a retrained one's."""
    names = [verdict["verdict"] for verdict in verdicts.values()]
    estimates = [v["residual_influence"]["estimate"] for v in verdicts.values()]
    influences = [value for value in estimates if value is not None]
    accuracy = next(iter(verdicts.values()))["accuracy"]
    retrained = accuracy.get("retrained", {}).get("control")
    return {
        "requests": len(verdicts),
        "requests_failed": names.count("fail"),
        "requests_inconclusive": names.count("inconclusive"),
        "requests_passed": names.count("pass"),
        "requests_passed_in_the_batch_as_a_whole": sum(
            verdict["register"]["holds"] for verdict in verdicts.values()
        ),
        "influence_left_highest": max(influences, default=None),
        "influence_left_median": float(np.median(influences)) if influences else None,
        "accuracy_on_unseen_people": accuracy["unlearned"]["control"],
        "accuracy_on_unseen_people_if_retrained": retrained,
    }


def influence_table(verdicts: dict[str, dict[str, Any]], rho0: float) -> str:
    """A CSV for `dvc plots show`: request, kind of model, residual influence with its interval, and
    the limits -`rho0` and `rho0`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("request", "model", "influence", "low", "high", "limit_low", "limit_high")
    writer.writerow(columns)
    for request, verdict in verdicts.items():
        intervals = {"unlearned": verdict["residual_influence"], **verdict["self_check"]}
        for model in ("original", "unlearned", "retrained"):
            value = verdict["influence_points"][model]
            if value is not None:
                interval = intervals.get(model) or {}
                ends = [_decimals(interval.get(end)) for end in ("low", "high")]
                writer.writerow((request, model, _decimals(value), *ends, -rho0, rho0))
    return text.getvalue()


def _decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
