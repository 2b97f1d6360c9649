"""The evidence of one deletion request: what `evidence.json` holds, checked when it is made.

Everything a report says comes from here. A missing number is an error and never a blank, and a
character that could turn text around or hide it is written out, so that a request cannot make its
report say something else.
"""

from __future__ import annotations

import re
import statistics
import unicodedata
from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from functools import cached_property
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tasks.common import language, settings
from tasks.common.errors import EvidenceError, RequestError
from tasks.common.language import say
from tasks.common.settings import Method, Settings
from tasks.requests import deadlines, decisions
from tasks.training import release_lineage
from tasks.unlearning import fcalb, rivals
from tasks.verification import retrain_advice

SCHEMA_VERSION = 3
VERDICTS_VERSION = 3
"""Version of `verdicts.json` that the evidence is built from."""
SCHEMA = Path("docs/evidence.schema.json")
UNSEEN = "not_in_training"
"""Code of a request that was set aside because no model was trained on its records."""
TRACE_POINTS = 200
OF_REGISTER = (
    *(
        "position",
        "regulation",
        "received",
        "subject_pseudonym",
        "records",
        "labels",
        "whole_subject",
        "code",
    ),
    "languages",
)
OF_VERDICT = (
    *(
        "verdict",
        "reason",
        "residual_influence",
        "detectability",
        "detection_limit",
        "references_needed",
        "gates",
    ),
    *(
        "references",
        "rank_p",
        "self_check",
        "accuracy",
        "prediction_distribution",
        "influence_points",
    ),
    *("p_pass", "register", "assumptions", "attacks", "score_distribution"),
)
OF_TRACE = ("forget_loss", "recover_loss", "forget_weight", "recover_weight")
OF_DATA = ("records", "subjects", "classes", "manifest_sha256")
OF_RECORD = ("started", "commit", "tool_version", "python", "platform", "packages")
REJECTED = say("the request was set aside")
NOT_MEASURED = say("no such measurement was made in this audit")

Verdict = Literal["pass", "fail", "inconclusive"]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Distance = Annotated[float, Field(ge=0)]
Shares = Annotated[list[Share], Field(min_length=2, max_length=2, description="lowest and highest")]
Numbers = Annotated[
    list[float], Field(min_length=2, max_length=2, description="lowest and highest")
]
Counted = Annotated[
    list[Count], Field(min_length=2, max_length=2, description="lowest and highest")
]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Severity = Literal["error", "warning"]


class Part(BaseModel):
    """A part of the evidence: numbers are finite, types are exact, keys that the shape does not
    name are left out."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Request(Part):
    """The facts of the request; no identity."""

    id: str = Field(min_length=1, description="subject_request_id of the OpenDSR request")
    position: int = Field(ge=0, description="place in the batch's file")
    regulation: str | None
    received: str | None = Field(description="RFC 3339, as the request has it")
    subject_pseudonym: str | None = Field(pattern=r"^[0-9a-f]{12}$")
    records: int = Field(ge=0, description="records found for this request")
    labels: dict[str, int] = Field(description="records by class")
    whole_subject: bool = Field(description="all records of the data subject, or single ones")
    code: str | None = Field(description="short word for the reason of a rejection")
    languages: list[str] = Field(
        [], description="tags of the languages that the request asks for its report in"
    )


class Due(Part):
    """The statutory deadline."""

    rule: str
    date: str | None = Field(
        description="ISO date; null where the law names no figure or it cannot be counted"
    )
    days_left: int | None = Field(description="days from the day on which the audit started")


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


class Unmeasured(Part):
    """What could not be measured, and why."""

    reason: str = Field(min_length=1)


class Register(Part):
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
    auc_band: Shares = Field(description="over the models retrained without the records")
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


class Model(Part):
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


class Check(Part):
    """One data check in a sentence with its result."""

    name: str
    sentence: str
    passed: bool
    severity: Severity
    count: int = Field(ge=0, description="records or requests that the check found")
    records: list[str] = Field(description="at most 20 record ids")
    this_request: bool = Field(description="this request is among those found")


class Checks(Part):
    """The checks of the data set and of the batch's requests."""

    data: list[Check]
    requests: list[Check]


class DataSet(Part):
    """The data set as a whole."""

    records: int
    subjects: int
    classes: dict[str, int]
    manifest_sha256: Hash
    data_md5: str


class Organisation(Part):
    """Whom the report speaks for."""

    controller: str
    system: str


