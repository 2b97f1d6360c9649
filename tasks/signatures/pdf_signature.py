"""Signatures inside a report's PDF (PAdES), by Ed25519.

Checking is stricter than the format requires. The signature has to cover the whole file, and its
own bytes, which it cannot cover, have only one valid form. So every changed, added or missing byte
is found.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Any

from tasks.common.errors import SignatureError
from tasks.signatures import time_stamps
from tasks.signatures.keys import ALGORITHM, GARBLED, Signer, SigningKey, signer_of

if TYPE_CHECKING:
    from pyhanko.sign.signers import SimpleSigner

    from tasks.signatures.time_stamps import Authority, Stamper, TimeStamp

FIELD = "ErasureAudit"
"""The PDF's signature field."""
BYTE_RANGE = re.compile(rb"/ByteRange \[(\d{1,12}) (\d{1,12}) (\d{1,12}) (\d{1,12}) *\]")
_MADE = re.compile(rb"/M \((D[^)]*)\)")
_DATE = re.compile(rb"D:(\d{14})(?:Z|([+-]\d\d)'(\d\d)'?)")
_RESERVED = 32 * 1024
"""Most hexadecimal digits of a signature with a time stamp; authorities' certificates differ in
length."""


@dataclass(frozen=True)
class PdfSignature:
    """A valid signature of a PDF.

    Attributes:
        signer: who signed, according to the file; the caller decides whether to trust that key.
        claimed: when it was made, by the signer's clock.
        stamp: its time stamp, if it has one.
    """

    signer: Signer
    claimed: datetime
    stamp: TimeStamp | None


def sign(pdf: bytes, key: SigningKey, stamper: Stamper | None = None) -> bytes:
    """Append a signature to a PDF, PAdES B-B, or B-T with a time stamp; the bytes given stay an
    identical prefix. Without a stamper it needs no network.

    Its time is the machine's. The field is invisible and off the page, which PDF/A and PDF/UA both
    allow. The document's metadata stay unchanged: pyHanko would rewrite the PDF/A part in another
    form.

    Raises:
        SignatureError: the PDF cannot be read, or is signed already; or no time stamp can be had.
    """
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.pdf_utils.misc import PdfError
    from pyhanko.sign import fields, signers
    from pyhanko.sign.general import SigningError

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

    field = fields.SigFieldSpec(
        FIELD, invis_sig_settings=fields.InvisSigSettings(box_out_of_bounds=True)
    )
    target = BytesIO()
    try:
        signers.PdfSigner(
            meta,
            _signer(key),
            timestamper=_timestamper(stamper) if stamper else None,
            new_field_spec=field,
        ).sign_pdf(
            Writer(BytesIO(pdf)), output=target, bytes_reserved=_RESERVED if stamper else None
        )
    except (PdfError, SigningError) as error:
        raise SignatureError(f"the PDF cannot be signed: {error}") from error
    signed = target.getvalue()
    signature = check(signed, stamper.authorities if stamper else ())
    if not signed.startswith(pdf) or signature.signer != key.signer:
        raise SignatureError("the new PDF signature is invalid; check this installation of pyHanko")
    return signed


def _signer(key: SigningKey) -> SimpleSigner:
    """A key in the form that pyHanko takes."""
    from asn1crypto import keys, x509
    from cryptography.hazmat.primitives import serialization as forms
    from pyhanko.sign.signers import SimpleSigner
    from pyhanko_certvalidator.registry import SimpleCertificateStore

    secret = key.private.private_bytes(
        forms.Encoding.DER, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    )
    store: Any = SimpleCertificateStore
    return SimpleSigner(
        signing_cert=x509.Certificate.load(key.certificate.public_bytes(forms.Encoding.DER)),
        signing_key=keys.PrivateKeyInfo.load(secret),
        cert_registry=store(),
    )


def is_signed(pdf: bytes) -> bool:
    """Whether a PDF has a signature, valid or not."""
    return BYTE_RANGE.search(pdf) is not None


