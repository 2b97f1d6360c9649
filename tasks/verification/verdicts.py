"""The verdict: does a model behave on a person's records like a model that never saw them?

A pure core, arrays in, a verdict with all of its evidence out. `contrast` measures how much of the
records is left; here are the questions that are asked of it, and what follows from the answers.

Passing is an intersection-union test (Berger 1982): every gate has to reject its own bad null at
alpha, so that a false pass is at most as likely as alpha, without a correction. Failing needs some
gate's bad side, by Holm's (1979) weighted procedure. Whatever is neither is inconclusive, with what
would decide it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.common.errors import EvidenceError
from tasks.common.language import Sentence, in_a_list, in_a_row, say
from tasks.verification import contrast
from tasks.verification.contrast import Contrast, Interval
from tasks.verification.scoring import Floats, Scores

VerdictName = Literal["pass", "fail", "inconclusive"]
INFLUENCE_WEIGHT = 0.8
"""Share of alpha that Holm's procedure gives to the influence on all records; the other gates share
the rest."""


@dataclass(frozen=True)
class Rules:
    """What was fixed before the run. See `settings.Verify`."""

    alpha: float
    rho0: float
    memorised: float
    utility_margin: float
    min_references: int


@dataclass(frozen=True)
class Gate:
    """One question, asked against its bad answer and, separately, against its good one."""

    name: str
    question: Sentence
    observed: float | None
    threshold: float
    p_good: float
    """probability of such evidence for the good side if the bad side were true; < alpha: good"""
    p_bad: float
    """probability of such evidence for the bad side if the good side were true; small enough (Holm)
    means fail"""
    state: Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Finding:
    """One model judged on one request's records."""

    verdict: VerdictName
    interval: Interval
    gates: tuple[Gate, ...]

    def bad(self) -> list[Gate]:
        """The gates on their bad side."""
        return [gate for gate in self.gates if gate.state == "bad"]

    @property
    def p_pass(self) -> float:
        """p of the intersection-union test: the pass is as sure as its least sure gate."""
        return max(gate.p_good for gate in self.gates)


@dataclass(frozen=True)
class Measured:
    """How much of the records is left in one model, by both statistics."""

    whole: Contrast
    most: Contrast
    centred: bool
    """its confidence on control records is unusual, so scores are centred by them"""

    def limit(self, alpha: float) -> float | None:
        """The larger detection limit of the two, None above 1."""
        found = [
            contrast.detection_limit(
                c.detectability, len(c.with_), len(c.without), c.degrees, alpha
            )
            for c in (self.whole, self.most)
        ]
        known = [limit for limit in found if limit is not None]
        return max(known) if len(known) == len(found) else None

    def needed(self, alpha: float, rho0: float) -> int | None:
        """References of each kind that would decide it, None where no number would."""
        found = [
            contrast.references_needed(c.detectability, alpha, rho0)
            for c in (self.whole, self.most)
        ]
        known = [count for count in found if count is not None]
        return max(known) if len(known) == len(found) else None


def measure(scores: Scores, rows: NDArray[np.bool_], model: int, share: float) -> Measured:
    """Measure one model on a request's records.

    Args:
        scores: all scores of the audit.
        rows: (n,) the request's records.
        model: which model; no reference.
        share: of the records, the most memorised ones of the second statistic.

    Raises:
        EvidenceError: a class has no control record, or the references do not differ.
    """
    controls = scores.controls
    with_, without = scores.model_roles == "with", scores.model_roles == "without"
    phi = scores.phi[:, rows]
    centred, base = contrast.centre(
        phi, scores.labels[rows], scores.phi[:, controls], scores.labels[controls]
    )
    unusual = contrast.unusual_confidence(
        phi[with_], phi[without], base[with_ | without], base[model]
    )
    used = centred if unusual else phi
    whole, most = (
        contrast.contrast(used[with_], used[without], used[model], aggregate)
        for aggregate in (contrast.overall, contrast.memorised(share))
    )
    return Measured(whole, most, unusual)


