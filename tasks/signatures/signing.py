"""Signatures of a report: PAdES inside its PDF, and an in-toto statement in a DSSE envelope beside
it. Both Ed25519.

Trust goes by the key and not by a chain of certificates: a signature counts if its public key is
one that the reader trusts. Checking is stricter than the formats ask for: a PDF's signature covers
the whole file, the only bytes that it cannot cover (its own) have one form, and so has an envelope.
So every changed, added or missing byte is found.

Bytes in, values out; `flows.reports.signing` reads and writes the files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any

from tasks.common.errors import SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
    from cryptography.x509 import Certificate

ALGORITHM = "ed25519"
FIELD = "ErasureAudit"
"""The PDF's signature field."""
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:erasure-audit:report:v1"
PAYLOAD = "application/vnd.in-toto+json"
DEVELOPMENT = "development"
"""Organisational unit in the certificate of a key that is for trying things out."""
BYTE_RANGE = re.compile(rb"/ByteRange \[(\d{1,12}) (\d{1,12}) (\d{1,12}) (\d{1,12}) *\]")

GARBLED = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)
"""What the libraries raise on bytes that are no signature."""


@dataclass(frozen=True)
class Signer:
    """Whose signature it is.

    Attributes:
        key_id: SHA-256 of the public key (SubjectPublicKeyInfo, DER), 64 hexadecimal digits.
        subject: the name in the certificate; empty for a bare public key.
        development: made for trying things out, so it proves nothing about a person.
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


@dataclass(frozen=True)
class Statement:
    """What an envelope says once its signature was found to be right.

    Attributes:
        subjects: file, relative to the workspace, and the SHA-256 of its bytes.
        predicate: batch, request, verdict and so on.
        signer: who signed it.
    """

    subjects: dict[str, str]
    predicate: dict[str, Any]
    signer: Signer


def make_key(development: bool) -> bytes:
    """A new private key with its self-made certificate, as PEM."""
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    )
    return secret + _certificate(private, development).public_bytes(forms.Encoding.PEM)


def read_key(pem: bytes, passphrase: str | None = None) -> SigningKey:
    """A private key from PEM, with the certificate that the PEM holds or else a self-made one.

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
    """What others need to check the key's signatures: its certificate as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return key.certificate.public_bytes(Encoding.PEM)


def key_id(public: Ed25519PublicKey) -> str:
    """SHA-256 of the public key; `openssl pkey -pubin -in key.pem -outform DER | sha256sum` gives
    the same."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def sign_pdf(pdf: bytes, key: SigningKey) -> bytes:
    """Append a signature (PAdES B-B) to a PDF; the bytes given stay an identical prefix. Needs no
    network.

    The time in it is the machine's own. The field is invisible and off the page, which PDF/A and
    PDF/UA both allow. The document's metadata stay as they are, for pyHanko would write PDF/A's
    part of them anew in another form.

    Raises:
        SignatureError: the PDF cannot be read, or is signed already.
    """
    from asn1crypto import keys, x509
    from cryptography.hazmat.primitives import serialization as forms
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.pdf_utils.misc import PdfError
    from pyhanko.sign import fields, signers
    from pyhanko.sign.general import SigningError
    from pyhanko_certvalidator.registry import SimpleCertificateStore

    secret = key.private.private_bytes(
        forms.Encoding.DER, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    )
    store: Any = SimpleCertificateStore
    signer = signers.SimpleSigner(
        signing_cert=x509.Certificate.load(key.certificate.public_bytes(forms.Encoding.DER)),
        signing_key=keys.PrivateKeyInfo.load(secret),
        cert_registry=store(),
    )
    meta = signers.PdfSignatureMetadata(
        field_name=FIELD,
        md_algorithm="sha512",
        subfilter=fields.SigSeedSubFilter.PADES,
        certify=True,
        docmdp_permissions=fields.MDPPerm.NO_CHANGES,
        name=key.signer.subject,
    )

    class Writer(IncrementalPdfFileWriter):
        def _update_meta(self) -> None:
            pass

    place = fields.SigFieldSpec(
        FIELD, invis_sig_settings=fields.InvisSigSettings(box_out_of_bounds=True)
    )
    target = BytesIO()
    try:
        signers.PdfSigner(meta, signer, new_field_spec=place).sign_pdf(
            Writer(BytesIO(pdf)), output=target
        )
    except (PdfError, SigningError) as error:
        raise SignatureError(f"the PDF cannot be signed: {error}") from error
    signed = target.getvalue()
    if not signed.startswith(pdf) or check_pdf(signed) != key.signer:
        raise SignatureError(
            "the PDF signature just made does not hold; this installation's pyHanko is unfit"
        )
    return signed


def is_signed(pdf: bytes) -> bool:
    """Whether a PDF has a signature, be it right or wrong."""
    return BYTE_RANGE.search(pdf) is not None


def check_pdf(pdf: bytes) -> Signer:
    """Whose signature a PDF bears, if not one byte of the file is other than it was signed.

    The signer is the one that the file names: whether to trust that key is the caller's question.

    Raises:
        SignatureError: there is no signature, it does not cover the whole file, or it is wrong.
    """
    from asn1crypto import cms, x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509 import InvalidVersion
    from pyhanko.sign.general import SigningError
    from pyhanko.sign.validation.errors import SignatureValidationError
    from pyhanko.sign.validation.generic_cms import validate_sig_integrity

    covered, der = _parts(pdf)
    try:
        parsed = cms.ContentInfo.load(der, strict=False)["content"]
        info, raw = parsed["signer_infos"][0], parsed["certificates"][0].chosen.dump()
        usual = _container(raw, info["signed_attrs"], info["signature"].native)
        if der != usual + bytes(len(der) - len(usual)):
            raise SignatureError("the PDF's signature was changed after signing")
        signer = _signer_of(raw)
        digest = hashlib.sha512(covered).digest()
        intact, valid = validate_sig_integrity(info, x509.Certificate.load(raw), "data", digest)
    except (
        *GARBLED,
        InvalidVersion,
        UnsupportedAlgorithm,
        SigningError,
        SignatureValidationError,
    ) as error:
        raise SignatureError(
            "the PDF's signature cannot be read; the file was changed after signing"
        ) from error
    if not intact or not valid:
        raise SignatureError("the PDF was changed after signing")
    return signer


