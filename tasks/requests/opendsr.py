"""Parses deletion requests in OpenDSR form; no other module does.

A malformed entry is set aside as a `RefusedEntry` and does not stop the others. The content of a
request is untrusted: reasons name fields and positions and never echo a value.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tasks.common import files
from tasks.common.errors import DataError, RequestError
from tasks.common.language import Sentence, in_a_list, say
from tasks.requests import pseudonyms
from tasks.requests.identities import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

REGULATIONS = ("gdpr", "ccpa", "lgpd", "pipl")
"""Laws that a request can rest on."""

MAX_BYTES = 64 * 1024 * 1024
"""Largest request file that is read."""

PSEUDONYM = "hmac-sha256"
"""Format of an identity that is a keyed pseudonym (`tasks.requests.pseudonyms`); in batch files
only."""

_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

LAWS_SINCE = {
    "gdpr": "2018-05-25",
    "ccpa": "2020-01-01",
    "lgpd": "2020-09-18",
    "pipl": "2021-11-01",
}
"""The day from which each law applies: no request under it is older."""

CLOCKS_APART = timedelta(days=1)
"""Most time by which a request may be dated in the future, since clocks differ."""

_EACH_ONCE = say("expected a JSON object with the keys of an OpenDSR request, each once")

_OUR_KEYS = ("extensions", "erasureaudit", "recordids", "recordpseudonyms")
"""Keys that narrow a request to single records, as `_like_ours` writes them."""

_ALIKE = 0.85
"""Similarity (`difflib`) from which a key counts as one of ours, misspelt."""

_EXPECTED = {
    "regulation": say(
        "regulation: expected one of {regulations}", regulations=", ".join(REGULATIONS)
    ),
    "subject_request_id": say("subject_request_id: expected a UUID version 4"),
    "subject_request_type": say("subject_request_type: expected erasure"),
    "submitted_time": say(
        "submitted_time: expected a time of RFC 3339 with its offset, as in 2026-11-20T09:30:00Z, "
        "not in the future and not before the law applied"
    ),
    "subject_identities": say(
        "subject_identities: expected a list of at least one identity, each with identity_type, "
        "identity_value (1-512 characters, not only blanks; of a sha256: 64 hexadecimal digits) "
        "and identity_format (raw or sha256)"
    ),
    "api_version": say("api_version: expected a text of at most 32 characters"),
    "status_callback_urls": say("status_callback_urls: expected a list of at most 16 addresses"),
    "extensions": say(
        "extensions: expected an object; {example} names single records, at least one, and the "
        "languages of the report, has no other key, and stands nowhere else",
        example='{"erasure_audit": {"record_ids": ["…"], "languages": ["en"]}}',
    ),
}


def _allow_pseudonyms(info: ValidationInfo) -> None:
    """Outside senders may not send pseudonyms: they could probe whom the controller knows."""
    if info.context is not None and not info.context["pseudonyms"]:
        raise ValueError("pseudonyms are for batch files only")


class SubjectIdentity(BaseModel):
    """One way in which the controller knows the data subject."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)

    identity_type: Annotated[str, Field(pattern=r"\A[a-z0-9_]{1,64}\z")]
    identity_value: Annotated[str, Field(min_length=1, max_length=512, repr=False)]
    identity_format: Literal["raw", "sha256", "hmac-sha256"]

    @model_validator(mode="after")
    def _is_allowed(self, info: ValidationInfo) -> SubjectIdentity:
        if self.identity_format == PSEUDONYM:
            _allow_pseudonyms(info)
        form = {PSEUDONYM: pseudonyms.FORM, "sha256": _SHA256}.get(self.identity_format)
        if form and not form.fullmatch(self.identity_value):
            raise ValueError("malformed")
        if not canonical(self.identity_type, self.identity_value):
            raise ValueError("blank")
        return self


