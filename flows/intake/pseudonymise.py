"""Parses requests and replaces identities with pseudonyms before they enter the register;
identities in the clear are dropped.

All requests pass here, from HTTP, the drop folder and files.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.workspace import environment
from tasks.common.errors import RequestError
from tasks.requests import opendsr, pseudonyms

if TYPE_CHECKING:
    from flows.register.register import Case, Intake

_ADDRESS = re.compile(r"https?://[\x21-\x7e]{1,2040}")


def take_in(home: Path, value: Any) -> Intake:
    """An OpenDSR request as the register keeps it: identities and record ids as keyed pseudonyms.

    Args:
        home: the workspace, whose key is used, and made if there is none.
        value: the request as parsed JSON.

    Raises:
        RequestError: it is malformed; the message names fields and quotes no value.
        PseudonymError: the key cannot be used.
    """
    from flows.register.register import Intake

    entry = opendsr.parse(value, 1, now=datetime.now(UTC))
    if isinstance(entry, opendsr.RefusedEntry):
        raise RequestError(str(entry.reason))
    if not all(map(_ADDRESS.fullmatch, entry.callbacks)):
        raise RequestError(
            "status_callback_urls: expected addresses that begin with https:// or http://"
        )
    key = key_of(home)
    wishes = {
        "record_pseudonyms": sorted(key.of(pseudonyms.RECORD, name) for name in entry.record_ids),
        "languages": list(entry.languages),
    }
    identities = {
        (
            identity.identity_type,
            key.of(identity.identity_type, identity.identity_value, identity.identity_format),
        )
        for identity in entry.identities
    }
    return Intake(
        request_id=entry.request_id,
        regulation=entry.regulation,
        submitted=entry.received,
        identities=tuple(
            {"identity_type": kind, "identity_value": name, "identity_format": opendsr.PSEUDONYM}
            for kind, name in sorted(identities)
        ),
        wishes={name: values for name, values in wishes.items() if values},
        callbacks=entry.callbacks,
    )


def key_of(home: Path) -> pseudonyms.PseudonymKey:
    """The key of pseudonyms: the secret, else the workspace's own, made if there is none.

    A key from a Prefect block is put into this process's environment, where the stages read it.

    Raises:
        PseudonymError: it is too short, or others may read its file.
    """
    environment.export_secret(pseudonyms.KEY)
    return pseudonyms.make(home)


def as_entry(case: Case) -> dict[str, Any]:
    """A request as an entry of a batch file: only pseudonyms, since git keeps the file."""
    entry: dict[str, Any] = {
        "regulation": case.regulation,
        "subject_request_id": case.request_id,
        "subject_request_type": "erasure",
        "submitted_time": case.submitted,
        "subject_identities": [dict(identity) for identity in case.identities],
        "api_version": "1.0",
    }
    return entry | ({"extensions": {"erasure_audit": dict(case.wishes)}} if case.wishes else {})