def attached(pdf: bytes) -> dict[str, bytes]:
    """The files that a PDF carries, by name. To be asked only of a PDF whose signature was checked.

    Raises:
        SignatureError: the PDF cannot be read.
    """
    import pikepdf

    try:
        with pikepdf.open(BytesIO(pdf)) as opened:
            return {name: spec.get_file().read_bytes() for name, spec in opened.attachments.items()}
    except pikepdf.PdfError as error:
        raise SignatureError("the PDF cannot be read") from error


def seal(subjects: Mapping[str, str], predicate: Mapping[str, Any], key: SigningKey) -> bytes:
    """An in-toto statement about files in a signed DSSE envelope, as JSON.

    Args:
        subjects: file, relative to the workspace, and the SHA-256 of its bytes.
        predicate: what is stated of them.
        key: the signing key.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # its documented place

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
    envelope.sign(CryptoSigner(key.private, _scheme(key.signer)))
    return _text(envelope)


def unseal(data: bytes, trusted: Iterable[Signer]) -> Statement:
    """What a statement says, if not one byte of its envelope is other than it was signed, by a
    trusted key.

    Raises:
        SignatureError: it is no such envelope, was changed, or is signed by nobody who is trusted.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    known = {signer.key_id: signer for signer in trusted}
    try:
        envelope = Envelope.from_dict(json.loads(data))
        if _text(envelope) != data or len(envelope.signatures) != 1:
            raise SignatureError("the statement was changed after signing")
        (named,) = envelope.signatures
        if named not in known:
            raise UntrustedError(named)
        envelope.verify([_scheme(known[named])], threshold=1)
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
            known[named],
        )
    except (*GARBLED, Error) as error:
        raise SignatureError(
            "the statement cannot be read, or was changed after signing"
        ) from error


class UntrustedError(SignatureError):
    """The signature is by a key that is not among the trusted ones."""

    def __init__(self, named: str) -> None:
        super().__init__(
            f"signed by the key {named[:64]}, which is not trusted; put its certificate or public "
            "key into"
            " trusted-keys/, or give it with --key, if you know whose it is"
        )


def _text(envelope: Any) -> bytes:
    """The one form of an envelope."""
    return (json.dumps(envelope.to_dict(), indent=2, sort_keys=True) + "\n").encode()


def _scheme(signer: Signer) -> Any:
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # its documented place

    return SSlibKey.from_crypto(signer.public, keyid=signer.key_id)


def _parts(pdf: bytes) -> tuple[bytes, bytes]:
    """The bytes that the last signature covers, and its own, which have to be all the rest."""
    found = [match.groups() for match in BYTE_RANGE.finditer(pdf)]
    if not found:
        raise SignatureError("the PDF is not signed")
    start, head, tail, length = (int(text) for text in found[-1])
    hexadecimal = pdf[head + 1 : tail - 1]
    whole = start == 0 and head < tail and tail + length == len(pdf)
    if not whole or pdf[head : head + 1] + pdf[tail - 1 : tail] != b"<>":
        raise SignatureError(
            "the PDF's signature does not cover the whole file; something was added or cut off"
        )
    if not re.fullmatch(rb"(?:[0-9A-F]{2})+", hexadecimal):
        raise SignatureError("the PDF's signature was changed after signing")
    return pdf[:head] + pdf[tail:], bytes.fromhex(hexadecimal.decode())


def _container(certificate: bytes, signed_attributes: Any, signature: bytes) -> bytes:
    """The CMS container as it has to be around the three parts that the signature itself vouches
    for."""
    from asn1crypto import cms, x509

    loaded = x509.Certificate.load(certificate, strict=True)
    digest = cms.DigestAlgorithm({"algorithm": "sha512"})
    info = cms.SignerInfo(
        {
            "version": "v1",
            "sid": cms.SignerIdentifier(
                {
                    "issuer_and_serial_number": {
                        "issuer": loaded.issuer,
                        "serial_number": loaded.serial_number,
                    }
                }
            ),
            "digest_algorithm": digest,
            "signed_attrs": signed_attributes,
            "signature_algorithm": cms.SignedDigestAlgorithm({"algorithm": ALGORITHM}),
            "signature": signature,
        }
    )
    data = {
        "version": "v1",
        "digest_algorithms": [digest],
        "encap_content_info": {"content_type": "data"},
        "certificates": [loaded],
        "signer_infos": [info],
    }
    container: bytes = cms.ContentInfo(
        {"content_type": "signed_data", "content": cms.SignedData(data)}
    ).dump()
    return container


def _signer_of(certificate: bytes) -> Signer:
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
    """A self-made certificate, which only names the key: the same for the same key, and without an
    end (RFC 5280)."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    named = key_id(private.public_key())
    unit = (
        [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, DEVELOPMENT)] if development else []
    )
    name = x509.Name(
        [*unit, x509.NameAttribute(NameOID.COMMON_NAME, f"Erasure Audit key {named[:16]}")]
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
        .serial_number(int(named[:30], 16) + 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, content_commitment=True, **usage), critical=True
        )
        .sign(private, None)
    )
