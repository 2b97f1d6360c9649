"""The verdict: does a model behave on a person's records like a model that never saw them?

A pure core, arrays in, a verdict with all of its evidence out. The unit of replication is the model, not the image:
images scored by one model are correlated, so one model gives one number,

    T(theta) = sum_{x in F} w_x [phi_x(theta) - b_{class(x)}(theta)],

where b is the mean score of control subjects' records of the class, which removes the model's overall confidence.
Models trained with everybody and models retrained without the forget set say where T lies when nothing and when all
has been forgotten. In between lies the residual influence

    rho = (T_u - mean T_without) / (mean T_with - mean T_without):   1 = never deleted, 0 = as retrained,
                                                                     < 0 = over-forgotten.

Its test is a contrast and not a ratio,

    t(r) = [T_u - (1 - r) mean T_without - r mean T_with] / (s sqrt(1 + (1 - r)^2 / M + r^2 / J)),

Student's t under the hypothesis rho = r; the set of r that it does not reject is the interval of rho (Fieller 1954).
Passing is an intersection-union test (Berger 1982): every gate has to reject its own bad null, so that a false pass
is at most as likely as alpha, without a correction. Failing needs some gate's bad side, by Holm (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.errors import EvidenceError
from tasks.scoring import Floats, Ints, Scores, Strings

VerdictName = Literal["pass", "fail", "inconclusive"]
POWER = 0.8
"""The detection limit is the smallest rho0 that a perfect retrain would be certified for with this probability."""
MOST_REFERENCES = 1024
FOLDS = 2


@dataclass(frozen=True)
class Rules:
    """What was fixed before the run. See `settings.Verify`."""

    alpha: float
    rho0: float
    memorised: int
    utility_margin: float
    min_references: int


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; a bound is None where the references cannot bound it."""

    estimate: float | None
    low: float | None
    high: float | None
    confidence: float


@dataclass(frozen=True)
class Gate:
    """One question, asked against its bad answer and, separately, against its good one."""

    name: str
    question: str
    observed: float | None
    threshold: float
    p_good: float
    """probability of such evidence for the good side if the bad side were true; < alpha: good"""
    p_bad: float
    """probability of such evidence for the bad side if the good side were true; small enough (Holm) means fail"""
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


@dataclass(frozen=True)
class Statistic:
    """T of the references, each under weights fitted without it, and of the models judged."""

    with_: Floats
    """(J,)"""
    without: Floats
    """(M,)"""
    judged: Floats
    """(c,) one value for each model judged"""
    degrees: int
    """degrees of freedom of `spread`"""
    spread: float
    """standard deviation of T between models of one kind"""

    @property
    def gap(self) -> float:
        """mean T_with - mean T_without: how far apart knowing and not knowing are."""
        return float(self.with_.mean() - self.without.mean())

    @property
    def detectability(self) -> float:
        """d' = gap / spread."""
        return self.gap / self.spread

    def error(self, r: float) -> float:
        """Standard error of the contrast at rho = r."""
        return self.spread * math.sqrt(1 + (1 - r) ** 2 / len(self.without) + r**2 / len(self.with_))

    def contrast(self, judged: int, r: float) -> float:
        """t(r) of one of the models judged; below 0: less influence than r."""
        expected = (1 - r) * self.without.mean() + r * self.with_.mean()
        return float((self.judged[judged] - expected) / self.error(r))

    def influence(self, values: Floats | float) -> Floats:
        """T on the scale of rho."""
        return np.asarray((np.asarray(values) - self.without.mean()) / self.gap, np.float64)


def centre(phi: Floats, labels: Ints, control_phi: Floats, control_labels: Ints) -> Floats:
    """Subtract each model's mean score of control records of the same class.

    Args:
        phi: (m, n) scores of the records in question.
        labels: (n,) their classes.
        control_phi: (m, c) scores of control subjects' records.
        control_labels: (c,) their classes.

    Returns:
        (m, n) centred scores.

    Raises:
        EvidenceError: a class has no control record.
    """
    missing = sorted(set(labels.tolist()) - set(control_labels.tolist()))
    if missing:
        raise EvidenceError(
            f"classes {', '.join(map(str, missing))} have no record of a control subject; enlarge split.control"
        )
    base = np.empty_like(phi)
    for label in np.unique(labels):
        base[:, labels == label] = control_phi[:, control_labels == label].mean(axis=1, keepdims=True)
    return phi - base


