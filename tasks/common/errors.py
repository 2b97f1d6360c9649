"""Every error that the pipeline raises on purpose. A message says what was got, what was expected
and what to do."""

from __future__ import annotations

import re

_RECORDS = re.compile(r"\b(records?) [A-Za-z0-9._-]+(?:, [A-Za-z0-9._-]+)*(?= and \d+ more\b|:)")


def without_records(text: str) -> str:
    """Mask the record ids in a message that will be stored: an erasure could not remove them."""
    return _RECORDS.sub(r"\1 …", text)


class AuditError(Exception):
    """Root of all errors of Erasure Audit. Its text can be shown to a user and names no data
    subject."""


class SettingsError(AuditError):
    """A key of `params.yaml` is unknown, of the wrong type or out of range."""


class DataError(AuditError):
    """The manifest or an image file is invalid."""


class RequestError(AuditError):
    """A deletion request, or a batch of them, cannot be acted on."""


class ModelError(AuditError):
    """A model cannot be built, loaded, tapped or trained."""


class EvidenceError(AuditError):
    """The evidence for a verdict or a report is missing or unusable (too few references, NaN, empty
    forget set)."""


class WorkspaceError(AuditError):
    """The folder is not a workspace, or the state of its git, DVC or files stops the command."""


class StageError(AuditError):
    """A stage of the pipeline failed; the text is the stage's own message."""


class ReproductionError(AuditError):
    """A past audit could not be reproduced at the level asked for."""


class SignatureError(AuditError):
    """A signing key is missing or unusable, or a signature is invalid."""


class PseudonymError(AuditError):
    """The pseudonym key is missing or unusable, or the pseudonyms were made with another key."""
