"""The verdict: does a model behave on a person's records like a model that never saw them?

A pure core: arrays in, a verdict with all of its evidence out. `contrast` measures how much of the
records is left, `gates` asks the questions, `reasons` puts the answer into words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.common.errors import EvidenceError
from tasks.common.language import Sentence, in_a_row, say
from tasks.verification import alikeness, contrast, gates, pool_evidence, reasons
from tasks.verification.gates import GateRules, JudgedModel, Measured, VerdictName
from tasks.verification.scoring import Scores

ROLES = ("unlearned", "original", "retrained")
"""The models judged: the one in question, and two whose answer is known."""

MOST_BLOCKS = 128
"""Blocks of a pool up to which more of them are proposed."""


@dataclass(frozen=True)
class SelfCheckResult:
    """The same test on two models whose answer is known. A test that errs on them passes nobody."""

    original: JudgedModel
    retrained: JudgedModel

    @property
    def original_caught(self) -> bool:
        """The model before deletion must fail, and for the influence that it holds."""
        return any(gate.name in ("influence", "memorised") for gate in self.original.bad())

    @property
    def retrain_cleared(self) -> bool:
        """A held-out retrained model must not fail."""
        return self.retrained.verdict != "fail"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one request with all of its evidence."""

    verdict: VerdictName
    reason: Sentence
    records: int
    finding: JudgedModel
    self_check: SelfCheckResult
    measured: Measured
    influence: dict[str, float | None]
    """residual influence of the unlearned, the original and the retrained model"""
    detection_limit: float | None
    references_needed: int | None
    rank_p: float
    readiness: Measured | None = None
    """by a pool: how well it can judge the person, whatever the model"""

    def __bool__(self) -> bool:
        return self.verdict == "pass"


def judge(scores: Scores, request: str, rules: GateRules) -> Verdict:
    """Judge the unlearned model on one request's records.

    Args:
        scores: all scores of the audit.
        request: id of the request, as in `scores.requests`.
        rules: what was fixed before the run.

    Returns:
        The verdict.

    Raises:
        EvidenceError: the request has no record, a score is NaN, there are too few references, a
            class has no control record, or the references do not differ. A missing piece is never a
            pass. By a pool: it does not know the records, or they are of several people.
    """
    if scores.seen is not None:
        return _judge_by_pool(scores, request, rules)
    rows = _rows(scores, request, rules)
    models = {role: int(np.flatnonzero(scores.model_roles == role)[0]) for role in ROLES}
    measured = {
        role: gates.measure(scores, rows, model, rules.memorised) for role, model in models.items()
    }
    findings = {
        role: _finding(scores, measured[role], model, rules) for role, model in models.items()
    }
    check = SelfCheckResult(findings["original"], findings["retrained"])
    findings["unlearned"] = gates.with_further_gates(
        findings["unlearned"], alikeness.likeness_gates(scores, request, rules)
    )
    verdict = after_self_check(findings["unlearned"], check)
    means = scores.phi[:, rows].mean(axis=1)
    unlearned = measured["unlearned"]
    return Verdict(
        verdict,
        _reason(verdict, findings["unlearned"], check, unlearned, rules),
        int(rows.sum()),
        findings["unlearned"],
        check,
        unlearned,
        {role: values.whole.rho for role, values in measured.items()},
        unlearned.limit(rules.alpha),
        unlearned.references_needed(rules.alpha, rules.rho0),
        contrast.rank_p(float(means[models["unlearned"]]), means[scores.model_roles == "without"]),
    )


def _judge_by_pool(scores: Scores, request: str, rules: GateRules) -> Verdict:
    """As `judge`, by the models of a pool with and without the person."""
    view = pool_evidence.for_request(scores, request, rules.min_references)
    evidence = pool_evidence.PoolEvidence(view, request, rules)
    roles = [role for role in ROLES if evidence.has(role)]
    measured = {role: evidence.measure(role) for role in roles}
    findings = {role: evidence.finding(role, measured[role]) for role in roles}
    held_out = findings.get("retrained") or evidence.held_out()
    check = SelfCheckResult(findings["original"], held_out)
    verdict = after_self_check(findings["unlearned"], check)
    unlearned = measured["unlearned"]
    sentences = [_reason(verdict, findings["unlearned"], check, unlearned, rules)]
    readiness = _power(scores, scores.rows_of(request), rules)
    if verdict == "inconclusive" and not _can_certify(readiness, rules):
        sentences.append(
            reasons.expected_from_pool(
                readiness.whole.detectability, readiness.limit(rules.alpha), rules.rho0
            )
        )
    unasked = [reasons.UNASKED_OF_POOL] if rules.views or rules.alike else []
    return Verdict(
        verdict,
        in_a_row([*sentences, evidence.description(), *unasked]),
        int(evidence.rows.sum()),
        findings["unlearned"],
        check,
        unlearned,
        {
            "retrained": held_out.interval.estimate,
            **{role: values.whole.rho for role, values in measured.items()},
        },
        unlearned.limit(rules.alpha),
        unlearned.references_needed(rules.alpha, rules.rho0),
        evidence.rank_p(),
        readiness,
    )