def weights(with_: Floats, without: Floats) -> Floats:
    """Weights that favour the records which references show to be memorised.

    Gap of the means over the sum of the variances, that is, Fisher's linear discriminant for independent records,
    negative gaps set to zero, scaled so that the references' own gap is 1.

    Args:
        with_: (j, n) centred scores under models trained with everybody.
        without: (k, n) centred scores under models retrained without the forget set.

    Returns:
        (n,) weights >= 0.
    """
    gap = with_.mean(axis=0) - without.mean(axis=0)
    variance = with_.var(axis=0, ddof=1) + without.var(axis=0, ddof=1)
    floor = max(float(np.mean(variance)) * 0.1, np.finfo(np.float64).tiny)
    w = np.maximum(gap, 0) / (variance + floor)
    return _unit(w, gap)


def memorised_weights(with_: Floats, without: Floats, count: int) -> Floats:
    """Equal weights on the `count` most memorised records, those with the largest standardised gap; else zero."""
    gap = with_.mean(axis=0) - without.mean(axis=0)
    noise = np.sqrt(with_.var(axis=0, ddof=1) + without.var(axis=0, ddof=1)) + np.finfo(np.float64).tiny
    w = np.zeros(len(gap))
    w[np.argsort(-gap / noise, kind="stable")[: min(count, len(gap))]] = 1.0
    return _unit(w, gap)


def _unit(w: Floats, gap: Floats) -> Floats:
    scale = float(w @ gap)
    return w / scale if scale > 0 else np.full(len(gap), 1 / len(gap))


def statistic(with_: Floats, without: Floats, judged: Floats, memorised: int | None = None) -> Statistic:
    """T of all models, cross-fitted: weights come from one half of the references and judge with the other.

    Args:
        with_: (J, n) centred scores of the references trained with everybody.
        without: (M, n) centred scores of the references retrained without the forget set.
        judged: (c, n) centred scores of the models to be judged, none of which is a reference.
        memorised: weigh only so many most memorised records, equally; None for all records, by their weights.

    Returns:
        The statistic; a model judged gets the mean over both weights.

    Raises:
        EvidenceError: the references do not differ at all (constant scores).
    """
    out_with, out_without = np.empty(len(with_)), np.empty(len(without))
    residuals: list[Floats] = []
    total = np.zeros(len(judged))
    for fold in range(FOLDS):
        own_with, own_without = _fold(len(with_), fold), _fold(len(without), fold)
        fitted = with_[~own_with], without[~own_without]
        w = weights(*fitted) if memorised is None else memorised_weights(*fitted, memorised)
        out_with[own_with], out_without[own_without] = with_[own_with] @ w, without[own_without] @ w
        residuals += [out_with[own_with] - out_with[own_with].mean()]
        residuals += [out_without[own_without] - out_without[own_without].mean()]
        total += judged @ w / FOLDS
    degrees = len(with_) + len(without) - 2 * FOLDS
    spread = math.sqrt(float(np.concatenate(residuals) @ np.concatenate(residuals)) / degrees)
    if not spread > 0:
        raise EvidenceError("the references score every record alike; models that do not differ cannot judge")
    return Statistic(out_with, out_without, total, degrees, spread)


def _fold(count: int, fold: int) -> NDArray[np.bool_]:
    return np.asarray(np.arange(count) % FOLDS == fold)


def interval(t: Statistic, judged: int, alpha: float) -> Interval:
    """The residual influence of one of the models judged, with the interval that matches the gates.

    Its confidence is 1 - 2 alpha: it lies inside (-rho0, rho0) exactly when both one-sided tests reject at alpha
    (Schuirmann 1987). Where the references' gap is not significant no interval is bounded, and the bounds are None.
    """
    from scipy import stats

    m, j = len(t.without), len(t.with_)
    d, g = float(t.judged[judged] - t.without.mean()), t.gap
    c = (float(stats.t.ppf(1 - alpha, t.degrees)) * t.spread) ** 2
    # (d - r g)^2 = c (1 + (1 - r)^2 / m + r^2 / j), a quadratic in r
    a2, a1, a0 = g * g - c / m - c / j, -2 * (d * g - c / m), d * d - c * (1 + 1 / m)
    confidence = 1 - 2 * alpha
    if g <= 0 or a2 <= 0:
        return Interval(d / g if g > 0 else None, None, None, confidence)
    root = math.sqrt(max(a1 * a1 - 4 * a2 * a0, 0.0))
    return Interval(d / g, (-a1 - root) / (2 * a2), (-a1 + root) / (2 * a2), confidence)


