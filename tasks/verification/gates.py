"""The gates of the verdict: each is a question, tested against its bad answer and, separately,
against its good one.

Passing is an intersection-union test (Berger 1982): every gate has to reject its own bad null at
alpha, so a false pass has a probability of at most alpha, without a correction. Failing needs some
gate's bad side, by Holm's (1979) weighted procedure. Everything else is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.common.errors import EvidenceError
from tasks.common.language import Sentence, say
from tasks.verification import contrast
from tasks.verification.contrast import Contrast, InfluenceInterval
from tasks.verification.multiplicity import holm
from tasks.verification.scoring import Floats, Scores

VerdictName = Literal["pass", "fail", "inconclusive"]
INFLUENCE_WEIGHT = 0.8
"""Share of alpha that Holm's procedure gives to the influence on all records; the other gates share
the rest."""


@dataclass(frozen=True)
class GateRules:
    """Limits and error rate, fixed before the run. See `settings.Verify`."""

    alpha: float
    rho0: float
    memorised: float
    utility_margin: float
    min_references: int
    views: tuple[str, ...] = ()
    """further views in which a pass needs no more influence than retrained models show, see
    `alikeness`"""
    alike: bool = False
    """whether a pass needs all figures in the range of retrained models, see `alikeness`"""
    unlike: float = 0.05
    """probability that an exact retrain is outside the range in some view or figure"""
    alike_resolution: float = 0.01
    """shares closer to the retrained models' mean than this are alike"""

    def answers_alone(self) -> GateRules:
        """The same rules without further views and without figures."""
        return replace(self, views=(), alike=False)


@dataclass(frozen=True)
class GateTest:
    """One question, tested against its bad answer and, separately, against its good one."""

    name: str
    question: Sentence
    observed: float | None
    threshold: float
    p_good: float | None
    """probability of such evidence for the good side if the bad side were true; < alpha: good. None
    where good is not shown but only not refuted"""
    p_bad: float
    """probability of such evidence for the bad side if the good side were true; small enough (Holm)
    means fail"""
    state: Literal["good", "bad", "open"]


@dataclass(frozen=True)
class JudgedModel:
    """One model judged on one request's records."""

    verdict: VerdictName
    interval: InfluenceInterval
    gates: tuple[GateTest, ...]

    def bad(self) -> list[GateTest]:
        """The gates on their bad side."""
        return [gate for gate in self.gates if gate.state == "bad"]

    @property
    def p_pass(self) -> float:
        """p of the intersection-union test: the pass is as sure as its least sure gate."""
        return max(gate.p_good for gate in self.gates if gate.p_good is not None)


@dataclass(frozen=True)
class Measured:
    """The influence left in one model, by both statistics."""

    whole: Contrast
    most: Contrast
    centred: bool
    """scores are centred by control records, because the model's confidence on them is unusual"""

    @property
    def references(self) -> int:
        """Number of references of the scarcer kind."""
        return min(len(self.whole.with_), len(self.whole.without))

    def limit(self, alpha: float) -> float | None:
        """The larger detection limit of the two, None above 1."""
        limits = [statistic.limit(alpha) for statistic in (self.whole, self.most)]
        return None if None in limits else max(limit for limit in limits if limit is not None)

    def references_needed(self, alpha: float, rho0: float) -> int | None:
        """References of each kind with which a perfect retrain passes four times in five; None if
        no number does."""
        counts = [
            contrast.references_needed(c.detectability, alpha, rho0)
            for c in (self.whole, self.most)
        ]
        return None if None in counts else max(count for count in counts if count is not None)


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


