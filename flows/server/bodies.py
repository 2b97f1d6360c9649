"""The bodies of requests and answers as pydantic models, from which OpenAPI is made.

An OpenDSR request is only described here: `tasks.requests.opendsr` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from flows.register.register import State
from flows.release.standing import BatchState, Choice, Next, Original, Waiting
from tasks.common.errors import RequestError
from tasks.requests import opendsr

# -- from operators and approvers -----------------------------------------------------------------


def _storable(text: Any) -> Any:
    """Refuse NUL and other control characters except line ends and tabs: not every database keeps
    them."""
    if any(ord(character) < 32 and character not in "\n\t" for character in str(text)):
        raise ValueError("a control character")
    return text


Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1000, strip_whitespace=True),
    BeforeValidator(_storable),
]
"""Free text for the register."""


class OperatorBody(BaseModel):
    """A body with known keys only. Its error describes the expected content and quotes nothing."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    @model_validator(mode="wrap")
    @classmethod
    def _explained(
        cls, value: Any, validate: ModelWrapValidatorHandler[OperatorBody]
    ) -> OperatorBody:
        if isinstance(value, dict) and any(part is None for part in value.values()):
            raise RequestError(_expected(cls))
        try:
            return validate(value)
        except ValidationError as error:
            raise RequestError(_complaint(cls, error)) from None

    def given_fields(self) -> dict[str, Any]:
        """The fields that were sent, by name."""
        return self.model_dump(exclude_unset=True)


def _expected(form: type[OperatorBody]) -> str:
    names = ", ".join(
        name + ("" if field.is_required() else " (may be missing)")
        for name, field in form.model_fields.items()
    )
    return (
        f"expected a JSON object with {names}: texts of 1 to 1000 characters without control "
        "characters, and no other key; who acts is who the token says"
    )


def _complaint(form: type[OperatorBody], error: ValidationError) -> str:
    """Name the field if its value is not one of the allowed words; else describe the whole form."""
    faults = error.errors(include_url=False, include_input=False)
    if {fault["type"] for fault in faults} == {"literal_error"}:
        choices = faults[0]["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{faults[0]['loc'][0]}: expected one of {choices}"
    return _expected(form)


class IdentityBody(OperatorBody):
    """How an identity was verified."""

    how: Text


class ReasonBody(OperatorBody):
    """Why something is done."""

    reason: Text


class HoldBody(OperatorBody):
    """A legal hold."""

    reason: Text
    ground: Text | SkipJsonSchema[None] = None


class ApprovalBody(OperatorBody):
    """An approval; `model` is the one to release."""

    comment: Text
    model: Original | SkipJsonSchema[None] = None
    ground: Text | SkipJsonSchema[None] = None


class RejectionBody(OperatorBody):
    """A rejection, and what becomes of the requests."""

    comment: Text
    next: Next
    method: Text | SkipJsonSchema[None] = None
    ground: Text | SkipJsonSchema[None] = None


# -- from controllers -----------------------------------------------------------------------------

_REQUEST = {
    "type": "object",
    "required": [
        "regulation",
        "subject_request_id",
        "subject_request_type",
        "submitted_time",
        "subject_identities",
    ],
    "properties": {
        "regulation": {"enum": list(opendsr.REGULATIONS)},
        "subject_request_id": {"type": "string", "format": "uuid", "description": "version 4"},
        "subject_request_type": {"enum": ["erasure"]},
        "submitted_time": {"type": "string", "format": "date-time"},
        "subject_identities": {
            "type": "array",
            "minItems": 1,
            "maxItems": 64,
            "items": {
                "type": "object",
                "required": ["identity_type", "identity_value", "identity_format"],
                "properties": {
                    "identity_type": {"type": "string", "pattern": "^[a-z0-9_]{1,64}$"},
                    "identity_value": {"type": "string", "minLength": 1, "maxLength": 512},
                    "identity_format": {"enum": ["raw", "sha256"]},
                },
            },
        },
        "api_version": {"type": "string", "maxLength": 32},
        "status_callback_urls": {
            "type": "array",
            "maxItems": 16,
            "items": {"type": "string", "format": "uri", "maxLength": 2048},
        },
        "extensions": {"type": "object"},
    },
}
OpenDsrRequest = Annotated[Any, WithJsonSchema(_REQUEST)]
"""A deletion request, read by `tasks.requests.opendsr`."""


# -- answers to controllers -----------------------------------------------------------------------


class Receipt(BaseModel):
    """A request was received."""

    controller_id: str
    expected_completion_time: str | None
    received_time: str
    encoded_request: str
    subject_request_id: str
    api_version: str


class RequestStatus(BaseModel):
    """How far a request is, in OpenDSR's words."""

    controller_id: str
    expected_completion_time: str | None
    subject_request_id: str
    request_status: Literal["pending", "in_progress", "completed", "cancelled"]
    api_version: str


class Cancellation(BaseModel):
    """A request was cancelled."""

    controller_id: str
    received_time: str
    subject_request_id: str
    api_version: str


class SupportedIdentity(BaseModel):
    """A type of identity that can be sent, in one form."""

    identity_type: str
    identity_format: Literal["raw", "sha256"]


class Discovery(BaseModel):
    """What the server understands."""

    api_version: str
    supported_identities: list[SupportedIdentity]
    supported_subject_request_types: list[str]
    supported_regulations: list[str]
    processor_certificate: str


# -- answers to operators, approvers and auditors -------------------------------------------------


class CaseAnswer(BaseModel):
    """A request as it is now, without pseudonyms and addresses."""

    model_config = ConfigDict(from_attributes=True)

    request_id: str
    regulation: str
    submitted: str
    source: str
    due: date | None
    extended: bool
    state: State
    shown: str
    held: bool
    batch: str | None
    verdict: str | None
    duplicate_of: str | None


class CasePage(BaseModel):
    """Some of the requests, and how many there are."""

    model_config = ConfigDict(from_attributes=True)

    total: int
    requests: list[CaseAnswer]


class EventAnswer(BaseModel):
    """An event of the register."""

    model_config = ConfigDict(from_attributes=True)

    seq: int
    at: str
    actor: str
    request_id: str | None
    batch: str | None
    kind: str
    details: Mapping[str, Any]
    hash: str


class EventPage(BaseModel):
    """Some events."""

    model_config = ConfigDict(from_attributes=True)

    events: list[EventAnswer]


class StandingAnswer(BaseModel):
    """Where a batch stands."""

    model_config = ConfigDict(from_attributes=True)

    batch: str
    state: BatchState
    requests: tuple[Waiting, ...]
    model: Original | None
    data_only: bool
    unlearned_may_go: bool
    retrain_proposed: bool
    disagree: bool
    choices: tuple[Choice, ...]
    line: str


class IntactChain(BaseModel):
    """The chain of events is whole; its end."""

    intact: Literal[True] = True
    events: int
    head: str


class BrokenChain(BaseModel):
    """The chain of events is not whole, and why."""

    intact: Literal[False] = False
    message: str


class Health(BaseModel):
    """The server is there."""

    status: Literal["ok"] = "ok"


class ErrorFacts(BaseModel):
    """The status of HTTP, and what to do."""

    code: int
    message: str


class ErrorAnswer(BaseModel):
    """Any error, in OpenDSR's form."""

    error: ErrorFacts
