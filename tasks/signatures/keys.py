"""Ed25519 keys that sign reports, and the public keys that their signatures are checked with.

Readers trust keys, not chains of certificates: a signature counts if the reader trusts its public
key. A certificate only gives a key a name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tasks.common.errors import SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
    from cryptography.x509 import Certificate

ALGORITHM = "ed25519"
GARBLED = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)
"""What the libraries raise on bytes that are no signature, statement or time stamp."""
DEVELOPMENT = "development"
"""Organisational unit in the certificate of a key for trials."""


@dataclass(frozen=True)
class Signer:
    """The holder of a key.

    Attributes:
        key_id: SHA-256 of the public key (SubjectPublicKeyInfo, DER), 64 hexadecimal digits.
        subject: the name in the certificate; empty for a bare public key.
        development: made for trials, so it proves nothing about a person.
        public: the public key.
    """

    key_id: str
    subject: str
    development: bool
    public: Ed25519PublicKey = field(repr=False, compare=False)


@dataclass(frozen=True)
class SigningKey:
    """A private key with its certificate; neither is ever shown."""

    signer: Signer
    private: Ed25519PrivateKey = field(repr=False)
    certificate: Certificate = field(repr=False)


class UntrustedError(SignatureError):
    """The signature is by a key that is not among the trusted ones."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"signed by the key {key_id[:64]}, which is not trusted; put its certificate or public "
            "key into trusted-keys/, or give it with --key, if you know whose it is"
        )


def make_key(development: bool) -> bytes:
    """A new private key with its self-signed certificate, as PEM."""
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    )
    return secret + _certificate(private, development).public_bytes(forms.Encoding.PEM)


def read_key(pem: bytes, passphrase: str | None = None) -> SigningKey:
    """A private key from PEM, with the certificate in the PEM or else a self-signed one.

    Raises:
        SignatureError: no Ed25519 key, an encrypted one without the right passphrase, or another
            key's certificate.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    encrypted = b"ENCRYPTED" in pem
    if encrypted and not passphrase:
        raise SignatureError(
            "the signing key is encrypted; give its passphrase in ERASURE_AUDIT_KEY_PASSPHRASE"
        )
    try:
        private = load_pem_private_key(
            pem, passphrase.encode() if encrypted and passphrase else None
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):  # its text could quote the key
        raise SignatureError(
            "the signing key is no PEM private key, or its passphrase is another; make one with"
            " `openssl genpkey -algorithm ed25519`"
        ) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise SignatureError(
            "the signing key is of another kind, expected Ed25519; see docs/signing.md"
        )
    certificate = _certificate_in(pem) or _certificate(private, development=False)
    signer = _signer(certificate.public_key(), certificate)
    if signer.key_id != key_id(private.public_key()):
        raise SignatureError(
            "the certificate beside the signing key belongs to another key; remove or replace it"
        )
    return SigningKey(signer, private, certificate)


def read_signer(pem: bytes) -> Signer:
    """A signer from the PEM of a certificate or of a public key.

    Raises:
        SignatureError: it is neither, or not Ed25519.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if certificate := _certificate_in(pem):
        return _signer(certificate.public_key(), certificate)
    try:
        return _signer(load_pem_public_key(pem), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SignatureError(
            "expected the PEM of an Ed25519 public key or certificate, got something else"
        ) from error


def public_pem(key: SigningKey) -> bytes:
    """The key's certificate as PEM, by which others check its signatures."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return key.certificate.public_bytes(Encoding.PEM)


def key_id(public: Ed25519PublicKey) -> str:
    """SHA-256 of the public key; `openssl pkey -pubin -in key.pem -outform DER | sha256sum` gives
    the same."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def signer_of(certificate: bytes) -> Signer:
    """The signer that a certificate (DER) names.

    Raises:
        SignatureError: its key is not Ed25519.
    """
    from cryptography.x509 import load_der_x509_certificate

    loaded = load_der_x509_certificate(certificate)
    return _signer(loaded.public_key(), loaded)


def _signer(public: object, certificate: Certificate | None) -> Signer:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.x509.oid import NameOID

    if not isinstance(public, Ed25519PublicKey):
        raise SignatureError(
            "got a public key of another kind, expected Ed25519; see docs/signing.md"
        )
    if certificate is None:
        return Signer(key_id(public), "", False, public)
    units = [
        unit.value
        for unit in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    ]
    return Signer(
        key_id(public), certificate.subject.rfc4514_string(), DEVELOPMENT in units, public
    )


def _certificate_in(pem: bytes) -> Certificate | None:
    from cryptography.x509 import InvalidVersion, load_pem_x509_certificate

    if b"BEGIN CERTIFICATE" not in pem:
        return None
    try:
        return load_pem_x509_certificate(pem)
    except (ValueError, InvalidVersion) as error:
        raise SignatureError(
            "the certificate cannot be read, expected PEM; see docs/signing.md"
        ) from error


def _certificate(private: Ed25519PrivateKey, development: bool) -> Certificate:
    """A self-signed certificate that only names the key: always the same for a key, and without an
    end date (RFC 5280)."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    fingerprint = key_id(private.public_key())
    unit = (
        [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, DEVELOPMENT)] if development else []
    )
    name = x509.Name(
        [*unit, x509.NameAttribute(NameOID.COMMON_NAME, f"Erasure Audit key {fingerprint[:16]}")]
    )
    usage = dict.fromkeys(
        ("key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign"), False
    )
    usage |= dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(int(fingerprint[:30], 16) + 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, content_commitment=True, **usage), critical=True
        )
        .sign(private, None)
    )
