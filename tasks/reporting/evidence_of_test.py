"""The part of `evidence.json` about the test: its questions, its limits, whether it works."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.reporting.evidence_part import Part, Share, Verdict


class Interval(Part):
    """The residual influence: 0 as a model that never saw the records, 1 as if nothing was
    deleted."""

    estimate: float | None
    low: float | None
    high: float | None
    confidence: Share


class Gate(Part):
    """One question of the test with its answer."""

    name: str
    question: str
    observed: float | None
    threshold: float | None
    p_good: float | None = Field(
        description="p-value against the bad side; small: the good side is shown"
    )
    p_bad: float | None = Field(
        description="p-value against the good side; small: the bad side is shown"
    )
    state: Literal["good", "bad", "open"]


class Counts(Part):
    """Reference models."""

    with_: int = Field(alias="with", ge=0, description="models trained with everybody")
    without: int = Field(ge=0, description="models trained without the batch's records")


class KnownBefore(Part):
    """What a pool knew of the person before the batch."""

    detectability: float = Field(
        description="distance between the pool's models with and without the person, in standard "
        "deviations"
    )
    smallest_rho0: float | None = Field(
        description="smallest margin at which the pool certifies a perfect retrain four times in "
        "five; null: none below 1"
    )


class DiscoveryControl(Part):
    """The pass among all passes of the batch, false discoveries controlled (Benjamini and Hochberg
    1995)."""

    q_pass: Share = Field(
        description="small: the pass holds among all passes of the batch; 1 where there is none"
    )
    holds: bool = Field(description="a pass whose q is below alpha")


class Assumed(Part):
    """What a statistic's test assumes, and whether the references refute it."""

    equal_variances: bool = Field(
        description="models with and without differ alike; else the larger spread is used"
    )
    equal_p: Share
    normal: bool = Field(
        description="residuals of the references are normal; else p is at least the conformal one"
    )
    normal_p: Share


class Assumptions(Part):
    """What was assumed, whether it held, and so what was done."""

    usual_confidence: bool = Field(
        description="else scores are centred by control records of the same class"
    )
    all: Assumed
    memorised: Assumed


class Trial(Part):
    """The test applied to a model whose answer is known."""

    estimate: float | None
    low: float | None
    high: float | None
    verdict: Verdict


class SelfCheck(Part):
    """Does the test find what is there, and nothing where nothing is? Null where no test with
    references was made."""

    original_caught: bool | None
    retrain_cleared: bool | None
    original: Trial | None
    retrained: Trial | None


class Points(Part):
    """Single models on the scale of the residual influence."""

    unlearned: float | None
    original: float | None
    retrained: float | None
    with_: list[float] = Field(alias="with")
    without: list[float]


class Thresholds(Part):
    """What counts as forgotten, as fixed before the run."""

    mode: Literal["references", "screening"]
    alpha: Share
    rho0: Share
    memorised: Annotated[
        float, Field(gt=0, le=1, description="share of the records that look most remembered")
    ]
    utility_margin: Share
    min_references: int
