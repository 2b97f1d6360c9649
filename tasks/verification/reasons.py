"""The reason of a verdict, in words."""

from __future__ import annotations

from tasks.common.language import Sentence, in_a_list, in_a_row, say
from tasks.verification.contrast import Interval
from tasks.verification.gates import Finding, Rules

SELF_CHECK_FAILED = say(
    "The self-check failed: a model that was retrained without the records does not "
    "pass as one. "
    "Train more references and run the audit again."
)
FAILURE = {
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
"""What a gate on its bad side means, by the gate's name."""
DOUBT = {
    "influence": say("influence left is not shown to be below the margin"),
    "memorised": say(
        "influence left on the most memorised records is not shown to be below the margin"
    ),
    "over_forgetting": say("over-forgetting is not ruled out"),
    "utility_control": say("a loss of accuracy on people it never saw is not ruled out"),
    "utility_retain": say("a loss of accuracy on retained records is not ruled out"),
}
"""What an open gate means, by the gate's name."""


def failed(finding: Finding) -> Sentence:
    """Why a model failed."""
    return in_a_row([*(FAILURE[gate.name] for gate in finding.bad()), in_words(finding.interval)])


def passed(finding: Finding, rules: Rules) -> Sentence:
    """What a pass says."""
    alike = say(
        "On these records the model behaves like models that never saw them, within ±{margin:g}.",
        margin=rules.rho0,
    )
    return in_a_row([alike, in_words(finding.interval)])


def undecided(finding: Finding, needed: int | None) -> Sentence:
    """What is not decided, and how many references would decide it."""
    doubts = in_a_list(DOUBT[gate.name] for gate in finding.gates if gate.state == "open")
    return in_a_row(
        [say("Not decided: {doubts}.", doubts=doubts), in_words(finding.interval), more(needed)]
    )


def undetectable(detectability: float, limit: float | None, needed: int | None) -> Sentence:
    """That the references cannot even show that the original model knew the records."""
    below = say(
        "Below the detection limit: with these references even the model before deletion cannot "
        "be told from a "
        "retrained one (detectability {detectability:.1f}, detection limit {limit}).",
        detectability=detectability,
        limit=say("none below 1") if limit is None else say("{value:.2f}", value=limit),
    )
    return in_a_row([below, more(needed)])


def in_words(span: Interval) -> Sentence:
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


def more(needed: int | None) -> Sentence:
    """How many references would decide it."""
    if needed is None:
        return say("No number of references would decide it at this margin.")
    return say(
        "About {references} references of each kind can certify a perfect retrain four times in "
        "five.",
        references=needed,
    )
