"""The part of `evidence.json` about the models: their answers, their cost, how they were made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks.common.settings import Method
from tasks.reporting.evidence_part import (
    Count,
    Counted,
    Distance,
    Hash,
    Numbers,
    Part,
    Share,
    Shares,
    Unmeasured,
)


class Accuracies(Part):
    """Shares of records that a model classifies correctly."""

    forget: Share
    retain: Share
    control: Share


class Accuracy(Part):
    """Accuracy before and after, and of the baseline with the range over all retrained models; a
    screening has none."""

    original: Accuracies
    unlearned: Accuracies
    retrained: Accuracies | None = None
    retrained_low: Accuracies | None = None
    retrained_high: Accuracies | None = None


class Apart(Part):
    """Total variation distance to the retrained models' mean, 0: equal, 1: nothing in common."""

    original: Distance | None = None
    unlearned: Distance | None = None
    band: Numbers | None = Field(None, description="how far retrained models lie from each other")


class Distribution(Part):
    """Shares of the classes that the models predict for the request's records; of the retrained
    ones mean and range."""

    labels: list[int]
    original: list[Share]
    unlearned: list[Share]
    retrained: list[Share] | None = None
    retrained_low: list[Share] | None = None
    retrained_high: list[Share] | None = None
    distance: Apart | None = None


class Medians(Part):
    """Middle scores of the request's records, log-odds in nats."""

    original: float
    unlearned: float
    retrained: float | None = Field(None, description="of all retrained models together")
    band: Numbers | None = Field(None, description="over the retrained models")


class ScoreDistribution(Part):
    """How sure each model is of the right class of the request's records, as shares of the records
    by score.

    A score is the log-odds of the right class, in nats: 0 is even, 3 is 20 to 1. Bin i reaches from
    edge i to i + 1.
    """

    edges: Annotated[list[float], Field(min_length=2)]
    original: list[Share]
    unlearned: list[Share]
    retrained: list[Share] | None = Field(None, description="of all retrained models together")
    median: Medians

    @model_validator(mode="after")
    def _has_a_share_for_each_bin(self) -> ScoreDistribution:
        """Every model has as many shares as there are bins."""
        for shares in (self.original, self.unlearned, self.retrained):
            if shares is not None and len(shares) != len(self.edges) - 1:
                raise ValueError(
                    f"got {len(shares)} shares for {len(self.edges) - 1} bins; run verify again"
                )
        return self


class Areas(Part):
    """Areas under the ROC curve: 0.5 guesses, 1 always tells a member."""

    original: Share
    unlearned: Share
    retrained: Share


class Hits(Part):
    """Records that an attack flags as members."""

    original: Count
    unlearned: Count
    retrained: Count


class RatePoint(Part):
    """True-positive rate at a false-positive rate, of the unlearned model."""

    fpr: Share
    tpr: Share
    low: Share
    high: Share
    false_positives_expected: Distance


class Attack(Part):
    """A membership-inference attack on the request's records. It stands beside the verdict and
    never decides it."""

    name: str
    title: str
    source: str
    auc: Areas
    auc_interval: Shares = Field(
        description="of the unlearned model, records taken for independent"
    )
    auc_band: Shares = Field(
        description="where the AUC of a further model retrained without the records lies; that it "
        "lies outside one of the ranges that the questions ask about is as likely as "
        "`verify.unlike` of the settings"
    )
    flagged: Hits
    flagged_band: Counted = Field(description="over the models retrained without the records")
    flagged_rate: Share = Field(description="share of non-members that may be flagged")
    records: Count
    non_members: Count
    tpr_at_fpr: list[RatePoint]
    outside_band: bool = Field(description="the unlearned model's AUC lies outside `auc_band`")


class Exposure(Part):
    """Are the people who stay told more easily than under retraining? Of the batch as a whole; it
    names nobody."""

    auc: Areas = Field(description="of retained against unseen people's records")
    auc_band: Shares
    auc_mean: Share = Field(description="over the models retrained without the records")
    p_worse: Share
    subjects: Count = Field(description="retained data subjects")
    subjects_worse: Count = Field(
        description="of them, those more exposed than under retraining, by Holm at `level`"
    )
    largest: float = Field(description="largest t value of a data subject")
    level: Share = Field(description="error rate of each of the two questions")
    alpha: Share
    worsened: bool


class Group(Part):
    """Accuracy on unseen people of one group, of the batch as a whole."""

    column: str = Field(description="`class`, or a column of the manifest")
    value: str
    records: Count
    subjects: Count
    original: Share
    unlearned: Share
    retrained_mean: Share
    retrained_low: Share
    retrained_high: Share
    p_worse: Share
    worse: bool = Field(description="less accurate than retrained models, by Holm over all groups")


class Probe(Part):
    """Accuracy of a new linear classifier on the features of the request's records."""

    original: Share
    unlearned: Share
    retrained: Share | None = None
    band: Shares | None = None


class Similarity(Part):
    """Centred kernel alignment of the features of the request's records with a retrained
    model's."""

    original: float
    unlearned: float
    band: Numbers | None = None


class Steps(Part):
    """Training steps until the records are known again."""

    original: Count
    unlearned: Count
    retrained: Count | None = None
    band: Counted | None = None


class Relearn(Part):
    """Relearn time of all records of the batch together."""

    steps: Steps
    most: Count = Field(description="no more steps were made: so many mean so many or more")
    learning_rate: float
    target: float | None = Field(None, description="mean cross-entropy to be reached, nats")


class Features(Part):
    """What the models' features still hold of the records."""

    linear_probe: Probe | Unmeasured
    cka: Similarity | Unmeasured
    relearn: Relearn | Unmeasured


class Seconds(Part):
    """Wall-clock cost, s."""

    train: Distance | None = Field(
        description="null where nobody knows: a screening of a checkpoint of one's own"
    )
    unlearn: Distance
    retrain: Distance | None = Field(
        description="null in a screening, which needs no retrained model"
    )
    train_source: Literal["original", "median of the reference models", "not known"]


class Trace(Part):
    """What unlearning did, step by step; at most 200 points, evenly thinned. Null where a phase has
    no such loss."""

    step: list[int]
    phase: list[str]
    forget_loss: list[float | None]
    recover_loss: list[float | None]
    forget_weight: list[float | None]
    recover_weight: list[float | None]


class Unlearned(Part):
    """How the model was made to forget."""

    method: Method
    settings: dict[str, Any]
    trace: Trace


class JudgingModel(Part):
    """One model that the verdict rests on."""

    name: str
    role: Literal["original", "unlearned", "retrained", "with", "without"]
    file: str
    weights_sha256: Hash
    seconds: float | None
    device: str | None
    threads: int | None
    precision: str | None
    torch: str | None