def influence_gates(measured: Measured, rules: GateRules) -> list[GateTest]:
    """Gates A (influence left), B (left on the most memorised records) and C (over-forgotten).

    Below the detection limit the gap between models with and without the records is too small to
    divide by. There A and B are never bad, and C is bad only where the model is less sure of the
    records than the spread of the retrained models explains.
    """
    bound, alpha = rules.rho0, rules.alpha
    questions = (
        ("influence", say("Is the influence left below the margin, on all records?")),
        ("memorised", say("Is it below the margin on the most memorised records?")),
    )
    gates = [
        _gate(
            name,
            question,
            statistic.rho,
            bound,
            statistic.p_below(bound),
            statistic.p_above(bound) if statistic.detectable(alpha) else 1.0,
            rules,
        )
        for (name, question), statistic in zip(
            questions, (measured.whole, measured.most), strict=True
        )
    ]
    whole = measured.whole
    question = say(
        "Is the model about as sure of the records as retrained models are, and not less "
        "(over-forgetting)?"
    )
    return [
        *gates,
        _gate(
            "over_forgetting",
            question,
            whole.rho,
            -bound,
            whole.p_above(-bound),
            max(whole.p_below(-bound), whole.p_less_sure(alpha)),
            rules,
        ),
    ]


def utility_gate(
    name: str, question: Sentence, accuracy: float, retrained: Floats, rules: GateRules
) -> GateTest:
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
    # at least one record in a thousand: the references may have equal accuracies by chance
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


def with_further_gates(finding: JudgedModel, questions: Sequence[GateTest]) -> JudgedModel:
    """Add gates that can prevent a pass and never cause a failure: a pass becomes inconclusive if
    one of them is not good."""
    held = all(gate.state == "good" for gate in questions)
    verdict = "inconclusive" if finding.verdict == "pass" and not held else finding.verdict
    return replace(finding, verdict=verdict, gates=(*finding.gates, *questions))


UTILITY = (
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
)
"""Gate D: name, group of records as in `Scores.accuracy`, question."""


def utility_gates(scores: Scores, model: int, rules: GateRules) -> list[GateTest]:
    """Gate D for unseen people and for retained records.

    Raises:
        EvidenceError: there is no record of one of the two groups.
    """
    gates = []
    for name, group, question in UTILITY:
        if group not in scores.accuracy:
            raise no_record(name)
        shares = scores.accuracy[group]
        without = shares[scores.model_roles == "without"]
        gates.append(utility_gate(name, question, float(shares[model]), without, rules))
    return gates


def no_record(gate: str) -> EvidenceError:
    """The error if there is no record to answer a gate with."""
    return EvidenceError(
        say(
            "no record to answer {gate} with; expected retained records, and people whom no model "
            "saw",
            gate=gate,
        )
    )


def _gate(
    name: str,
    question: Sentence,
    observed: float | None,
    threshold: float,
    p_good: float,
    p_bad: float,
    rules: GateRules,
) -> GateTest:
    return GateTest(
        name,
        question,
        observed,
        threshold,
        p_good,
        p_bad,
        "good" if p_good < rules.alpha else "open",
    )


def conclude(gates: Sequence[GateTest], span: InfluenceInterval, alpha: float) -> JudgedModel:
    """All gates good: pass. Some gate bad beyond doubt: fail. Otherwise inconclusive.

    The gates `influence` and `over_forgetting` are the two sides of one hypothesis, |rho| <= rho0:
    at most one of them can be bad, so they share one place in Holm's procedure.

    Raises:
        EvidenceError: there is no gate, so nothing was tested.
    """
    if not gates:
        raise EvidenceError("a verdict without any test was asked for")
    sides = {"influence", "over_forgetting"}
    pair = min((g for g in gates if g.name in sides), key=lambda g: g.p_bad, default=None)
    hypotheses = [g for g in gates if g.name not in sides or g is pair]
    others = max(1, len(hypotheses) - (pair is not None))
    weights = [
        INFLUENCE_WEIGHT if g is pair else (1 - INFLUENCE_WEIGHT) / others for g in hypotheses
    ]
    bad = [
        g.name
        for g, is_bad in zip(
            hypotheses, holm([g.p_bad for g in hypotheses], alpha, weights), strict=True
        )
        if is_bad
    ]
    settled = tuple(replace(g, state="bad") if g.name in bad else g for g in gates)
    if bad:
        verdict: VerdictName = "fail"
    elif all(gate.state == "good" for gate in settled):
        verdict = "pass"
    else:
        verdict = "inconclusive"
    return JudgedModel(verdict, span, settled)