def check(pdf: bytes, authorities: Iterable[Authority] = ()) -> PdfSignature:
    """Check the signature of a PDF: not one byte of the file may have changed since signing.

    Args:
        pdf: the file.
        authorities: whose time stamps are trusted.

    Raises:
        SignatureError: there is no signature, it does not cover the whole file, or it is invalid;
            or its time stamp is invalid, or far from the time that the signature claims.
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
        signature, token = info["signature"].native, _token(info)
        expected = _container(raw, info["signed_attrs"], signature, token)
        if der != expected + bytes(len(der) - len(expected)):
            raise SignatureError("the PDF's signature was changed after signing")
        signer = signer_of(raw)
        digest = hashlib.sha512(covered).digest()
        intact, valid = validate_sig_integrity(info, x509.Certificate.load(raw), "data", digest)
        claimed = _claimed(covered)
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
    if token is None:
        return PdfSignature(signer, claimed, None)
    stamp = time_stamps.check(token, hashlib.sha512(signature).digest(), authorities)
    stamp.refuse_unless_near(claimed)
    return PdfSignature(signer, claimed, stamp)


def attachments(pdf: bytes) -> dict[str, bytes]:
    """The files attachments to a PDF, by name. Call it only after the signature was checked.

    Raises:
        SignatureError: the PDF cannot be read.
    """
    import pikepdf

    try:
        with pikepdf.open(BytesIO(pdf)) as opened:
            return {name: spec.get_file().read_bytes() for name, spec in opened.attachments.items()}
    except pikepdf.PdfError as error:
        raise SignatureError("the PDF cannot be read") from error


def _parts(pdf: bytes) -> tuple[bytes, bytes]:
    """The bytes that the last signature covers, and its own; together they have to be the whole
    file."""
    byte_ranges = [match.groups() for match in BYTE_RANGE.finditer(pdf)]
    if not byte_ranges:
        raise SignatureError("the PDF is not signed")
    start, head, tail, length = (int(text) for text in byte_ranges[-1])
    hexadecimal = pdf[head + 1 : tail - 1]
    covers_all = start == 0 and head < tail and tail + length == len(pdf)
    if not covers_all or pdf[head : head + 1] + pdf[tail - 1 : tail] != b"<>":
        raise SignatureError(
            "the PDF's signature does not cover the whole file; something was added or cut off"
        )
    if not re.fullmatch(rb"(?:[0-9A-F]{2})+", hexadecimal):
        raise SignatureError("the PDF's signature was changed after signing")
    return pdf[:head] + pdf[tail:], bytes.fromhex(hexadecimal.decode())


def _timestamper(stamper: Stamper) -> Any:
    """The stamper as pyHanko's interface expects it."""
    from asn1crypto import cms
    from pyhanko.sign.timestamps import TimeStamper

    class Asker(TimeStamper):
        async def async_timestamp(self, message_digest: bytes, md_algorithm: str) -> Any:
            return cms.ContentInfo.load(await stamper.stamp_async(message_digest, md_algorithm))

    asker: Any = Asker
    return asker()


def _token(info: Any) -> bytes | None:
    """The time stamp of a signature, in its unsigned attributes."""
    attributes = info["unsigned_attrs"]
    if not attributes:
        return None
    (attribute,) = attributes
    (token,) = attribute["values"]
    der: bytes = token.dump()
    return der


def _claimed(covered: bytes) -> datetime:
    """The time in the signature's dictionary, the last in the file."""
    text = re.sub(
        rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), _MADE.findall(covered)[-1]
    )
    digits, hours, minutes = _DATE.findall(text)[0]
    moment = datetime.strptime(digits.decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    sign = -1 if hours[:1] == b"-" else 1
    return moment - timedelta(hours=int(hours or 0), minutes=sign * int(minutes or 0))


def _container(
    certificate: bytes, signed_attributes: Any, signature: bytes, token: bytes | None
) -> bytes:
    """The only valid CMS container around the protected parts: three are protected by the signature
    itself, the time stamp by its authority."""
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
    if token is not None:
        stamp = {"type": "signature_time_stamp_token", "values": [cms.ContentInfo.load(token)]}
        info["unsigned_attrs"] = cms.CMSAttributes([cms.CMSAttribute(stamp)])
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