class InScope(Part):
    """Models of one role that this audit is about."""

    role: Literal["original", "unlearned", "retrained", "with", "without"]
    count: Annotated[int, Field(ge=1)]
    saw_records: bool = Field(
        description="was trained on the request's records, or made from a model that was"
    )


class OutOfScope(Part):
    """A model that this audit says nothing about."""

    model: str
    why: str


class Scope(Part):
    """Which models the report is about, and which it is not."""

    models: list[InScope] = Field(description="empty: no model was looked at")
    outside: list[OutOfScope] = Field(description="as the settings list them")


class Copy(Part):
    """A place where the records, or what was made of them, lie, and what became of it."""

    store: str = Field(description="key, by which an erasure in the decisions names it")
    kind: Literal[
        "workspace",
        "dvc_cache",
        "dvc_remote",
        "backup",
        "original_model",
        "reference_models",
        "artifacts",
        "git",
    ]
    name: str | None = Field(None, description="of a remote or a backup")
    holds: Literal["records", "influence", "scores", "identifiers"]
    state: Literal["held", "erased", "expires"]
    days: Count | None = Field(
        None, description="days after an erasure in which a backup is overwritten"
    )
    expires_on: str | None = Field(None, description="ISO date")
    at: str | None = Field(None, description="when it was erased, RFC 3339")
    by: str | None = None
    receipt: str | None = None

    @model_validator(mode="after")
    def _shows_what_it_claims(self) -> Copy:
        """An erasure has its receipt."""
        if self.state != "held" and not (self.at and self.by and self.receipt):
            raise ValueError(
                f"{self.store}: got {self.state} without a receipt, expected at, by and receipt"
            )
        return self


class Told(Part):
    """Someone whom the data were disclosed to, or who processes them, and whether he was told of
    the erasure."""

    name: str
    what: str = Field(description="what was disclosed, or is processed")
    told_at: str | None = None
    told_by: str | None = None
    comment: str | None = None


class Exemption(Part):
    """An exception that is claimed against the erasure."""

    ground: str
    reason: str
    at: str
    by: str


class Signoff(Part):
    """A person's decision."""

    at: str
    by: str
    role: str
    decision: Literal["approve", "refuse"]
    comment: str


class Advice(Part):
    """What is advised for the batch, and why."""

    code: str
    text: str = Field(min_length=1)
    values: dict[str, int | float] = Field(
        {}, description="numbers in the text: whole ones are counts, others shares"
    )


class Signing(Part):
    """The key that signs the report. The signature is in the signed files and not in this
    evidence."""

    algorithm: str
    key_id: Hash = Field(description="SHA-256 of the public key")
    development: bool = Field(description="a key for trying out, which vouches for nobody")


class Level(Part):
    """One way to check this audit again."""

    level: Literal["integrity", "rederive", "reexecute"]
    shows: str
    needs: str
    commands: list[str]


class Provenance(Part):
    """Where every number comes from."""

    started: str
    commit: str | None = Field(description="commit that the run started from")
    tag: str = Field(description="tag that closes the batch")
    tool_version: str
    python: str
    platform: str
    packages: dict[str, str]
    devices: list[str]
    seed: int
    reference_seeds: dict[str, int] = Field(description="models per kind, seeds 0 … n - 1")
    settings: dict[str, Any]
    settings_changed: dict[str, Any]
    signing: Signing | None = None


class Phrase(Part):
    """What a sentence of this file was made of, so that it can be told in another language."""

    message: str = Field(description="English, with {name} or {name:format} where a value goes")
    values: dict[str, str | int | float | Phrase]


class Common(Part):
    """What every report has."""

    schema_version: Literal[3]
    batch: str
    request: Request
    reason: str = Field(min_length=1)
    deadline: Due
    organisation: Organisation
    thresholds: Thresholds
    data: DataSet
    checks: Checks
    progress: Literal["set_aside", "awaiting_signoff", "refused", "released", "erased"]
    completed: str | None = Field(
        description="when the last copy was erased, RFC 3339; null while one is held"
    )
    identity_check: str | None = Field(
        description="how identities are checked before a request reaches the tool"
    )
    scope: Scope
    copies: Annotated[list[Copy], Field(min_length=1)]
    recipients: list[Told]
    processors: list[Told]
    exceptions: list[Exemption]
    approvals: list[Signoff]
    advice: list[Advice] = []
    provenance: Provenance
    reproduction: list[Level]
    languages: list[language.Code] = Field(
        ["en"], min_length=1, description="of the report, the main one first"
    )
    sentences: dict[str, Phrase] = Field(
        {}, description="by the English text, wherever it stands in this file"
    )