def detection_limit(detectability: float, with_: int, without: int, degrees: int, alpha: float) -> float | None:
    """The smallest rho0 that a perfect retrain (rho = 0) is found below with probability 0.8, or None above 1.

    With endless references it is (z_{1-alpha} + z_{0.8}) / d', 2.49 / d' at alpha = 0.05.
    """
    from scipy import optimize, stats

    if not detectability > 0:
        return None
    quantiles = float(stats.t.ppf(1 - alpha, degrees) + stats.t.ppf(POWER, degrees))

    def lacking(r: float) -> float:
        return r - quantiles * math.sqrt(1 + (1 - r) ** 2 / without + r**2 / with_) / detectability

    return float(optimize.brentq(lacking, 0.0, 1.0)) if lacking(1.0) > 0 else None


def references_needed(detectability: float, alpha: float, rho0: float) -> int | None:
    """How many references of each kind bring the detection limit to rho0, or None where no number would."""
    for count in range(4, MOST_REFERENCES + 1):
        limit = detection_limit(detectability, count, count, 2 * count - 2 * FOLDS or 1, alpha)
        if limit is not None and limit <= rho0:
            return count
    return None


def influence_gates(whole: Statistic, most: Statistic, judged: int, rules: Rules) -> list[Gate]:
    """Gates A (influence left), B (left on the most memorised records) and C (over-forgotten)."""
    return [
        _upper(whole, judged, rules, "influence", "Is the influence left below the margin, on all records?"),
        _upper(most, judged, rules, "memorised", "Is it below the margin on the most memorised records?"),
        _lower(
            whole,
            judged,
            rules,
            "over_forgetting",
            "Are the records not unusually wrong, as over-forgetting makes them?",
        ),
    ]


def _upper(t: Statistic, judged: int, rules: Rules, name: str, question: str) -> Gate:
    return _gate(name, question, _rho(t, judged), rules.rho0, -t.contrast(judged, rules.rho0), t.degrees, rules.alpha)


def _lower(t: Statistic, judged: int, rules: Rules, name: str, question: str) -> Gate:
    return _gate(name, question, _rho(t, judged), -rules.rho0, t.contrast(judged, -rules.rho0), t.degrees, rules.alpha)


def _rho(t: Statistic, judged: int) -> float | None:
    return float(t.influence(t.judged[judged])) if t.gap > 0 else None


def utility_gate(name: str, question: str, accuracy: float, retrained: Floats, rules: Rules) -> Gate:
    """Gate D: is an accuracy not lower than the retrained models' by more than the margin?

    Args:
        name: name of the gate.
        question: what it asks.
        accuracy: of the model judged, a share.
        retrained: (M,) the same accuracy of the retrained references.
        rules: alpha and the margin.
    """
    threshold = float(retrained.mean()) - rules.utility_margin
    # never below one record in a thousand: equal accuracies of all references are luck, not certainty
    spread = max(float(retrained.std(ddof=1)), 1e-3) * math.sqrt(1 + 1 / len(retrained))
    return _gate(name, question, accuracy, threshold, (accuracy - threshold) / spread, len(retrained) - 1, rules.alpha)


