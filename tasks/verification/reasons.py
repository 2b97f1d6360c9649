"""The reason of a verdict in words: the gates that decided it, with their numbers."""

from __future__ import annotations

from tasks.common.language import Sentence, in_a_list, in_a_row, say
from tasks.verification.alikeness import ALIKE, FIGURES, VIEW, VIEWS
from tasks.verification.contrast import InfluenceInterval
from tasks.verification.gates import GateRules, GateTest, JudgedModel, Measured

SELF_CHECK_FAILED = say(
    "The self-check failed: a model that was retrained without the records is accused of knowing "
    "them, so this test cannot pass anybody."
)
UNASKED_OF_POOL = say(
    "Further views of the records were not asked, since a pool keeps no weights, and figures were "
    "not compared, since its models saw fewer people."
)
ON_ALL_RECORDS = ("influence", "over_forgetting")
"""Gates whose number is the residual influence with its interval."""


def failed(finding: JudgedModel, measured: Measured, rules: GateRules) -> Sentence:
    """Why a model failed: each question on its bad side with its number."""
    bad = finding.bad()
    sentences = [_failure(gate, measured, rules) for gate in bad]
    if any(gate.name == "influence" for gate in bad):
        sentences.append(in_words(finding.interval))
    return in_a_row(sentences)


def passed(finding: JudgedModel, rules: GateRules) -> Sentence:
    """The reason of a pass."""
    alike = say(
        "On these records the model behaves like models that never saw them, within ±{margin:g}.",
        margin=rules.rho0,
    )
    return in_a_row([alike, in_words(finding.interval)])


def undecided(finding: JudgedModel, needed: int | None, references: int) -> Sentence:
    """The reason of an open verdict: the undecided gates with their numbers, and what would decide
    them."""
    gates = [gate for gate in finding.gates if gate.state == "open"]
    sentences = [say("Not decided: {doubts}.", doubts=in_a_list(map(_doubt, gates)))]
    if any(gate.name in ON_ALL_RECORDS for gate in gates):
        sentences.append(in_words(finding.interval))
    if any(gate.name in (*ON_ALL_RECORDS, "memorised") for gate in gates):
        sentences.append(more(needed, references))
    return in_a_row(sentences)


def undetectable(
    detectability: float, limit: float | None, needed: int | None, references: int
) -> Sentence:
    """The reason if the references cannot even show that the original model knew the records."""
    below = say(
        "Below the detection limit: with these references even the model before deletion cannot "
        "be told from a "
        "retrained one (detectability {detectability:.1f}, detection limit {limit}).",
        detectability=detectability,
        limit=say("none below 1") if limit is None else say("{value:.2f}", value=limit),
    )
    return in_a_row([below, more(needed, references)])


def expected_from_pool(detectability: float, limit: float | None, margin: float) -> Sentence:
    """A sentence for an open verdict that the pool made likely before the batch."""
    return say(
        "The pool showed before the batch that this person can hardly be judged within ±{margin:g} "
        "(detectability {detectability:.1f}, smallest margin {limit}).",
        margin=margin,
        detectability=detectability,
        limit=say("none below 1") if limit is None else say("{value:.2f}", value=limit),
    )


def _failure(gate: GateTest, measured: Measured, rules: GateRules) -> Sentence:
    """The meaning of a gate on its bad side."""
    if gate.name == "influence":
        return say("The records still influence the model.")
    if gate.name == "memorised":
        return say(
            "The most memorised records still influence the model: the influence on them is "
            "{observed:.2f}, the limit {limit:.2f}.",
            observed=_number(gate),
            limit=gate.threshold,
        )
    if gate.name == "over_forgetting":
        return say(
            "The model is less sure of these records than models that never saw them, by "
            "{deviations:.1f} standard deviations of such models. This is over-forgetting: it can "
            "single the person out.",
            deviations=-measured.whole.deviations,
        )
    if gate.name == "utility_control":
        return say(
            "The model is less accurate on people whom no model saw: {observed:.1%} right, and "
            "the limit is {limit:.1%}, {margin:.1%} below retrained models.",
            observed=_number(gate),
            limit=gate.threshold,
            margin=rules.utility_margin,
        )
    return say(
        "The model is less accurate on retained records: {observed:.1%} right, and the limit is "
        "{limit:.1%}, {margin:.1%} below retrained models.",
        observed=_number(gate),
        limit=gate.threshold,
        margin=rules.utility_margin,
    )


def _doubt(gate: GateTest) -> Sentence:
    """The meaning of an open gate."""
    if gate.name == "influence":
        return say("influence left is not shown to be below the margin")
    if gate.name == "memorised" and gate.observed is None:
        return say(
            "influence left on the most memorised records is not shown to be below the margin"
        )
    if gate.name == "memorised":
        return say(
            "influence left on the most memorised records, {observed:.2f}, is not shown to be "
            "below {limit:.2f}",
            observed=_number(gate),
            limit=gate.threshold,
        )
    if gate.name == "over_forgetting":
        return say(
            "it is not ruled out that the model is less sure of these records than retrained "
            "models are"
        )
    if gate.name.startswith(VIEW):
        where = VIEWS[gate.name.removeprefix(VIEW)]
        if gate.observed is None:
            return say("the model could not be scored {where}", where=where)
        return say(
            "more influence is left {where}, {observed:.2f}, than retrained models show, at most "
            "{limit:.2f}",
            where=where,
            observed=gate.observed,
            limit=gate.threshold,
        )
    if gate.name.startswith(ALIKE):
        return say(
            "{figure}, {observed:.2f}, lies outside the retrained models' range, which ends at "
            "{limit:.2f}",
            figure=FIGURES[gate.name.removeprefix(ALIKE)],
            observed=_number(gate),
            limit=gate.threshold,
        )
    if gate.name == "utility_control":
        return say(
            "accuracy on people whom no model saw, {observed:.1%}, is not shown to be above "
            "{limit:.1%}",
            observed=_number(gate),
            limit=gate.threshold,
        )
    return say(
        "accuracy on retained records, {observed:.1%}, is not shown to be above {limit:.1%}",
        observed=_number(gate),
        limit=gate.threshold,
    )


def _number(gate: GateTest) -> float:
    return float("nan") if gate.observed is None else gate.observed


def in_words(span: InfluenceInterval) -> Sentence:
    """The residual influence with its interval."""
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


def more(needed: int | None, references: int) -> Sentence:
    """A sentence on whether more references would decide.

    Args:
        needed: of each kind, to certify a perfect retrain four times in five; None: no number does.
        references: of each kind, that there are.
    """
    if needed is None:
        return say("No number of references would decide it at this margin.")
    if needed <= references:
        return say("The references suffice: with them a perfect retrain passes four times in five.")
    return say(
        "About {references} references of each kind can certify a perfect retrain four times in "
        "five.",
        references=needed,
    )