class Audited(Common):
    """A request that was carried out, and tested where a test could be made."""

    status: Literal["audited"]
    test: Literal["references", "screening", "none"] = Field(
        description="the test made; none: see the reason"
    )
    verdict: Verdict
    outcome: Literal["pass", "fail", "inconclusive", "below_detection"]
    residual_influence: Interval
    detectability: float | None = Field(
        description="distance between models with and without, in standard deviations"
    )
    detection_limit: float | None = Field(
        description="smallest margin that this test could have certified"
    )
    references_needed: int | None = Field(
        description="reference models of each kind that would decide it, if known"
    )
    gates: list[Gate] = Field(description="empty where no test could be made")
    p_pass: Share = Field(description="of the least sure gate; 1 where the request did not pass")
    register_: Register = Field(alias="register")
    assumptions: Assumptions | Unmeasured | None = Field(
        description="null where no test with references was made"
    )
    references: Counts
    rank_p: Share | None
    self_check: SelfCheck
    accuracy: Accuracy
    prediction_distribution: Distribution | Unmeasured
    score_distribution: ScoreDistribution | Unmeasured
    attacks: Annotated[list[Attack], Field(min_length=1)] | Unmeasured
    retained_exposure: Exposure | Unmeasured
    utility_by_group: list[Group] | Unmeasured
    features: Features
    influence_points: Points
    seconds: Seconds
    unlearn: Unlearned
    models: Annotated[list[Model], Field(min_length=1)]

    @model_validator(mode="after")
    def _claims_no_more_than_was_tested(self) -> Audited:
        """A pass needs the whole test with every answer good, and a test with references all of its
        parts."""
        if (self.test == "none") == bool(self.gates):
            raise ValueError(
                f"got {len(self.gates)} gates and the test {self.test!r}; run verify again"
            )
        check = self.self_check
        if self.verdict == "pass" and not (
            self.test == "references"
            and all(gate.state == "good" for gate in self.gates)
            and check.original_caught
            and check.retrain_cleared
        ):
            raise ValueError(
                "got a pass that its gates or its self-check do not carry; run verify again"
            )
        if self.register_.holds and self.verdict != "pass":
            raise ValueError(
                "register.holds: got true for a request that did not pass; run verify again"
            )
        needed = (
            {"rank_p": self.rank_p, "assumptions": self.assumptions}
            if self.test == "references"
            else {}
        )
        if self.test == "references":
            needed |= {
                f"self_check.{name}": getattr(check, name) for name in SelfCheck.model_fields
            }
        if self.thresholds.mode == "references":
            needed |= {
                f"accuracy.{name}": getattr(self.accuracy, name) for name in Accuracy.model_fields
            }
            needed |= {"seconds.train": self.seconds.train, "seconds.retrain": self.seconds.retrain}
        if lost := [name for name, value in needed.items() if value is None]:
            raise ValueError(f"{', '.join(lost)}: null or missing, expected a value")
        return self


class NoInterval(Part):
    """No residual influence was measured."""

    estimate: None = None
    low: None = None
    high: None = None
    confidence: None = None


class NoSelfCheck(Part):
    """No test was made."""

    original_caught: None = None
    retrain_cleared: None = None


class NoAccuracies(Part):
    """No accuracy was measured."""

    forget: None = None
    retain: None = None
    control: None = None


class NoAccuracy(Part):
    """No accuracy was measured."""

    original: NoAccuracies = NoAccuracies()
    unlearned: NoAccuracies = NoAccuracies()
    retrained: NoAccuracies = NoAccuracies()


class NoSeconds(Part):
    """Nothing was computed for this request."""

    train: None = None
    unlearn: None = None
    retrain: None = None


class NoUnlearning(Part):
    """Nothing was unlearned for this request."""

    method: None = None


class Rejected(Common):
    """A request that was set aside: the same keys, no numbers."""

    status: Literal["rejected"]
    test: None = None
    verdict: Literal["inconclusive"] = "inconclusive"
    outcome: Literal["rejected"] = "rejected"
    residual_influence: NoInterval = NoInterval()
    detectability: None = None
    register_: None = Field(None, alias="register")
    self_check: NoSelfCheck = NoSelfCheck()
    accuracy: NoAccuracy = NoAccuracy()
    attacks: None = None
    retained_exposure: None = None
    utility_by_group: None = None
    features: None = None
    seconds: NoSeconds = NoSeconds()
    unlearn: NoUnlearning = NoUnlearning()


