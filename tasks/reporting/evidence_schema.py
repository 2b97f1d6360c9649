"""What `evidence.json` holds, checked when it is made.

Everything that a report says comes from here. A missing number is an error and never a blank.
Characters that reverse or hide text are written as code points, so a request cannot make its report
say something else.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tasks.common import language
from tasks.common.errors import EvidenceError
from tasks.common.settings import Method

SCHEMA_VERSION = 3
SCHEMA = Path("docs/evidence.schema.json")
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


class RequestFacts(Part):
    """The facts of the request; no identity."""

    id: str = Field(min_length=1, description="subject_request_id of the OpenDSR request")
    position: int = Field(ge=1, description="place in the batch's file, from 1")
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
    class_names: list[str] | None = Field(
        None,
        description="names of the classes 0, 1, …, those without a record included; null: they have"
        " no names but their numbers",
    )
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


class Identity(Part):
    """How the identity behind the request was checked, from the register; never whose."""

    at: str
    by: str
    how: str


class Extension(Part):
    """The extension of the deadline, from the register."""

    at: str
    by: str
    reason: str
    to: str = Field(description="the new last day, ISO date")


class EarlierAudit(Part):
    """An audit of the same request before this one, with its settings and its verdict."""

    batch: str
    started: str
    method: str
    settings_changed: dict[str, Any]
    alpha: Share
    outcome: str
    estimate: float | None
    low: float | None
    high: float | None


class Common(Part):
    """What every report has."""

    schema_version: Literal[3]
    batch: str
    request: RequestFacts
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
    released: Literal["unlearned", "retrained"] | None = Field(
        None, description="the model that was released; null: none, or nothing is decided yet"
    )
    deleted_by_retraining: bool = Field(
        False,
        description="the released model was trained from the beginning without the records",
    )
    held_back_by: Count = Field(
        0,
        description="other requests of the batch that did not pass, so that the unlearned model "
        "cannot be released although this request passed",
    )
    identity: Identity | None = None
    extension: Extension | None = None
    earlier_audits: list[EarlierAudit] = []
    error_rate: Share | None = Field(
        None,
        description="of all audits of the request together: the sum of their error rates, at most "
        "1 (union bound); null where no test was made",
    )
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
    register_: DiscoveryControl = Field(alias="register")
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
    models: Annotated[list[JudgingModel], Field(min_length=1)]

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
    outcome: Literal["rejected", "data_only"] = Field(
        "rejected",
        description="data_only: no model was trained on the records, which are to be erased",
    )
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
