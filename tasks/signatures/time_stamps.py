"""Time stamps (RFC 3161): an authority's signed statement that bytes existed at a moment.

A token is kept in one form: the authority's own certificate, its signed attributes and its
signature, and nothing that they do not protect. So every changed byte of a token is found. Checking
works offline, so revocation is not checked: if an authority loses its key, remove its certificate
from `trusted-tsa/`. An authority counts if its certificate, or the one that issued it, is trusted.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from tasks.common.errors import SignatureError
from tasks.signatures.keys import GARBLED

PATIENCE = 20.0
"""Time limit for an authority's answer, s."""
LARGEST = 64 * 1024
"""Largest answer that is read, bytes."""
TOLERANCE = timedelta(minutes=5)
"""Largest difference between the authority's clock and the moment that a signature claims."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Authority:
    """A certificate that is trusted for time stamps: the authority's own, or its issuer's."""

    der: bytes = field(repr=False)


@dataclass(frozen=True)
class TimeStamp:
    """The content of a token.

    Attributes:
        at: when the stamped bytes existed, by the authority's clock.
        authority: the subject of the authority's certificate.
        trusted: whether the authority is among those that were given.
    """

    at: datetime
    authority: str
    trusted: bool

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"at": _text(self.at), "authority": self.authority, "trusted": self.trusted}

    @property
    def line(self) -> str:
        """For people."""
        doubt = "" if self.trusted else ", which nobody here trusts"
        return f"time stamp of {_text(self.at)} by {self.authority}{doubt}"

    def refuse_unless_near(self, claimed: datetime) -> None:
        """Compare the stamp with the moment that a signature claims.

        Raises:
            SignatureError: it is further away than `TOLERANCE`.
        """
        if abs(self.at - claimed) > TOLERANCE:
            raise SignatureError(
                f"the signature claims to be of {_text(claimed)}, and its time stamp is of "
                f"{_text(self.at)}"
            )


@dataclass(frozen=True)
class StampPolicy:
    """The time stamps that a reader accepts.

    Attributes:
        authorities: whose stamps count.
        required: whether a signature without a stamp that counts is not trusted.
    """

    authorities: tuple[Authority, ...] = ()
    required: bool = False

    def objection(self, stamp: TimeStamp | None) -> str | None:
        """Why a valid signature does not count; None if it does.

        A stamp by an unknown authority is an objection only where one is required, or where the
        reader named the authorities that count.
        """
        if stamp is None:
            return "it has no time stamp, and one is required" if self.required else None
        if not stamp.trusted and (self.required or self.authorities):
            return (
                f"its time stamp is by {stamp.authority}, which is not trusted; put the "
                "authority's certificate into trusted-tsa/, or give it with --tsa"
            )
        return None


@dataclass(frozen=True)
class Stamper:
    """Asks an authority for tokens.

    Attributes:
        url: its address, as the user set it. Redirects are not followed.
        authorities: the trusted ones; a token by another one is refused. If empty, any is accepted,
            and the reader of the report decides.
        patience: time limit for an answer, s.
    """

    url: str
    authorities: tuple[Authority, ...] = ()
    patience: float = PATIENCE

    def stamp(self, digest: bytes, algorithm: str = "sha256") -> bytes:
        """A token over a digest, checked before it is returned, DER.

        Raises:
            SignatureError: the authority cannot be reached in time, refuses, or its answer is no
                token for this digest by a trusted authority.
        """
        return _finish(self.stamp_async(digest, algorithm))

    async def stamp_async(self, digest: bytes, algorithm: str) -> bytes:
        """As `stamp`, inside an event loop."""
        from pyhanko.sign.timestamps import TimestampRequestError
        from pyhanko.sign.timestamps.api import TimeStamper
        from pyhanko.sign.timestamps.common_utils import handle_tsp_response

        client: Any = TimeStamper
        nonce, request = client().request_cms(digest, algorithm)
        answer = await self._post(request.dump())
        try:
            from asn1crypto import tsp

            token = handle_tsp_response(tsp.TimeStampResp.load(answer, strict=True), nonce)
            der = in_one_form(token.dump())
        except TimestampRequestError as error:
            raise SignatureError(f"the time-stamping authority refuses: {error}"[:300]) from error
        except (*GARBLED, SignatureError) as error:
            raise SignatureError(
                "the time-stamping authority refuses, or its answer is no time stamp (RFC 3161); "
                "see that operate.time_stamps names one"
            ) from error
        stamp = await _checked(der, digest, self.authorities)
        if self.authorities and not stamp.trusted:
            raise SignatureError(
                f"the time stamp is by {stamp.authority}, which is not trusted; put its "
                "certificate, or its issuer's, into trusted-tsa/ if you know whose it is"
            )
        return der

    async def _post(self, body: bytes) -> bytes:
        import httpx

        headers = {"Content-Type": "application/timestamp-query", "User-Agent": "erasure-audit"}
        try:
            async with (
                asyncio.timeout(self.patience),
                httpx.AsyncClient(
                    timeout=self.patience, follow_redirects=False, trust_env=False
                ) as client,
                client.stream("POST", self.url, content=body, headers=headers) as answer,
            ):
                if answer.status_code != httpx.codes.OK:
                    raise SignatureError(
                        f"the time-stamping authority answered HTTP {answer.status_code}, expected "
                        "200 (redirects are not followed); see operate.time_stamps"
                    )
                content = bytearray()
                async for part in answer.aiter_raw():
                    content += part
                    if len(content) > LARGEST:
                        raise SignatureError(
                            "the time-stamping authority's answer is longer than "
                            f"{LARGEST} bytes, which no time stamp is"
                        )
                return bytes(content)
        except (TimeoutError, httpx.TimeoutException):
            raise SignatureError(
                f"the time-stamping authority gave no answer within {self.patience:g} s; nothing "
                "was signed, try again later"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise SignatureError(
                f"the time-stamping authority cannot be reached ({type(error).__name__}); nothing "
                "was signed, see operate.time_stamps"
            ) from error


def read_authority(pem: bytes) -> Authority:
    """A trusted authority from the PEM of its certificate.

    Raises:
        SignatureError: it is no certificate.
    """
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import InvalidVersion, load_pem_x509_certificate

    try:
        return Authority(load_pem_x509_certificate(pem).public_bytes(Encoding.DER))
    except (ValueError, InvalidVersion) as error:
        raise SignatureError(
            "expected the PEM of a time-stamping authority's certificate, got something else"
        ) from error


def check(der: bytes, digest: bytes, authorities: Iterable[Authority]) -> TimeStamp:
    """Check a token: it has to be over this digest, and not one byte may have changed.

    Args:
        der: the token.
        digest: of the stamped bytes, by the algorithm that the token names.
        authorities: whom to trust.

    Raises:
        SignatureError: it is no token in our form, over something else, or was changed.
    """
    return _finish(_checked(der, digest, tuple(authorities)))


def in_one_form(der: bytes) -> bytes:
    """A token reduced to what the authority's signature protects.

    Raises:
        SignatureError: it is no token, or lacks the authority's certificate.
    """
    from asn1crypto import algos, cms

    try:
        signed = cms.ContentInfo.load(der, strict=True)["content"]
        (info,) = signed["signer_infos"]
        leaf = _leaf(signed, info)
        digest = algos.DigestAlgorithm({"algorithm": info["digest_algorithm"]["algorithm"].native})
        method = info["signature_algorithm"]
        if method["algorithm"].native == "rsassa_pkcs1v15":  # says nothing of the hash
            name = f"{digest['algorithm'].native}_rsa"
            method = algos.SignedDigestAlgorithm({"algorithm": name})
        content = signed["encap_content_info"]["content"]
        anew = cms.SignedData(
            {
                "version": "v3",
                "digest_algorithms": [digest],
                "encap_content_info": {
                    "content_type": "tst_info",
                    "content": cms.ParsableOctetString(bytes(content)),
                },
                "certificates": [leaf],
                "signer_infos": [
                    {
                        "version": "v1",
                        "sid": {
                            "issuer_and_serial_number": {
                                "issuer": leaf.issuer,
                                "serial_number": leaf.serial_number,
                            }
                        },
                        "digest_algorithm": digest,
                        "signed_attrs": info["signed_attrs"],
                        "signature_algorithm": method,
                        "signature": info["signature"].native,
                    }
                ],
            }
        )
        form: bytes = cms.ContentInfo({"content_type": "signed_data", "content": anew}).dump()
    except GARBLED as error:
        raise SignatureError("the time stamp cannot be read, or was changed") from error
    return form


def _leaf(signed: Any, info: Any) -> Any:
    """The authority's own certificate, which its signed attributes name by a hash (RFC 5816)."""
    certificates = [choice.chosen for choice in signed["certificates"]]
    for attribute in info["signed_attrs"]:
        kind = attribute["type"].native
        if kind not in ("signing_certificate", "signing_certificate_v2"):
            continue
        reference = attribute["values"][0]["certs"][0]
        method = reference["hash_algorithm"]["algorithm"].native if kind.endswith("v2") else "sha1"
        certificate_hash = reference["cert_hash"].native
        for certificate in certificates:
            if (
                hashlib.new(method, certificate.dump(), usedforsecurity=False).digest()
                == certificate_hash
            ):
                return certificate
    raise SignatureError("the time stamp does not hold the certificate of its authority")