def influence_gates(found: Measured, rules: Rules) -> list[Gate]:
    """Gates A (influence left), B (left on the most memorised records) and C (over-forgotten)."""
    whole, most, bound = found.whole, found.most, rules.rho0
    asked = (
        ("influence", say("Is the influence left below the margin, on all records?"), whole, bound),
        ("memorised", say("Is it below the margin on the most memorised records?"), most, bound),
        (
            "over_forgetting",
            say("Are the records not unusually wrong, as over-forgetting makes them?"),
            whole,
            -bound,
        ),
    )
    return [
        _gate(
            name,
            question,
            c.rho,
            r,
            *((c.p_below(r), c.p_above(r)) if r > 0 else (c.p_above(r), c.p_below(r))),
            rules,
        )
        for name, question, c, r in asked
    ]


def utility_gate(
    name: str, question: Sentence, accuracy: float, retrained: Floats, rules: Rules
) -> Gate:
    """Gate D: is an accuracy not lower than the retrained models' by more than the margin?

    Args:
        name: name of the gate.
        question: what it asks.
        accuracy: of the model judged, a share.
        retrained: (M,) the same accuracy of the retrained references.
        rules: alpha and the margin.
    """
    from scipy import special

    threshold = float(retrained.mean()) - rules.utility_margin
    # never below one record in a thousand: equal accuracies of all references are luck, not
    # certainty
    spread = max(float(retrained.std(ddof=1)), 1e-3) * math.sqrt(1 + 1 / len(retrained))
    t, degrees = (accuracy - threshold) / spread, len(retrained) - 1
    return _gate(
        name,
        question,
        accuracy,
        threshold,
        float(special.stdtr(degrees, -t)),
        float(special.stdtr(degrees, t)),
        rules,
    )


def _gate(
    name: str,
    question: Sentence,
    observed: float | None,
    threshold: float,
    p_good: float,
    p_bad: float,
    rules: Rules,
) -> Gate:
    return Gate(
        name,
        question,
        observed,
        threshold,
        p_good,
        p_bad,
        "good" if p_good < rules.alpha else "open",
    )


def holm(
    p_values: Sequence[float], alpha: float, weights: Sequence[float] | None = None
) -> list[bool]:
    """Which hypotheses are rejected by Holm's (1979) step-down procedure at family-wise level
    alpha.

    Args:
        p_values: one for each hypothesis.
        alpha: family-wise level.
        weights: shares of alpha (Holm's section 3); equal where not given.
    """
    share = list(weights) if weights is not None else [1.0] * len(p_values)
    rejected, left = [False] * len(p_values), sum(share)
    for index in sorted(range(len(p_values)), key=lambda i: p_values[i] / share[i]):
        if (
            not p_values[index] < alpha * share[index] / left
        ):  # so that a p that is NaN shows nothing
            break
        rejected[index] = True
        left -= share[index]
    return rejected


def conclude(gates: Sequence[Gate], span: Interval, alpha: float) -> Finding:
    """All gates good: pass. Some gate bad beyond doubt: fail. Otherwise inconclusive.

    The gates `influence` and `over_forgetting` are the two sides of one hypothesis, |rho| <= rho0:
    at most one of them can be bad, so they share one place in Holm's procedure.

    Raises:
        EvidenceError: there is no gate; nothing asked is nothing passed.
    """
    if not gates:
        raise EvidenceError("a verdict without any test was asked for")
    sides = {"influence", "over_forgetting"}
    pair = min((g for g in gates if g.name in sides), key=lambda g: g.p_bad, default=None)
    asked = [g for g in gates if g.name not in sides or g is pair]
    others = max(1, len(asked) - (pair is not None))
    weights = [INFLUENCE_WEIGHT if g is pair else (1 - INFLUENCE_WEIGHT) / others for g in asked]
    bad = [
        g.name
        for g, is_bad in zip(asked, holm([g.p_bad for g in asked], alpha, weights), strict=True)
        if is_bad
    ]
    settled = tuple(replace(g, state="bad") if g.name in bad else g for g in gates)
    if bad:
        verdict: VerdictName = "fail"
    elif all(gate.state == "good" for gate in settled):
        verdict = "pass"
    else:
        verdict = "inconclusive"
    return Finding(verdict, span, settled)