Evidence: TypeAdapter[Audited | Rejected] = TypeAdapter(
    Annotated[Audited | Rejected, Field(discriminator="status")]
)


@dataclass(frozen=True)
class Sources:
    """Everything the evidence is built from, as the stages before wrote it.

    Attributes:
        verdicts: `artifacts/verify/verdicts.json`.
        lineage: `artifacts/score/lineage.json`.
        register: `artifacts/resolve/register.json`.
        data_checks: `artifacts/check/data.json`.
        request_checks: `artifacts/check/requests.json`.
        trace: rows of `artifacts/unlearn/trace.csv`, as text.
        record: `ledger/batches/<batch>.json`.
        probes: `artifacts/probe/probes.json`; empty: what the features hold was not measured.
        decisions: `ledger/decisions/<batch>.json`; empty: nothing was decided yet.
    """

    batch: str
    verdicts: Mapping[str, Any]
    lineage: Mapping[str, Any]
    register: Mapping[str, Any]
    data_checks: Mapping[str, Any]
    request_checks: Mapping[str, Any]
    trace: Sequence[Mapping[str, str]]
    record: Mapping[str, Any]
    settings: Settings
    probes: Mapping[str, Any] = field(default_factory=dict)
    decisions: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def sentences(self) -> dict[str, Any]:
        """What the sentences of all files were made of, by their English text."""
        found: dict[str, Any] = {}
        for file in (
            self.verdicts,
            self.register,
            self.data_checks,
            self.request_checks,
            self.probes,
        ):
            found |= file.get(language.SENTENCES, {})
        return found

    @cached_property
    def advised(self) -> list[dict[str, Any]]:
        """Why a full retrain is advised after this batch, see
        `tasks.verification.retrain_advice`."""
        loss = take(
            take(self.verdicts, "batch", "verdicts.json"), "control_loss", "verdicts.json, batch"
        )
        return retrain_advice.advise(
            self.settings.unlearn.method,
            release_lineage.released(self.lineage, self.settings.unlearn.method),
            list(self.verdicts["requests"].values()),
            None if "reason" in loss else loss,
            self.settings.advice,
        )


def build_all(sources: Sources) -> list[dict[str, Any]]:
    """The evidence of every request of the batch, in the register's order.

    Raises:
        EvidenceError: a number or a file's key is missing, or accepted requests and verdicts do not
            match one to one.
    """
    entries = take(sources.register, "batch_requests", "register.json")
    match(entries, take(sources.verdicts, "requests", "verdicts.json"))
    if (version := take(sources.verdicts, "schema_version", "verdicts.json")) != VERDICTS_VERSION:
        raise EvidenceError(
            f"verdicts.json: got schema version {version!r}, expected {VERDICTS_VERSION}; verify "
            "again"
        )
    if take(sources.record, "batch", "the batch record") != sources.batch:
        raise EvidenceError(
            f"the batch record is of {sources.record['batch']!r}, expected {sources.batch!r}; run "
            "again"
        )
    made = decisions.parse(
        sources.decisions, [entry_id(entry) for entry in entries], "the batch's decisions"
    )
    return [build(sources, entry, made.of(entry_id(entry))) for entry in entries]


def match(entries: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Any]) -> None:
    """Every accepted request has a verdict, every verdict an accepted request, and no two share
    one; else an error."""
    accepted = [
        entry_id(entry) for entry in entries if take(entry, "status", "register.json") == "accepted"
    ]
    if not entries:
        raise EvidenceError(
            "register.json: got no request, expected at least one; run the stage resolve again"
        )
    if twice := sorted(name for name, count in Counter(accepted).items() if count > 1):
        raise EvidenceError(f"register.json accepts {twice[0]} twice; run the stage resolve again")
    if missing := sorted(set(accepted) - set(verdicts)):
        raise EvidenceError(
            f"verdicts.json has no verdict for the accepted request {missing[0]}; run verify again"
        )
    if extra := sorted(set(verdicts) - set(accepted)):
        raise EvidenceError(
            f"verdicts.json has a verdict for {extra[0]}, which register.json does not accept"
        )