def _gate(
    name: str, question: str, observed: float | None, threshold: float, evidence: float, degrees: int, alpha: float
) -> Gate:
    """A gate from the t value of its good side."""
    from scipy import stats

    p_good, p_bad = float(stats.t.sf(evidence, degrees)), float(stats.t.cdf(evidence, degrees))
    return Gate(name, question, observed, threshold, p_good, p_bad, "good" if p_good < alpha else "open")


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses are rejected by Holm's (1979) step-down procedure at family-wise level alpha."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] >= alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def conclude(gates: Sequence[Gate], span: Interval, alpha: float) -> Finding:
    """All gates good: pass. Some gate bad beyond doubt: fail. Otherwise inconclusive.

    Raises:
        EvidenceError: there is no gate; nothing asked is nothing passed.
    """
    if not gates:
        raise EvidenceError("a verdict without any test was asked for")
    bad = holm([gate.p_bad for gate in gates], alpha)
    settled = tuple(
        Gate(g.name, g.question, g.observed, g.threshold, g.p_good, g.p_bad, "bad" if is_bad else g.state)
        for g, is_bad in zip(gates, bad, strict=True)
    )
    if any(bad):
        verdict: VerdictName = "fail"
    elif all(gate.state == "good" for gate in settled):
        verdict = "pass"
    else:
        verdict = "inconclusive"
    return Finding(verdict, span, settled)


def rank_p(judged: float, without: Floats) -> float:
    """Exact p of 'the model is one more retrained model': (1 + #{T_without >= T_u}) / (M + 1)."""
    return float((1 + (without >= judged).sum()) / (len(without) + 1))