@dataclass(frozen=True)
class SelfCheck:
    """The same test on models of which the truth is known. A test that errs on them cannot pass
    anybody."""

    original: Finding
    retrained: Finding

    @property
    def original_caught(self) -> bool:
        """The model before deletion must fail."""
        return self.original.verdict == "fail"

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
    finding: Finding
    self_check: SelfCheck
    measured: Measured
    influence: dict[str, float | None]
    """residual influence of the unlearned, the original and the retrained model"""
    detection_limit: float | None
    references_needed: int | None
    rank_p: float

    def __bool__(self) -> bool:
        return self.verdict == "pass"


def judge(scores: Scores, request: str, rules: Rules) -> Verdict:
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
            pass.
    """
    rows = _rows(scores, request, rules)
    order = {
        role: int(np.flatnonzero(scores.model_roles == role)[0])
        for role in ("unlearned", "original", "retrained")
    }
    measured = {
        role: measure(scores, rows, model, rules.memorised) for role, model in order.items()
    }
    findings = {
        role: _finding(scores, measured[role], model, rules) for role, model in order.items()
    }
    check = SelfCheck(findings["original"], findings["retrained"])
    found = measured["unlearned"]
    limit, needed = found.limit(rules.alpha), found.needed(rules.alpha, rules.rho0)
    verdict, reason = settle(findings["unlearned"], check, found, limit, needed, rules)
    plain = scores.phi[:, rows].mean(axis=1)
    return Verdict(
        verdict,
        reason,
        int(rows.sum()),
        findings["unlearned"],
        check,
        found,
        {role: one.whole.rho for role, one in measured.items()},
        limit,
        needed,
        contrast.rank_p(float(plain[order["unlearned"]]), plain[scores.model_roles == "without"]),
    )


def _rows(scores: Scores, request: str, rules: Rules) -> NDArray[np.bool_]:
    """The request's records, if everything is there that a verdict needs."""
    rows = scores.rows_of(request)
    if not request or not rows.any():
        raise EvidenceError(
            say(
                "request {request} has no record in the scores; expected its forget set",
                request=request or "(empty)",
            )
        )
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
    broken = (
        ~np.isfinite(scores.phi[:, rows | scores.controls]).all(axis=1)
        if not scores.finite
        else np.array(False)
    )
    if broken.any():
        names = ", ".join(sorted(set(scores.model_roles[broken].tolist())))
        raise EvidenceError(
            say(
                "scores of the models {models} are NaN or infinite; their training diverged, "
                "train them anew",
                models=names,
            )
        )
    return rows


def _finding(scores: Scores, measured: Measured, model: int, rules: Rules) -> Finding:
    without = scores.model_roles == "without"
    gates = influence_gates(measured, rules)
    for name, group, question in (
        (
            "utility_control",
            "unseen",
            say("Is accuracy on people whom no model saw kept, within the margin?"),
        ),
        (
            "utility_retain",
            "retained",
            say("Is accuracy on retained records kept, within the margin?"),
        ),
    ):
        if group not in scores.accuracy:
            raise EvidenceError(
                say(
                    "no record to answer {gate} with; expected retained records, and people whom "
                    "no model saw",
                    gate=name,
                )
            )
        shares = scores.accuracy[group]
        gates.append(utility_gate(name, question, float(shares[model]), shares[without], rules))
    return conclude(gates, measured.whole.interval(rules.alpha), rules.alpha)