def build(
    sources: Sources, entry: Mapping[str, Any], decided: decisions.Decisions
) -> dict[str, Any]:
    """The evidence of one request of the register, a plain dictionary of fixed shape.

    Args:
        sources: what the stages before wrote.
        entry: the request's line in the register.
        decided: what was decided on it.

    Raises:
        EvidenceError: something is missing or of the wrong type; the message names the request and
            the place.
    """
    where = f"request {entry_id(entry)}"
    status = take(entry, "status", where)
    if status == "accepted":
        verdict = take(
            take(sources.verdicts, "requests", "verdicts.json"), entry_id(entry), "verdicts.json"
        )
        special = audited(sources, verdict, entry_id(entry), where)
    elif status == "rejected":
        special = {"status": "rejected", "reason": entry.get("reason") or REJECTED}
    else:
        raise EvidenceError(f"{where}: got status {status!r}, expected accepted or rejected")
    follows = aftermath(sources, special["status"], decided, entry.get("code"))
    found = {**common(sources, entry, where), **follows, **special}
    return validate({**found, language.SENTENCES: spoken(sources, found)}, where)


def spoken(sources: Sources, found: Mapping[str, Any]) -> dict[str, Any]:
    """What the sentences of a request's evidence were made of, by their English text."""
    made = ChainMap(sources.sentences, language.sentences(found))
    return {text: made[text] for text in language.texts(found) if text in made}


def validate(evidence: Mapping[str, Any], where: str = "evidence") -> dict[str, Any]:
    """The evidence with exactly the keys of its schema. Raises `EvidenceError` that names the first
    places at fault."""
    try:
        found = Evidence.validate_python(visible(evidence))
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:3]
        ]
        raise EvidenceError(f"{where}: the evidence is incomplete: " + "; ".join(faults)) from None
    return found.model_dump(mode="json", by_alias=True)


def schema() -> dict[str, Any]:
    """The JSON Schema of `evidence.json`, published as `docs/evidence.schema.json`."""
    found = Evidence.json_schema(by_alias=True, mode="serialization")
    for definition in (found, *found["$defs"].values()):
        if "description" in definition:  # a docstring: where its lines break says nothing
            paragraphs = definition["description"].split("\n\n")
            definition["description"] = "\n\n".join(" ".join(text.split()) for text in paragraphs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:erasure-audit:evidence:{SCHEMA_VERSION}",
        "title": "Evidence of a deletion request",
        **found,
    }