async def _checked(der: bytes, digest: bytes, authorities: tuple[Authority, ...]) -> TimeStamp:
    from asn1crypto import cms
    from cryptography.exceptions import UnsupportedAlgorithm
    from pyhanko.sign.general import SigningError
    from pyhanko.sign.validation.errors import SignatureValidationError
    from pyhanko.sign.validation.generic_cms import validate_tst_signed_data

    complaint = "the time stamp is not over these bytes, or was changed"
    if in_one_form(der) != der:
        raise SignatureError(complaint)
    try:
        signed = cms.ContentInfo.load(der, strict=True)["content"]
        information = signed["encap_content_info"]["content"].parsed
        method = information["message_imprint"]["hash_algorithm"]["algorithm"].native
        if hashlib.new(method).digest_size != len(digest) or method in ("md5", "sha1"):
            raise SignatureError(complaint)
        at: datetime = information["gen_time"].native
        facts = await validate_tst_signed_data(
            signed, _context(authorities, at), lambda _algorithm: digest
        )
        leaf = signed["certificates"][0].chosen
        holds = facts["intact"] and facts["valid"]
        trusted = (
            bool(authorities)
            and facts["trust_problem_indic"] is None
            # the path's check skips this if the certificate itself is trusted
            and leaf.extended_key_usage_value is not None
            and leaf.extended_key_usage_value.native == ["time_stamping"]
        )
        authority = leaf.subject.human_friendly
    except (*GARBLED, UnsupportedAlgorithm, SigningError, SignatureValidationError) as error:
        raise SignatureError(complaint) from error
    if not holds:
        raise SignatureError(complaint)
    return TimeStamp(at, authority, trusted)


def _context(authorities: tuple[Authority, ...], at: datetime) -> Any:
    """Whom to trust at the moment of the stamp: a certificate may expire later."""
    from asn1crypto import x509
    from pyhanko_certvalidator import ValidationContext

    # it would log a traceback for every untrusted authority; the result says so anyway
    logging.getLogger("pyhanko.sign.validation.generic_cms").setLevel(logging.CRITICAL)
    roots = [x509.Certificate.load(authority.der) for authority in authorities]
    return ValidationContext(
        trust_roots=roots, allow_fetching=False, moment=at, revocation_mode="soft-fail"
    )


def _finish(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end, even if this thread already runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        inside = False
    else:
        inside = True
    if not inside:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        run: Callable[[Coroutine[Any, Any, _T]], _T] = asyncio.run
        return pool.submit(run, work).result()


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
