"""The part of `evidence.json` about the request: its facts, its copies, what people did."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks.reporting.evidence_part import Count, Part, Share


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


class Kept(Part):
    """How long something that the tool makes of a request is kept."""

    what: str
    period: str


class DecidingRole(Part):
    """A role in which people decide, what qualifies them, and how they are independent."""

    role: str
    competence: str
    independence: str


class HandedOn(Part):
    """A model that was derived from the original one, or handed on."""

    model: str
    to: str
    recall: str = Field(description="what became of its recall")


class Organisation(Part):
    """Whom the report speaks for, and what only the organisation knows; null or empty where its
    settings do not say."""

    controller: str
    system: str
    contact: str | None = None
    authority: str | None = Field(None, description="the supervisory authority in charge")
    processing_record: str | None = Field(
        None, description="entry in the records of processing activities"
    )
    deletion_rule: str | None = None
    retention: list[Kept] = Field([])
    deciders: list[DecidingRole] = Field([])
    derived_models: list[HandedOn] = Field([])


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
    ground: str | None = Field(None, description="the provision that the decision rests on")


class Advice(Part):
    """What is advised for the batch, and why."""

    code: str
    text: str = Field(min_length=1)
    values: dict[str, int | float] = Field(
        {}, description="numbers in the text: whole ones are counts, others shares"
    )


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


class Refusal(Part):
    """That people refused the request for good, from the register."""

    at: str
    by: str
    reason: str
    ground: str | None = Field(None, description="the provision that the refusal rests on")


class SentLetter(Part):
    """A letter to the data subject that was sent, from the register."""

    at: str
    by: str
    how: str
    kind: Literal["answer", "extension", "refusal"]


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