@dataclass(frozen=True)
class Power:
    """How well a pool could judge a deletion of somebody."""

    detectability: float
    smallest_rho0: float | None
    """margin at which a perfect retrain is certified four times in five, None above 1"""
    models_more: int | None
    """models to add until that is `rules.rho0`; None: no number within `MOST_BLOCKS` would do"""


def power(
    scores: Scores, rows: NDArray[np.bool_], rules: GateRules, folds: int, everybody: int
) -> Power:
    """How well a pool could judge a deletion, before anybody has asked for one.

    Args:
        scores: of a pool's models alone.
        rows: (n,) the person's training records.
        rules: as in a verdict.
        folds: models of a block that are trained without a fold.
        everybody: further models of a block.

    Raises:
        EvidenceError: the pool cannot judge the records.
    """
    measured = _power(scores, rows, rules)
    worst = min(measured.whole.detectability, measured.most.detectability)
    now = len(measured.whole.without)
    more = next(
        (
            (count - now) * (folds + everybody)
            for count in range(now, MOST_BLOCKS + 1)
            if _enough(worst, count, folds - 1 + everybody, rules)
        ),
        None,
    )
    return Power(measured.whole.detectability, measured.limit(rules.alpha), more)


def _power(scores: Scores, rows: NDArray[np.bool_], rules: GateRules) -> Measured:
    """How well a pool tells models with a person from models without, whoever else asked."""
    models = scores.model_roles == "pool"
    alone = replace(
        scores,
        requests=np.where(rows, "readiness", ""),
        model_roles=scores.model_roles[models],
        phi=scores.phi[models],
        predicted=scores.predicted[models],
        seen=None if scores.seen is None else scores.seen[models],
    )
    view_of_pool = pool_evidence.for_request(alone, "readiness", rules.min_references)
    return pool_evidence.PoolEvidence(view_of_pool, "readiness", rules).power()


def _can_certify(readiness: Measured, rules: GateRules) -> bool:
    """Whether a perfect retrain is certified at the margin four times in five."""
    limit = readiness.limit(rules.alpha)
    return limit is not None and limit <= rules.rho0


def _enough(detectability: float, blocks: int, others: int, rules: GateRules) -> bool:
    """Whether so many blocks, each with one model without the person, certify at the margin."""
    with_ = blocks * others
    limit = contrast.detection_limit(detectability, with_, blocks, with_ + blocks - 2, rules.alpha)
    return limit is not None and limit <= rules.rho0


def scores_for_figures(scores: Scores, request: str, rules: GateRules) -> Scores:
    """The scores for the figures beside the verdict: by a pool, each of its models counts as with
    or without the person.

    Scores without a pool, and those that a pool cannot judge, are returned as they are.
    """
    if scores.seen is None:
        return scores
    try:
        return pool_evidence.with_baseline(
            pool_evidence.for_request(scores, request, rules.min_references)
        )
    except EvidenceError:
        return scores


def after_self_check(finding: JudgedModel, check: SelfCheckResult) -> VerdictName:
    """The verdict after the self-check: a test that errs on models whose answer is known passes
    nobody."""
    holds = check.original_caught and check.retrain_cleared
    return "inconclusive" if finding.verdict == "pass" and not holds else finding.verdict


def _reason(
    verdict: VerdictName,
    finding: JudgedModel,
    check: SelfCheckResult,
    measured: Measured,
    rules: GateRules,
) -> Sentence:
    needed = measured.references_needed(rules.alpha, rules.rho0)
    if verdict == "fail":
        return reasons.failed(finding, measured, rules)
    if not check.original_caught:
        detectability, limit = measured.whole.detectability, measured.limit(rules.alpha)
        return reasons.undetectable(detectability, limit, needed, measured.references)
    if not check.retrain_cleared:
        return reasons.SELF_CHECK_FAILED
    if verdict == "pass":
        return reasons.passed(finding, rules)
    return reasons.undecided(finding, needed, measured.references)


def _rows(scores: Scores, request: str, rules: GateRules) -> NDArray[np.bool_]:
    """The request's records, if everything is there that a verdict needs."""
    rows = scores.forget_set(request)
    with_, without = scores.model_roles == "with", scores.model_roles == "without"
    if min(with_.sum(), without.sum()) < rules.min_references:
        raise EvidenceError(
            say(
                "got {with_} references with and {without} without the forget set, expected at "
                "least {least} of each; "
                "add blocks to references.with_blocks and references.without_blocks",
                with_=with_.sum(),
                without=without.sum(),
                least=rules.min_references,
            )
        )
    scores.require_finite(rows | scores.controls)
    return rows


def _finding(scores: Scores, measured: Measured, model: int, rules: GateRules) -> JudgedModel:
    """All gates of one model, and their conclusion."""
    tests = gates.influence_gates(measured, rules) + gates.utility_gates(scores, model, rules)
    return gates.conclude(tests, measured.whole.interval(rules.alpha), rules.alpha)