def common(sources: Sources, entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The parts that every report has."""
    chosen = sources.settings
    return {
        "schema_version": SCHEMA_VERSION,
        "batch": sources.batch,
        "request": request(entry, where),
        "deadline": due(
            entry, take(sources.record, "started", "the batch record"), chosen.report.holidays
        ),
        "organisation": {"controller": chosen.report.controller, "system": chosen.report.system},
        "thresholds": chosen.verify.model_dump(),
        "data": data_set(sources),
        "checks": checks(sources, entry_id(entry)),
        "identity_check": chosen.report.identity_check or None,
        "advice": sources.advised,
        "provenance": provenance(sources),
        "reproduction": reproduction(sources.batch),
        "languages": language.wanted(chosen.report.languages, entry.get("languages", [])),
    }


def aftermath(
    sources: Sources, status: str, decided: decisions.Decisions, code: str | None = None
) -> dict[str, Any]:
    """What became of the request beside its verdict: scope, copies, notices, exceptions,
    approvals."""
    chosen = sources.settings.report
    kept = copies(sources, status, decided, code)

    def told(name: str, what: str) -> dict[str, Any]:
        notice = next((notice for notice in reversed(decided.notices) if notice.to == name), None)
        found = (
            {"told_at": notice.at, "told_by": notice.by, "comment": notice.comment or None}
            if notice
            else {}
        )
        return {"name": name, "what": what, **found}

    known = {party.name for party in chosen.recipients} | {
        party.name for party in chosen.processors
    }
    if strange := sorted({notice.to for notice in decided.notices} - known):
        raise EvidenceError(
            f"the batch's decisions: a notice names {strange[0]!r}, whom neither "
            "report.recipients nor "
            "report.processors list; add it there"
        )
    progress = decisions.progress(status, decided.approvals, kept)
    return {
        "progress": progress,
        "completed": decisions.latest(copy["at"] for copy in kept if "at" in copy)
        if progress == "erased"
        else None,
        "scope": scope(sources, status),
        "copies": kept,
        "recipients": [told(party.name, party.disclosed) for party in chosen.recipients],
        "processors": [told(party.name, party.task) for party in chosen.processors],
        "exceptions": [
            claim.model_dump(include=set(Exemption.model_fields)) for claim in decided.exceptions
        ],
        "approvals": [
            approval.model_dump(include=set(Signoff.model_fields)) for approval in decided.approvals
        ],
    }


def scope(sources: Sources, status: str) -> dict[str, Any]:
    """The models that the report is about by their roles, and those that the settings name as
    outside of it."""
    roles = [
        take(entry, "role", "lineage.json")
        for entry in take(sources.lineage, "models", "lineage.json")
    ]
    saw = {
        "original": True,
        "unlearned": sources.settings.unlearn.method not in retrain_advice.FROM_SCRATCH,
        "with": True,
    }
    models = [
        {"role": role, "count": roles.count(role), "saw_records": saw.get(role, False)}
        for role in ("original", "unlearned", "retrained", "with", "without")
        if role in roles and status == "audited"
    ]
    return {
        "models": models,
        "outside": [model.model_dump() for model in sources.settings.report.out_of_scope],
    }


def copies(
    sources: Sources, status: str, decided: decisions.Decisions, code: str | None = None
) -> list[dict[str, Any]]:
    """Every place that the tool knows of with what became of it: held, unless a receipt says
    otherwise.

    Raises:
        EvidenceError: an erasure names a place that is not known.
    """
    remotes = take(sources.record, "remotes", "the batch record")
    places: list[dict[str, Any]] = [
        {"store": "workspace", "kind": "workspace", "holds": "records"},
        {"store": "dvc_cache", "kind": "dvc_cache", "holds": "records"},
        *(
            {"store": f"dvc_remote:{name}", "kind": "dvc_remote", "name": name, "holds": "records"}
            for name in remotes
        ),
        *(
            {
                "store": f"backup:{backup.name}",
                "kind": "backup",
                **backup.model_dump(),
                "holds": "records",
            }
            for backup in sources.settings.report.backups
        ),
    ]
    if status == "audited":
        places.append({"store": "original_model", "kind": "original_model", "holds": "influence"})
        if any(
            take(entry, "role", "lineage.json") == "with" for entry in sources.lineage["models"]
        ):
            places.append(
                {"store": "reference_models", "kind": "reference_models", "holds": "influence"}
            )
        places.append({"store": "artifacts", "kind": "artifacts", "holds": "scores"})
    if any(erasure.store == "git" for erasure in decided.erasure):
        places.append({"store": "git", "kind": "git", "holds": "identifiers"})
    known = {place["store"] for place in places}
    own = (
        decided.erasure if status == "audited" else []
    )  # nobody erased the records of a request that was set aside,
    if code == UNSEEN:  # unless no model was trained on them, and the data had to go all the same
        own = [erasure for erasure in decided.erasure if erasure.store in known]
    done = {erasure.store: erasure.model_dump(exclude={"request"}) for erasure in own}
    if strange := sorted(set(done) - known):
        raise EvidenceError(
            f"the batch's decisions: an erasure names {strange[0]!r}, expected one of "
            f"{', '.join(sorted(known))}"
        )
    return [{"state": "held", **place, **done.get(place["store"], {})} for place in places]


def audited(
    sources: Sources, verdict: Mapping[str, Any], request_id: str, where: str
) -> dict[str, Any]:
    """The parts that only an audited request has."""
    found = {key: take(verdict, key, where) for key in OF_VERDICT}
    kind = test_made(found["gates"], sources.settings)
    check = found["self_check"] if kind == "references" else dict.fromkeys(SelfCheck.model_fields)
    batch = take(sources.verdicts, "batch", "verdicts.json")
    return {
        **found,
        "status": "audited",
        "test": kind,
        "outcome": outcome(found["verdict"], take(check, "original_caught", where)),
        "self_check": check,
        "retained_exposure": take(batch, "exposure", "verdicts.json, batch"),
        "utility_by_group": take(batch, "groups", "verdicts.json, batch"),
        "features": features(sources.probes, request_id),
        "seconds": seconds(sources.lineage, sources.settings),
        "unlearn": unlearned(sources),
        "models": [model(entry) for entry in take(sources.lineage, "models", "lineage.json")],
    }


def test_made(gates: Sequence[Any], chosen: Settings) -> str:
    """Which test was made: with `references`, a `screening`, or `none` where nothing could be
    asked."""
    return chosen.verify.mode if gates else "none"


def outcome(verdict: str, original_caught: bool | None) -> str:
    """The verdict, or `below_detection` where not even the unchanged original model could be told
    from a retrain."""
    return "below_detection" if verdict == "inconclusive" and original_caught is False else verdict


def features(probes: Mapping[str, Any], request_id: str) -> dict[str, Any]:
    """What the features still hold of a request's records, each measure with its values or the
    reason for none.

    Raises:
        EvidenceError: the probes are of other requests.
    """
    missing = {"reason": probes.get("reason") or NOT_MEASURED}
    own: Mapping[str, Any] = {}
    if "requests" in probes:
        own = take(probes["requests"], request_id, "probes.json")
    found = {
        "linear_probe": own.get("linear_probe"),
        "cka": own.get("cka"),
        "relearn": probes.get("relearn"),
    }
    return {name: missing if part is None else part for name, part in found.items()}


def request(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The facts of a request from its entry in the register."""
    return {"id": entry_id(entry), **{key: take(entry, key, where) for key in OF_REGISTER}}


def due(entry: Mapping[str, Any], started: str, holidays: Sequence[date]) -> dict[str, Any]:
    """The deadline of a request, counted from the day that its time stamp writes; a sentence where
    there is none."""
    try:
        found = deadlines.deadline(
            str(entry.get("regulation")), moment(str(entry.get("received"))).date(), holidays
        )
    except (RequestError, EvidenceError):
        rule = say(
            "No deadline was counted: the request names no known regulation, or no valid time of "
            "receipt."
        )
        return {"rule": rule, "date": None, "days_left": None}
    if found.date is None:
        return {"rule": found.rule, "date": None, "days_left": None}
    left = (found.date - moment(started).date()).days
    return {"rule": found.rule, "date": found.date.isoformat(), "days_left": left}


def seconds(lineage: Mapping[str, Any], chosen: Settings) -> dict[str, Any]:
    """What training, unlearning and retraining cost, s; a checkpoint of one's own is costed by the
    reference models.

    A screening has no retrained model, and may have no reference model: then the cost is not known.
    """
    models = take(lineage, "models", "lineage.json")
    screening = chosen.verify.mode == "screening"
    original, unlearned = (
        of_role(models, role)[0]["seconds"] for role in ("original", "unlearned")
    )
    if unlearned is None and chosen.unlearn.method == "none":
        unlearned = 0.0
    retrained = of_role(models, "retrained", needed=not screening)
    references = [
        entry["seconds"]
        for entry in models
        if entry["role"] == "with" and entry["seconds"] is not None
    ]
    if original is None and not references and not screening:
        raise EvidenceError(
            "lineage.json: neither the original model nor a reference model has its seconds; "
            "score again"
        )
    source = (
        "original"
        if original is not None
        else "median of the reference models"
        if references
        else "not known"
    )
    return {
        "train": statistics.median(references) if original is None and references else original,
        "unlearn": unlearned,
        "retrain": retrained[0]["seconds"] if retrained else None,
        "train_source": source,
    }


def of_role(
    models: Sequence[Mapping[str, Any]], role: str, needed: bool = True
) -> list[Mapping[str, Any]]:
    """The models of a role. Raises `EvidenceError` where one is needed and missing, or lacks its
    `seconds` key."""
    found = [entry for entry in models if take(entry, "role", "lineage.json") == role]
    if needed and not found:
        raise EvidenceError(f"lineage.json names no {role} model; run the stage score again")
    for entry in found:
        take(entry, "seconds", f"lineage.json, {role} model")
    return found


def model(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One model of the lineage; a path outside the workspace is cut to its name."""
    path = PurePath(take(entry, "path", "lineage.json"))
    outside = path.is_absolute() or ".." in path.parts
    return {**entry, "file": path.name if outside else path.as_posix()}


def unlearned(sources: Sources) -> dict[str, Any]:
    """Method, its settings, a rival's with the numbers that stood for null, and its trace."""
    chosen = sources.settings
    used = fcalb.in_force(chosen).unlearn.model_dump(mode="json")
    if chosen.unlearn.method in rivals.METHODS:
        used["rivals"] |= asdict(rivals.recipe(chosen))
    return {
        "method": chosen.unlearn.method,
        "settings": used,
        "trace": trace(sources.trace),
    }


def trace(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The rows of `trace.csv` as columns, thinned evenly to at most 200 with the first and the
    last."""
    kept = [rows[index] for index in thinned(len(rows))]
    try:
        return {
            "step": [int(row["step"]) for row in kept],
            "phase": [row["phase"] for row in kept],
            **{
                name: [float(row[name]) if row[name] not in ("", "nan") else None for row in kept]
                for name in OF_TRACE
            },
        }
    except (KeyError, ValueError, TypeError) as error:
        raise EvidenceError(
            f"trace.csv: got a row with {error}, expected numbers in {', '.join(OF_TRACE)}"
        ) from error


def thinned(count: int, most: int = TRACE_POINTS) -> list[int]:
    """At most `most` of the indices 0 … count - 1, evenly spread, the ends among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})


def checks(sources: Sources, request_id: str) -> dict[str, Any]:
    """The data checks; of the requests found at fault only whether this one is among them."""

    def one(check: Mapping[str, Any]) -> dict[str, Any]:
        named = check.get("requests", [])
        return {"records": [], "count": len(named), **check, "this_request": request_id in named}

    return {
        "data": [one(check) for check in take(sources.data_checks, "checks", "data.json")],
        "requests": [
            one(check) for check in take(sources.request_checks, "checks", "requests.json")
        ],
    }


def data_set(sources: Sources) -> dict[str, Any]:
    """Size and hashes of the data set, which the checks and the scores have to agree on."""
    found = {key: take(sources.data_checks, key, "data.json") for key in OF_DATA}
    if found["manifest_sha256"] != take(sources.lineage, "manifest_sha256", "lineage.json"):
        raise EvidenceError(
            "data.json and lineage.json are of different manifests; run `erasure-audit run` again"
        )
    return {**found, "data_md5": take(sources.record, "data_md5", "the batch record")}


def provenance(sources: Sources) -> dict[str, Any]:
    """Software, machine, seeds and settings."""
    chosen = sources.settings
    per_block = chosen.references.seeds_per_block
    moment(take(sources.record, "started", "the batch record"))
    return {
        **{key: take(sources.record, key, "the batch record") for key in OF_RECORD},
        "tag": f"audit/{sources.batch}",
        "devices": sorted(
            {
                entry["device"]
                for entry in take(sources.lineage, "models", "lineage.json")
                if entry.get("device")
            }
        ),
        "seed": chosen.seed,
        "reference_seeds": {
            "with": per_block * len(chosen.references.with_blocks),
            "without": per_block * len(chosen.references.without_blocks),
        },
        "settings": chosen.model_dump(mode="json"),
        "settings_changed": plain(settings.changed(chosen)),
        "signing": sources.record.get("signing"),
    }


def reproduction(batch: str) -> list[dict[str, Any]]:
    """Three ways to check the audit again, from the cheapest to the dearest."""
    checkout = f"git checkout audit/{batch}"
    reproduce = f"erasure-audit reproduce {batch} --level"
    return [
        {
            "level": "integrity",
            "shows": say("Every file is the one that was recorded: all hashes match."),
            "needs": say("the repository and its DVC store"),
            "commands": [f"{reproduce} integrity"],
        },
        {
            "level": "rederive",
            "shows": say("Verdict and report follow from the stored scores, byte for byte."),
            "needs": say(
                "the stored scores; no personal data, so it still works once the records are erased"
            ),
            "commands": [
                f"{reproduce} rederive",
                f"{checkout} && dvc repro --single-item --force verify report",
            ],
        },
        {
            "level": "reexecute",
            "shows": say("Everything computed anew from the records gives the same result."),
            "needs": say(
                "all records; identical hashes on the same class of machine, elsewhere the same "
                "verdict"
            ),
            "commands": [f"{reproduce} reexecute", f"{checkout} && dvc pull && dvc repro --force"],
        },
    ]


def entry_id(entry: Mapping[str, Any]) -> str:
    """The id of a register entry."""
    return str(take(entry, "request_id", "register.json"))


def take(mapping: Mapping[str, Any], key: str, where: str) -> Any:
    """`mapping[key]`. Raises `EvidenceError` that names the place where it is missing."""
    try:
        return mapping[key]
    except (KeyError, TypeError):
        raise EvidenceError(f"{where}: {key} is missing; run `erasure-audit run` again") from None


def moment(text: str) -> datetime:
    """A time stamp in RFC 3339. Raises `EvidenceError` where it is none."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise EvidenceError(
            f"got {text!r}, expected a time stamp like 2026-11-21T01:02:03Z"
        ) from None


def plain(value: Any) -> Any:
    """The same in types that JSON has: tuples become lists, dates text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value


def visible(value: Any) -> Any:
    """The same with control, surrogate and text-direction characters written out as [U+202E]."""
    if isinstance(value, str):
        return re.sub(r"[^\x20-\x7e]", lambda found: shown(found.group()), value)
    if isinstance(value, Mapping):
        return {visible(key): visible(item) for key, item in value.items()}
    return [visible(item) for item in value] if isinstance(value, (list, tuple)) else value


def shown(character: str) -> str:
    """The character, or its code point where it would be invisible or reorder the text around
    it."""
    hidden = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return (
        f"[U+{ord(character):04X}]"
        if hidden and character not in "\u200c\u200d\u00ad"
        else character
    )