def settle(
    finding: Finding,
    check: SelfCheck,
    found: Measured,
    limit: float | None,
    needed: int | None,
    rules: Rules,
) -> tuple[VerdictName, Sentence]:
    """The verdict after the self-check, and the reason in words."""
    rho = _in_words(finding.interval)
    if finding.verdict == "fail":
        return "fail", in_a_row([*(_FAILURE[gate.name] for gate in finding.bad()), rho])
    if not check.original_caught:
        return "inconclusive", in_a_row(
            [_undetectable(found.whole.detectability, limit), _more(needed)]
        )
    if not check.retrain_cleared:
        return (
            "inconclusive",
            say(
                "The self-check failed: a model that was retrained without the records does not "
                "pass as one. "
                "Train more references and run the audit again."
            ),
        )
    if finding.verdict == "pass":
        alike = say(
            "On these records the model behaves like models that never saw them, within "
            "±{margin:g}.",
            margin=rules.rho0,
        )
        return "pass", in_a_row([alike, rho])
    doubts = in_a_list(_DOUBT[gate.name] for gate in finding.gates if gate.state == "open")
    return "inconclusive", in_a_row(
        [say("Not decided: {doubts}.", doubts=doubts), rho, _more(needed)]
    )


_FAILURE = {
    "influence": say("The records still influence the model."),
    "memorised": say("The most memorised records still influence the model."),
    "over_forgetting": say(
        "The records are over-forgotten: unusually wrong answers on them mark the person too."
    ),
    "utility_control": say(
        "The model is less accurate on people it never saw than retrained models are."
    ),
    "utility_retain": say(
        "The model is less accurate on retained records than retrained models are."
    ),
}
_DOUBT = {
    "influence": say("influence left is not shown to be below the margin"),
    "memorised": say(
        "influence left on the most memorised records is not shown to be below the margin"
    ),
    "over_forgetting": say("over-forgetting is not ruled out"),
    "utility_control": say("a loss of accuracy on people it never saw is not ruled out"),
    "utility_retain": say("a loss of accuracy on retained records is not ruled out"),
}


def _undetectable(detectability: float, limit: float | None) -> Sentence:
    return say(
        "Below the detection limit: with these references even the model before deletion cannot "
        "be told from a "
        "retrained one (detectability {detectability:.1f}, detection limit {limit}).",
        detectability=detectability,
        limit=say("none below 1") if limit is None else say("{value:.2f}", value=limit),
    )


def _in_words(span: Interval) -> Sentence:
    if span.estimate is None or span.low is None or span.high is None:
        return say("The residual influence cannot be bounded.")
    return say(
        "Residual influence {estimate:.2f}, {confidence:.0%} interval {low:.2f} to {high:.2f} "
        "(1 = never deleted, 0 = as retrained).",
        estimate=span.estimate,
        confidence=span.confidence,
        low=span.low,
        high=span.high,
    )


def _more(needed: int | None) -> Sentence:
    if needed is None:
        return say("No number of references would decide it at this margin.")
    return say(
        "About {references} references of each kind can certify a perfect retrain four times in "
        "five.",
        references=needed,
    )


def false_discovery(p_pass: Sequence[float]) -> list[float]:
    """q-values of the passes of a register (Benjamini and Hochberg 1995).

    One pass is false with a probability of at most alpha. Among many requests the share of the
    passes that are false is what matters: taking those with q < alpha for passed keeps its
    expectation below alpha, where the requests' errors are independent or depend positively, as
    they do by sharing references and the model judged (Benjamini and Yekutieli 2001).

    Args:
        p_pass: p of the intersection-union test of each request, 1 for one that could not be
            judged.

    Returns:
        One q for each.
    """
    from scipy import stats

    return [
        float(q) for q in stats.false_discovery_control(np.asarray(p_pass, np.float64), method="bh")
    ]