@dataclass(frozen=True)
class SelfCheck:
    """The same test on models of which the truth is known. A test that errs on them cannot pass anybody."""

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
    reason: str
    records: int
    finding: Finding
    self_check: SelfCheck
    whole: Statistic
    detection_limit: float | None
    references_needed: int | None
    rank_p: float
    accuracy: dict[str, dict[str, float]]
    distribution: dict[str, list[float]]

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
        EvidenceError: the request has no record, there are too few references, a class has no control record, or
            the references do not differ. A missing piece is never a pass.
    """
    rows = scores.requests == request
    if not request or not rows.any():
        raise EvidenceError(f"request {request or '(empty)'} has no record in the scores; expected its forget set")
    with_, without = scores.model_roles == "with", scores.model_roles == "without"
    if min(with_.sum(), without.sum()) < rules.min_references:
        raise EvidenceError(
            f"got {with_.sum()} references with and {without.sum()} without the forget set, expected at least "
            f"{rules.min_references} of each; add blocks to references.with_blocks and references.without_blocks"
        )
    controls = scores.roles == "control"
    centred = centre(scores.phi[:, rows], scores.labels[rows], scores.phi[:, controls], scores.labels[controls])
    order = [int(np.flatnonzero(scores.model_roles == role)[0]) for role in ("unlearned", "original", "retrained")]
    whole = statistic(centred[with_], centred[without], centred[order])
    most = statistic(centred[with_], centred[without], centred[order], rules.memorised)
    findings = [_judge_one(scores, whole, most, place, model, rules) for place, model in enumerate(order)]
    check = SelfCheck(findings[1], findings[2])
    limit = detection_limit(whole.detectability, len(whole.with_), len(whole.without), whole.degrees, rules.alpha)
    needed = references_needed(whole.detectability, rules.alpha, rules.rho0)
    verdict, reason = settle(findings[0], check, whole, limit, needed, rules)
    plain = centred.mean(axis=1)
    return Verdict(
        verdict,
        reason,
        int(rows.sum()),
        findings[0],
        check,
        whole,
        limit,
        needed,
        rank_p(float(plain[order[0]]), plain[without]),
        accuracies(scores, rows),
        distributions(scores, rows),
    )


def _judge_one(scores: Scores, whole: Statistic, most: Statistic, place: int, model: int, rules: Rules) -> Finding:
    correct = scores.predicted == scores.labels
    without = scores.model_roles == "without"
    unseen = np.isin(scores.roles, ("control", "test"))
    retained = retain_rows(scores.roles, scores.requests)
    gates = influence_gates(whole, most, place, rules)
    for name, rows, question in (
        ("utility_control", unseen, "Is accuracy on people whom no model saw kept, within the margin?"),
        ("utility_retain", retained, "Is accuracy on retained records kept, within the margin?"),
    ):
        shares = correct[:, rows].mean(axis=1)
        gates.append(utility_gate(name, question, float(shares[model]), shares[without], rules))
    return conclude(gates, interval(whole, place, rules.alpha), rules.alpha)


def settle(
    finding: Finding, check: SelfCheck, t: Statistic, limit: float | None, needed: int | None, rules: Rules
) -> tuple[VerdictName, str]:
    """The verdict after the self-check, and the reason in words."""
    rho = _in_words(finding.interval)
    if finding.verdict == "fail":
        return "fail", f"{_failure(finding)} {rho}"
    if not check.original_caught:
        bound = "none below 1" if limit is None else f"{limit:.2f}"
        return (
            "inconclusive",
            "Below the detection limit: with these references even the model before deletion cannot be told from a "
            f"retrained one (detectability {t.detectability:.1f}, detection limit {bound}). {_more(needed)}",
        )
    if not check.retrain_cleared:
        return (
            "inconclusive",
            "The self-check failed: a model that was retrained without the records does not pass as one. "
            "Train more references and run the audit again.",
        )
    if finding.verdict == "pass":
        return (
            "pass",
            f"On these records the model behaves like models that never saw them, within ±{rules.rho0:g}. {rho}",
        )
    doubt = "; ".join(_DOUBT[gate.name] for gate in finding.gates if gate.state == "open")
    return "inconclusive", f"Not decided: {doubt}. {rho} {_more(needed)}"


_FAILURE = {
    "influence": "The records still influence the released model.",
    "memorised": "The most memorised records still influence the released model.",
    "over_forgetting": "The records are over-forgotten: unusually wrong answers on them mark the person too.",
    "utility_control": "The released model is less accurate on people it never saw than retrained models are.",
    "utility_retain": "The released model is less accurate on retained records than retrained models are.",
}
_DOUBT = {
    "influence": "influence left is not shown to be below the margin",
    "memorised": "influence left on the most memorised records is not shown to be below the margin",
    "over_forgetting": "over-forgetting is not ruled out",
    "utility_control": "a loss of accuracy on people it never saw is not ruled out",
    "utility_retain": "a loss of accuracy on retained records is not ruled out",
}


def _failure(finding: Finding) -> str:
    return " ".join(_FAILURE[gate.name] for gate in finding.bad())


def _in_words(span: Interval) -> str:
    if span.estimate is None or span.low is None or span.high is None:
        return "The residual influence cannot be bounded."
    return (
        f"Residual influence {span.estimate:.2f}, {span.confidence:.0%} interval {span.low:.2f} to {span.high:.2f} "
        "(1 = never deleted, 0 = as retrained)."
    )


def _more(needed: int | None) -> str:
    if needed is None:
        return "No number of references would decide it at this margin."
    return f"About {needed} references of each kind can certify a perfect retrain four times in five."


def retain_rows(roles: Strings, requests: Strings) -> NDArray[np.bool_]:
    """(n,) the retain set: training records that nobody asked to forget."""
    return np.asarray((roles == "training") & (requests == ""))


def accuracies(scores: Scores, forget: NDArray[np.bool_]) -> dict[str, dict[str, float]]:
    """Accuracy, a share, on the request's records, the retain set and unseen people (control and test subjects).

    Rows: original, unlearned, retrained (the baseline), and the lowest and highest of all retrained models.
    """
    correct = scores.predicted == scores.labels
    sets = {
        "forget": forget,
        "retain": retain_rows(scores.roles, scores.requests),
        "control": np.isin(scores.roles, ("control", "test")),
    }
    shares = {name: correct[:, rows].mean(axis=1) for name, rows in sets.items()}
    table = {
        role: {name: float(share[scores.model_roles == role][0]) for name, share in shares.items()}
        for role in ("original", "unlearned", "retrained")
    }
    retrained = np.isin(scores.model_roles, ("retrained", "without"))
    table["retrained_low"] = {name: float(share[retrained].min()) for name, share in shares.items()}
    table["retrained_high"] = {name: float(share[retrained].max()) for name, share in shares.items()}
    return table


def distributions(scores: Scores, forget: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Share of each predicted class on the request's records, for the original, the unlearned and retrained models."""
    classes = int(max(scores.labels.max(), scores.predicted.max())) + 1

    def shares(models: NDArray[np.bool_]) -> list[float]:
        counts = np.bincount(scores.predicted[np.ix_(models, forget)].ravel(), minlength=classes)
        return [float(share) for share in counts / counts.sum()]

    rows = {role: shares(scores.model_roles == role) for role in ("original", "unlearned")}
    rows["retrained"] = shares(np.isin(scores.model_roles, ("retrained", "without")))
    labels: list[float] = [*range(classes)]
    return {"labels": labels, **rows}
