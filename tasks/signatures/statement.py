"""Signed statements about a report: an in-toto statement in a DSSE envelope, by Ed25519.

An envelope has only one valid form, so every changed byte is found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.common.errors import SignatureError
from tasks.signatures.keys import GARBLED, Signer, SigningKey, UntrustedError

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:erasure-audit:report:v1"
PAYLOAD = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Statement:
    """The content of an envelope whose signature is valid.

    Attributes:
        subjects: file, relative to the workspace, and the SHA-256 of its bytes.
        predicate: batch, request, verdict and so on.
        signer: who signed it.
    """

    subjects: dict[str, str]
    predicate: dict[str, Any]
    signer: Signer


def seal(subjects: Mapping[str, str], predicate: Mapping[str, Any], key: SigningKey) -> bytes:
    """An in-toto statement about files in a signed DSSE envelope, as JSON.

    Args:
        subjects: file, relative to the workspace, and the SHA-256 of its bytes.
        predicate: what is stated about them.
        key: the signing key.
    """
    from securesystemslib import signer as signers
    from securesystemslib.dsse import Envelope

    content = {
        "_type": STATEMENT,
        "subject": [
            {"name": name, "digest": {"sha256": subjects[name]}} for name in sorted(subjects)
        ],
        "predicateType": PREDICATE,
        "predicate": dict(predicate),
    }
    payload = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    envelope = Envelope(payload, PAYLOAD, {})
    library: Any = signers  # it exports its names without declaring them
    envelope.sign(library.CryptoSigner(key.private, _scheme(key.signer)))
    return _text(envelope)


def unseal(data: bytes, trusted: Iterable[Signer]) -> Statement:
    """Open a statement: a trusted key must have signed it, and not one byte may have changed since.

    Raises:
        SignatureError: it is no such envelope, was changed, or is not signed by a trusted key.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    by_key = {signer.key_id: signer for signer in trusted}
    try:
        envelope = Envelope.from_dict(json.loads(data))
        if _text(envelope) != data or len(envelope.signatures) != 1:
            raise SignatureError("the statement was changed after signing")
        (key_id,) = envelope.signatures
        if key_id not in by_key:
            raise UntrustedError(key_id)
        envelope.verify([_scheme(by_key[key_id])], threshold=1)
        content = json.loads(envelope.payload)
        if (envelope.payload_type, content["_type"], content["predicateType"]) != (
            PAYLOAD,
            STATEMENT,
            PREDICATE,
        ):
            raise SignatureError(
                "the envelope holds another kind of statement, expected one about a report"
            )
        return Statement(
            {subject["name"]: subject["digest"]["sha256"] for subject in content["subject"]},
            content["predicate"],
            by_key[key_id],
        )
    except (*GARBLED, Error) as error:
        raise SignatureError(
            "the statement cannot be read, or was changed after signing"
        ) from error


def _text(envelope: Any) -> bytes:
    """The only valid form of an envelope."""
    return (json.dumps(envelope.to_dict(), indent=2, sort_keys=True) + "\n").encode()


def _scheme(signer: Signer) -> Any:
    from securesystemslib import signer as signers

    library: Any = signers
    return library.SSlibKey.from_crypto(signer.public, keyid=signer.key_id)