class _Wishes(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    # a null is refused: it is not clear whether all records are meant, or none
    record_ids: Annotated[
        list[Annotated[str, Field(pattern=r"\A[A-Za-z0-9._-]{1,64}\z")]],
        Field(min_length=1, validate_default=False),
    ] = []
    record_pseudonyms: Annotated[list[str], Field(min_length=1, validate_default=False)] = []
    languages: Annotated[
        list[Annotated[str, Field(pattern=r"\A[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,3}\z")]],
        Field(max_length=8),
    ] = []

    @field_validator("record_pseudonyms")
    @classmethod
    def _are_allowed(cls, values: list[str], info: ValidationInfo) -> list[str]:
        _allow_pseudonyms(info)
        if not all(map(pseudonyms.FORM.fullmatch, values)):
            raise ValueError("malformed")
        return values


class _Extensions(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)

    erasure_audit: _Wishes = _Wishes()


class _Entry(BaseModel):
    """An erasure request as OpenDSR writes it; keys that we do not use are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)

    regulation: Literal["gdpr", "ccpa", "lgpd", "pipl"]
    subject_request_id: str
    subject_request_type: Literal["erasure"]
    submitted_time: str
    subject_identities: Annotated[list[SubjectIdentity], Field(min_length=1, max_length=64)]
    api_version: Annotated[str, Field(max_length=32)] | None = None
    status_callback_urls: (
        Annotated[list[Annotated[str, Field(max_length=2048)]], Field(max_length=16)] | None
    ) = None
    extensions: _Extensions | None = None

    @field_validator("subject_request_id", "submitted_time")
    @classmethod
    def _is_well_formed(cls, value: str, info: ValidationInfo) -> str:
        normalised = _uuid4(value) if info.field_name == "subject_request_id" else _time(value)
        if normalised is None:
            raise ValueError("malformed")
        return normalised

    @field_validator("submitted_time")
    @classmethod
    def _is_plausible(cls, value: str, info: ValidationInfo) -> str:
        moment = datetime.fromisoformat(value)
        since = LAWS_SINCE.get(info.data.get("regulation", ""))
        now = info.context and info.context["now"]
        if since is not None and moment.date().isoformat() < since:
            raise ValueError("before its law applied")
        if now is not None and moment > now + CLOCKS_APART:
            raise ValueError("in the future")
        return value


@dataclass(frozen=True)
class Request:
    """A well-formed erasure request.

    `position` counts from 1 in the file; `received` is RFC 3339; no `record_ids` means all of the
    subject's records; a record id may be a pseudonym. `languages` are the requested languages of
    the report (BCP 47), with or without a catalogue. `callbacks` are the addresses to notify of
    changes.
    """

    position: int
    request_id: str
    regulation: str
    received: str
    identities: tuple[SubjectIdentity, ...] = field(repr=False)
    record_ids: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    callbacks: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class RefusedEntry:
    """An entry that is set aside: `code` for programs, `reason` for people; neither holds a value
    of the request.

    `request_id` is the entry's own where that is a UUID not used before, else `position-<n>`.
    """

    position: int
    request_id: str
    code: str
    reason: Sentence
    regulation: str | None = None
    received: str | None = None


def read_batch(path: Path) -> list[Request | RefusedEntry]:
    """Read a batch of requests, one result per entry in the file's order.

    Raises:
        RequestError: the file is missing, too large, no JSON in UTF-8, no list, or empty.
    """
    entries: list[Request | RefusedEntry] = []
    earlier_ids: set[str] = set()
    for position, value in enumerate(_read_list(path), start=1):
        entry = parse(value, position, earlier_ids, allow_pseudonyms=True)
        earlier_ids.add(entry.request_id)
        entries.append(entry)
    return entries


def parse(
    value: Any,
    position: int,
    earlier_ids: Iterable[str] = (),
    *,
    allow_pseudonyms: bool = False,
    now: datetime | None = None,
) -> Request | RefusedEntry:
    """Read one entry of a batch. Never raises.

    Args:
        value: the entry as JSON gives it.
        position: its place in the file, from 1.
        earlier_ids: request ids of the entries before it.
        allow_pseudonyms: whether identities and records may be given as pseudonyms, as in a batch
            file of our own.
        now: the time, to refuse requests dated in the future. A batch file is read without it: its
            result must not depend on the day.
    """
    head = _readable_head(value)
    name = head["subject_request_id"] or f"position-{position}"
    facts = (head["regulation"], head["submitted_time"])
    if name in earlier_ids:
        reason = say(
            "its subject_request_id is that of an earlier request of the batch; give each request "
            "its own"
        )
        return RefusedEntry(position, f"position-{position}", "duplicate_request", reason, *facts)
    if _has_twice(value):
        return RefusedEntry(position, name, "malformed", _EACH_ONCE, *facts)
    try:
        entry = _Entry.model_validate(value, context={"pseudonyms": allow_pseudonyms, "now": now})
    except ValidationError as error:
        return RefusedEntry(position, name, *_complaint(error), *facts)
    if _has_stray_keys(value):
        return RefusedEntry(position, name, "malformed", _EXPECTED["extensions"], *facts)
    options = entry.extensions.erasure_audit if entry.extensions else _Wishes()
    return Request(
        position=position,
        request_id=entry.subject_request_id,
        regulation=entry.regulation,
        received=entry.submitted_time,
        identities=tuple(entry.subject_identities),
        record_ids=tuple(dict.fromkeys((*options.record_ids, *options.record_pseudonyms))),
        languages=tuple(dict.fromkeys(options.languages)),
        callbacks=tuple(dict.fromkeys(entry.status_callback_urls or ())),
    )


def refuse_future(path: Path, now: datetime) -> None:
    """Refuse a batch with a request that is dated in the future. Called when a run begins, not by a
    stage: the result of a batch must not depend on the day.

    Raises:
        RequestError: names the entries by their position. The stages report a file that cannot be
            read.
    """
    try:
        values = _read_list(path)
    except RequestError:
        return
    late = [
        str(position)
        for position, value in enumerate(values, start=1)
        if (moment := _readable_head(value)["submitted_time"]) is not None
        and datetime.fromisoformat(moment) > now + CLOCKS_APART
    ]
    if late:
        raise RequestError(
            f"{path.name}: entry {', '.join(late[:5])}{' …' if len(late) > 5 else ''}: "
            "submitted_time lies in the future, so no deadline can be counted; correct it"
        )


def _read_list(path: Path) -> list[Any]:
    hint = "expected a JSON list of OpenDSR erasure requests"
    try:
        content = files.read_regular(path, hint, MAX_BYTES)
    except DataError as error:
        raise RequestError(str(error)) from error
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=unambiguous)
    except (ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise RequestError(f"{path.name}: this is no JSON in UTF-8{line}; {hint}") from None
    if not isinstance(value, list):
        raise RequestError(
            f"{path.name}: got one {type(value).__name__}; {hint}, even for a single request"
        )
    if not value:
        raise RequestError(f"{path.name}: the batch is empty; {hint}, at least one")
    return value


class Ambiguous:
    """Placeholder for a JSON object that has a key twice, so that its value is unknown."""


def unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Ambiguous:
    """A JSON object whose keys occur once; for the `object_pairs_hook` of `json`."""
    value = dict(pairs)
    return value if len(value) == len(pairs) else Ambiguous()


def _has_twice(value: Any) -> bool:
    return any(isinstance(part, Ambiguous) for _, part in _parts(value))


def _has_stray_keys(value: dict[str, Any]) -> bool:
    """Whether a key that narrows a request to single records is misspelt or in the wrong place: the
    request would seem to ask for all of the person's records."""
    for path, _ in _parts(value):
        keys = [key for key in path if isinstance(key, str)]
        if not keys or keys == ["extensions"] or keys[:2] == ["extensions", "erasure_audit"]:
            continue
        is_near_ours = keys[:-1] in ([], ["extensions"], ["subject_identities"])
        if _like_ours(keys[-1], _OUR_KEYS if is_near_ours else ("erasureaudit",)):
            return True
    return False


def _like_ours(key: str, keys: Sequence[str]) -> bool:
    normalised = "".join(sign for sign in key[:64].casefold() if sign.isalnum())
    return bool(difflib.get_close_matches(normalised, keys, n=1, cutoff=_ALIKE))


def _parts(value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value within a JSON value, itself included, with its path. Not recursive: a hostile
    value may be nested deeply."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while waiting:
        path, part = waiting.pop()
        yield path, part
        if isinstance(part, dict):
            waiting += [((*path, key), inner) for key, inner in part.items()]
        elif isinstance(part, list):
            waiting += [((*path, index), inner) for index, inner in enumerate(part)]


def _readable_head(value: Any) -> dict[str, str | None]:
    """The fields that a register shows, if they are well-formed, even if the entry is not."""
    readers = {"subject_request_id": _uuid4, "regulation": _regulation, "submitted_time": _time}
    entry = value if isinstance(value, dict) else {}
    return {key: reader(entry.get(key)) for key, reader in readers.items()}


def _uuid4(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) and _UUID4.fullmatch(value.lower()) else None


def _regulation(value: Any) -> str | None:
    return value if isinstance(value, str) and value in REGULATIONS else None


def _time(value: Any) -> str | None:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return None
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return None
    return value


def _complaint(error: ValidationError) -> tuple[str, Sentence]:
    """Code and reason of a refusal. Field names come from our model only: a hostile key is not
    repeated."""
    fields = [
        key
        for key in _EXPECTED
        if any(fault["loc"][:1] == (key,) for fault in error.errors(include_input=False))
    ]
    if not fields:
        return "malformed", _EACH_ONCE
    code = "not_erasure" if fields == ["subject_request_type"] else "malformed"
    return code, in_a_list(_EXPECTED[key] for key in fields)
