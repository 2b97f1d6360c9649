"""Time stamps: an authority's word, checked before it is kept, and every byte of it counts."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pikepdf
import pytest

from tasks.common.errors import SignatureError
from tasks.signatures import keys, pdf_signature, time_stamps
from tests.worlds import authorities

KEY = keys.read_key(keys.make_key(development=False))
DIGEST = hashlib.sha256(b"what is stamped").digest()


@pytest.fixture(scope="module")
def standing() -> Iterator[authorities.Authority]:
    """An authority that answers."""
    with authorities.serving(authorities.make()) as authority:
        yield authority


@pytest.fixture
def authority(standing: authorities.Authority) -> Iterator[authorities.Authority]:
    """The authority, in its right mind again afterwards."""
    yield standing
    standing.mood, standing.moment = "right", None


def trusted(authority: authorities.Authority) -> tuple[time_stamps.Authority, ...]:
    """The authority as a reader trusts it."""
    return (time_stamps.read_authority(authority.pem),)


def blank() -> bytes:
    """A PDF of one page."""
    target = BytesIO()
    with pikepdf.new() as made:
        made.add_blank_page()
        made.save(target)
    return target.getvalue()


def test_a_token_says_when_and_by_whom(authority: authorities.Authority) -> None:
    stamper = time_stamps.Stamper(authority.url, trusted(authority))
    before = datetime.now(UTC) - timedelta(seconds=1)
    token = stamper.stamp(DIGEST)
    stamp = time_stamps.check(token, DIGEST, trusted(authority))
    assert before <= stamp.at <= datetime.now(UTC)
    assert "Test TSA" in stamp.authority
    assert stamp.trusted
    assert not time_stamps.check(token, DIGEST, ()).trusted


def test_every_changed_byte_of_a_token_is_found(authority: authorities.Authority) -> None:
    token = time_stamps.Stamper(authority.url).stamp(DIGEST)
    for position in range(len(token)):
        for flip in (1, 4, 128):
            changed = bytearray(token)
            changed[position] ^= flip
            with pytest.raises(SignatureError):
                time_stamps.check(bytes(changed), DIGEST, trusted(authority))
    for other in (token + b"\0", token[:-1], b"", b"no token"):
        with pytest.raises(SignatureError):
            time_stamps.check(other, DIGEST, trusted(authority))


def test_a_token_over_something_else_is_wrong(authority: authorities.Authority) -> None:
    token = time_stamps.Stamper(authority.url).stamp(DIGEST)
    for other in (hashlib.sha256(b"else").digest(), hashlib.sha512(b"x").digest(), b""):
        with pytest.raises(SignatureError, match="not over these bytes"):
            time_stamps.check(token, other, trusted(authority))


def test_an_authority_that_is_not_trusted_is_named(authority: authorities.Authority) -> None:
    other = authorities.make("Somebody Else")
    with pytest.raises(SignatureError, match=r"by .*Test TSA, which is not trusted"):
        time_stamps.Stamper(authority.url, trusted(other)).stamp(DIGEST)


def test_a_certificate_that_is_not_for_time_stamps_does_not_count() -> None:
    with (
        authorities.serving(authorities.make("Code", stamping=False)) as authority,
        pytest.raises(SignatureError, match="not trusted"),
    ):
        time_stamps.Stamper(authority.url, trusted(authority)).stamp(DIGEST)


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        ("another imprint", "not over these bytes"),
        ("another nonce", "refuses|no time stamp"),
        ("refuses", "refuses"),
        ("redirects", "HTTP 307"),
        ("is broken", "HTTP 500"),
        ("talks without end", "longer than"),
        ("talks nonsense", "no time stamp"),
        ("says nothing", "no time stamp"),
    ],
)
def test_what_an_authority_answers_is_not_believed(
    authority: authorities.Authority, mood: str, message: str
) -> None:
    authority.mood = mood
    with pytest.raises(SignatureError, match=message):
        time_stamps.Stamper(authority.url, trusted(authority)).stamp(DIGEST)
    with pytest.raises(SignatureError, match=message):
        pdf_signature.sign(blank(), KEY, time_stamps.Stamper(authority.url, trusted(authority)))


@pytest.mark.parametrize("mood", ["silent", "drips"])
def test_an_authority_that_takes_too_long_is_given_up(
    authority: authorities.Authority, mood: str
) -> None:
    authority.mood = mood
    stamper = time_stamps.Stamper(authority.url, patience=0.5)
    with pytest.raises(SignatureError, match=r"no answer within 0\.5 s"):
        stamper.stamp(DIGEST)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/tsa", "http://[::1", "http://nowhere.invalid/"]
)
def test_an_authority_that_is_away_is_a_clear_error(url: str) -> None:
    with pytest.raises(SignatureError, match="cannot be reached"):
        time_stamps.Stamper(url).stamp(DIGEST)


def test_a_pdf_bears_the_time_stamp_of_its_signature(authority: authorities.Authority) -> None:
    signed = pdf_signature.sign(
        blank(), KEY, time_stamps.Stamper(authority.url, trusted(authority))
    )
    result = pdf_signature.check(signed, trusted(authority))
    assert result.signer == KEY.signer
    assert result.stamp is not None
    assert result.stamp.trusted
    assert pdf_signature.check(pdf_signature.sign(blank(), KEY)).stamp is None


def test_pyhanko_too_finds_the_time_stamp_right(authority: authorities.Authority) -> None:
    from asn1crypto import pem, x509
    from pyhanko.pdf_utils.reader import PdfFileReader
    from pyhanko.sign.validation import validate_pdf_signature
    from pyhanko_certvalidator import ValidationContext

    signed = pdf_signature.sign(blank(), KEY, time_stamps.Stamper(authority.url))
    (embedded,) = PdfFileReader(BytesIO(signed)).embedded_signatures
    roots = [
        x509.Certificate.load(pem.unarmor(text)[2])
        for text in (keys.public_pem(KEY), authority.pem)
    ]
    context = ValidationContext(trust_roots=roots, allow_fetching=False)
    status = validate_pdf_signature(embedded, context)
    assert status.timestamp_validity is not None
    assert status.timestamp_validity.valid
    assert status.timestamp_validity.trusted


def test_every_changed_byte_of_a_stamped_signature_is_found(
    authority: authorities.Authority,
) -> None:
    signed = pdf_signature.sign(blank(), KEY, time_stamps.Stamper(authority.url))
    start, end = (
        int(number) for number in list(pdf_signature.BYTE_RANGE.finditer(signed))[-1].groups()[1:3]
    )
    used = end - len(signed[start:end].rstrip(b"0>")) + len(b"0>")  # padding begins after these
    for position in [*range(start, end - used + 40, 5), *range(end - 400, end, 3)]:
        changed = bytearray(signed)
        changed[position] ^= 1
        with pytest.raises(SignatureError):
            pdf_signature.check(bytes(changed), trusted(authority))


@pytest.mark.parametrize("span", [{"hours": 2}, {"days": -3}])
def test_a_signature_that_claims_another_time_than_its_stamp_is_wrong(
    authority: authorities.Authority, span: dict[str, float]
) -> None:
    authority.moment = authorities.ago(**span)
    with pytest.raises(SignatureError, match="claims to be of"):
        pdf_signature.sign(blank(), KEY, time_stamps.Stamper(authority.url))


def test_what_is_expected_of_stamps_is_the_readers_choice() -> None:
    stamp = time_stamps.TimeStamp(datetime(2026, 11, 28, tzinfo=UTC), "CN=TSA", trusted=False)
    known = (time_stamps.read_authority(authorities.make().pem),)
    policy = time_stamps.StampPolicy
    assert policy().objection(None) is None
    assert policy().objection(stamp) is None
    assert policy(known).objection(None) is None
    assert "not trusted" in str(policy(known).objection(stamp))
    assert "no time stamp" in str(policy(known, required=True).objection(None))
    assert "not trusted" in str(policy(required=True).objection(stamp))
    right = dataclasses.replace(stamp, trusted=True)
    assert policy(known, required=True).objection(right) is None


def test_a_certificate_that_is_none_is_refused() -> None:
    for text in (b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(SignatureError, match="expected the PEM"):
            time_stamps.read_authority(text)
