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

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from tasks.common import language
from tasks.common.errors import EvidenceError
from tasks.reporting.evidence_of_case import (
    Advice,
    Copy,
    Due,
    EarlierAudit,
    Exemption,
    Extension,
    Identity,
    Organisation,
    Refusal,
    RequestFacts,
    Scope,
    SentLetter,
    Signoff,
    Told,
)
from tasks.reporting.evidence_of_ladder import LadderClimbed
from tasks.reporting.evidence_of_models import (
    Accuracy,
    Attack,
    Distribution,
    Exposure,
    Features,
    Group,
    JudgingModel,
    ScoreDistribution,
    Seconds,
    Unlearned,
)
from tasks.reporting.evidence_of_origin import Checks, DataSet, Level, Phrase, Provenance
from tasks.reporting.evidence_of_test import (
    Assumptions,
    Counts,
    DiscoveryControl,
    Gate,
    Interval,
    KnownBefore,
    Points,
    SelfCheck,
    Thresholds,
)
from tasks.reporting.evidence_part import Count, Part, Share, Unmeasured, Verdict

SCHEMA_VERSION = 3
SCHEMA = Path("docs/evidence.schema.json")


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
    advice: list[Advice] = Field([])
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
    ground: str | None = Field(
        None, description="why the data subject asks, as the register has it; null: not on record"
    )
    refusal: Refusal | None = None
    letters: list[SentLetter] = Field([], description="to the data subject, that were sent")
    earlier_audits: list[EarlierAudit] = Field([])
    error_rate: Share | None = Field(
        None,
        description="of all audits of the request together: the sum of their error rates, at most "
        "1 (union bound); null where no test was made",
    )
    ladder: LadderClimbed | None = Field(
        None, description="null: nothing but one unlearned model was to be tried"
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
    readiness: KnownBefore | None = Field(
        None, description="what the pool knew before the batch; null where no pool judged"
    )
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
        complete = Evidence.validate_python(visible(evidence))
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:3]
        ]
        raise EvidenceError(f"{where}: the evidence is incomplete: " + "; ".join(faults)) from None
    return complete.model_dump(mode="json", by_alias=True)


def schema() -> dict[str, Any]:
    """The JSON Schema of `evidence.json`, published as `docs/evidence.schema.json`."""
    json_schema = Evidence.json_schema(by_alias=True, mode="serialization")
    for definition in (json_schema, *json_schema["$defs"].values()):
        if "description" in definition:  # a docstring: where its lines break says nothing
            paragraphs = definition["description"].split("\n\n")
            definition["description"] = "\n\n".join(" ".join(text.split()) for text in paragraphs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:erasure-audit:evidence:{SCHEMA_VERSION}",
        "title": "Evidence of a deletion request",
        **json_schema,
    }


def visible(value: Any) -> Any:
    """The same with control, surrogate and text-direction characters written out as [U+202E]."""
    if isinstance(value, str):
        return re.sub(r"[^\x20-\x7e]", lambda match: shown(match.group()), value)
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
