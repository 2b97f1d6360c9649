"""Status callbacks: signed, in order, tried again, to public addresses only, and nobody can hold
the others up."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import given
from hypothesis import strategies as st

from flows.intake import addresses, callbacks, drop_folder
from flows.register.register import BusyError, Register, State
from flows.workspace import signing_keys
from tasks.common.errors import RequestError, SignatureError, WorkspaceError
from tests.worlds import outside


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return outside.home(tmp_path / "home")


@pytest.fixture
def register(home: Path) -> Iterator[Register]:
    found = Register(home)
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _loopback_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(callbacks.HOSTS, "127.0.0.1, ours.example")
    monkeypatch.setenv(callbacks.PUBLIC_URL, "https://erasure.example.org")


def enter(home: Path, register: Register, *urls: str, number: int = 1) -> str:
    value = outside.request(number, status_callback_urls=list(urls))
    return drop_folder.enter(home, register, value, "crm", "http")[0].request_id


def through(register: Register, request_id: str) -> None:
    """The whole life of a request."""
    register.verify_identity(request_id, "ops", "at the desk")
    register.collect("b1", "nightly")
    for state in (
        State.AUDITED,
        State.AWAITING_SIGNOFF,
        State.RELEASED,
        State.ERASED,
        State.CLOSED,
    ):
        register.move([request_id], state, "nightly")


def outcomes(register: Register) -> list[str]:
    import sqlalchemy as sa

    from flows.register import tables, transactions

    with transactions.reading(register.engine) as connection:
        query = sa.select(tables.callbacks.c.outcome).order_by(tables.callbacks.c.seq)
        return [str(row.outcome) for row in connection.execute(query)]


def later(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def test_a_controller_hears_of_every_change_in_order_and_once(
    home: Path, register: Register
) -> None:
    with outside.endpoint() as (seen, url):
        request_id = enter(home, register, url)
        through(register, request_id)
        done = callbacks.deliver(home, register)
        assert (done.again, done.given_up) == (0, 0)
        assert [told["request_status"] for told in seen.seen] == [
            "pending",
            "in_progress",
            "completed",
        ]
        assert seen.seen[0] == {
            "controller_id": "crm",
            "status_callback_url": url,
            "subject_request_id": request_id,
            "request_status": "pending",
            "expected_completion_time": "2026-12-21T23:59:59Z",
            "status_time": register.history(request_id)[0].at,
            "event": 1,
            "event_hash": register.history(request_id)[0].hash,
            "api_version": "1.0",
        }
        assert callbacks.deliver(home, register) == callbacks.Delivery()
        assert len(seen.seen) == 3
    assert "nothing new to tell" in outcomes(register)


def test_an_extension_is_told_with_the_new_day_and_a_rejection_as_cancelled(
    home: Path, register: Register
) -> None:
    with outside.endpoint() as (seen, url):
        request_id = enter(home, register, url)
        register.extend(request_id, "ops", "many records")
        register.reject(request_id, "ops", "not our customer")
        register.move([request_id], State.CLOSED, "finalize")
        callbacks.deliver(home, register)
        assert [
            (told["request_status"], told["expected_completion_time"][:10]) for told in seen.seen
        ] == [
            ("pending", "2026-12-21"),
            ("pending", "2027-02-22"),
            ("cancelled", "2027-02-22"),
        ]


def test_a_callback_is_signed_and_a_changed_one_is_found(home: Path, register: Register) -> None:
    with outside.endpoint() as (seen, url):
        enter(home, register, url)
        callbacks.deliver(home, register)
        ((headers, body),) = seen.bodies
    key = signing_keys.load_key(home)
    assert key is not None
    assert headers["X-OpenDSR-Processor-Domain"] == "erasure.example.org"
    signature = base64.b64decode(headers["X-OpenDSR-Signature"])
    key.signer.public.verify(signature, body)
    with pytest.raises(InvalidSignature):
        key.signer.public.verify(signature, body.replace(b"pending", b"completed"))


def test_without_a_key_nothing_is_sent_unsigned(home: Path, register: Register) -> None:
    with outside.endpoint() as (seen, url):
        enter(home, register, url)
        (home / signing_keys.DEVELOPMENT).unlink()
        with pytest.raises(SignatureError, match="no key to sign"):
            callbacks.deliver(home, register)
        assert seen.seen == []


def test_what_fails_is_tried_again_later_and_the_next_event_waits_for_it(
    home: Path, register: Register
) -> None:
    with outside.endpoint() as (seen, url):
        seen.answers = [500, 503]
        request_id = enter(home, register, url)
        register.extend(request_id, "ops", "many records")
        assert callbacks.deliver(home, register) == callbacks.Delivery(again=1)
        assert callbacks.deliver(home, register) == callbacks.Delivery()  # its time has not come
        assert callbacks.deliver(home, register, later(1)) == callbacks.Delivery(again=1)
        assert callbacks.deliver(home, register, later(3)) == callbacks.Delivery(delivered=2)
        assert [told["event"] for told in seen.seen] == [1, 1, 1, 2]


def test_what_fails_for_good_is_given_up_and_noted_and_the_next_event_is_told(
    home: Path, register: Register
) -> None:
    with outside.endpoint() as (seen, url):
        seen.answers = [500] * callbacks.MOST_TRIES
        request_id = enter(home, register, url)
        register.extend(request_id, "ops", "many records")
        for day in range(callbacks.MOST_TRIES):
            done = callbacks.deliver(home, register, later(day))
        assert done == callbacks.Delivery(delivered=1, given_up=1)
        (note,) = register.history(kind="callback_given_up")
        assert note.request_id == request_id
        assert note.details == {"event": 1, "tries": callbacks.MOST_TRIES, "outcome": "HTTP 500"}
        assert seen.seen[-1]["event"] == 2
    register.check_chain()


def test_an_endpoint_that_is_away_is_tried_again(home: Path, register: Register) -> None:
    with outside.endpoint() as (_, url):
        pass
    enter(home, register, url)
    assert callbacks.deliver(home, register) == callbacks.Delivery(again=1)
    assert outcomes(register) == ["not reached (ConnectError)"]


def test_pauses_double_and_end_after_more_than_a_day() -> None:
    full = [
        callbacks.pause(tries, lambda: 0.0).total_seconds()
        for tries in range(1, callbacks.MOST_TRIES)
    ]
    assert full[:3] == [30, 60, 120]
    assert max(full) == callbacks.LONGEST_PAUSE
    shortest = sum(
        callbacks.pause(tries, lambda: 1.0).total_seconds()
        for tries in range(1, callbacks.MOST_TRIES)
    )
    assert 86400 / 2 < shortest < sum(full)


@pytest.mark.parametrize("way", ["delay", "drip"])
def test_an_endpoint_that_never_answers_keeps_nobody_waiting(
    home: Path, register: Register, way: str
) -> None:
    with outside.endpoint() as (slow, slow_url), outside.endpoint() as (quick, quick_url):
        slow.delay, slow.drip = (20.0, False) if way == "delay" else (0.0, True)
        for number in range(1, 4):
            enter(home, register, slow_url, number=number)
        enter(home, register, quick_url, number=4)
        worker = threading.Thread(
            target=callbacks.deliver, args=(home, register), kwargs={"timeout": 2.0}
        )
        worker.start()
        while not quick.seen:
            time.sleep(0.01)
        assert worker.is_alive()  # it still waits for the slow ones
        worker.join()
    assert outcomes(register) == [*["no answer within 2 s"] * 3, "HTTP 200"]


def test_a_redirect_is_not_followed(home: Path, register: Register) -> None:
    with outside.endpoint() as (first, url), outside.endpoint() as (second, target):
        first.answers, first.location = [307], target
        enter(home, register, url)
        assert callbacks.deliver(home, register).again == 1
        assert (len(first.seen), second.seen) == (1, [])


PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "not an address",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_nothing_is_sent_to_an_address_that_is_not_public(
    home: Path, register: Register, address: str
) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["93.184.216.34", address]

    enter(home, register, "https://evil.example/callback")
    assert callbacks.deliver(home, register, resolve=resolve).again == 1
    assert "not public" in outcomes(register)[0]
    assert "evil" not in outcomes(register)[0]


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1"])
def test_public_addresses_are_public(address: str) -> None:
    assert addresses.is_public(address)


def test_the_address_that_was_looked_at_is_the_one_that_is_connected_to(
    home: Path, register: Register
) -> None:
    looked: list[str] = []

    async def resolve(host: str, _port: int) -> Sequence[str]:
        looked.append(host)
        return ["127.0.0.1"]

    with outside.endpoint() as (seen, url):
        named = url.replace("127.0.0.1", "ours.example")
        enter(home, register, named)
        assert callbacks.deliver(home, register, resolve=resolve).delivered == 1
        ((headers, _),) = seen.bodies
    assert looked == ["ours.example"]
    assert headers["Host"] == named.split("/")[2]


def test_a_certificate_has_to_be_of_the_host_and_of_somebody_trusted(
    home: Path, register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(tmp_path / "tls.pem", "ours.example"))
    with outside.endpoint(context) as (seen, url):
        enter(home, register, url.replace("127.0.0.1", "ours.example"))
        assert (
            callbacks.deliver(home, register, resolve=resolve).again == 1
        )  # nobody vouches for it
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.pem"))
        enter(home, register, url, number=2)
        callbacks.deliver(home, register, resolve=resolve)
        assert seen.seen == []  # it is of another name
        callbacks.deliver(home, register, later(1), resolve=resolve)
        assert [told["subject_request_id"] for told in seen.seen] == [outside.request_id(1)]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/callback",
        "ftp://example.org/",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user@example.org/",
        "https://user:secret@example.org/",
        "https://example.org:0x50/",
        "https://example.org:99999/",
        "https://example.org/#fragment",
        "https://example.org/a b",
        "https://example.org/\0",
        "https://example.org/\r\nX-Header: 1",
        "https://exämple.org/",
        "https://example.org\\@127.0.0.1/",
        "https://[::1/",
        "javascript:alert(1)",
        "",
        "https://example.org/" + "a" * 2048,
    ],
)
def test_an_address_of_another_form_is_refused_at_intake_and_not_repeated(
    home: Path, register: Register, url: str
) -> None:
    with pytest.raises(RequestError, match="status_callback_urls") as caught:
        enter(home, register, url)
    assert "secret" not in str(caught.value)
    assert register.cases() == []


@given(st.text(max_size=100))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for url in (text, f"https://{text}"):
        with contextlib.suppress(RequestError):
            callbacks.check(url)


def test_two_deliverers_at_once_send_nothing_twice(home: Path, register: Register) -> None:
    with outside.endpoint() as (seen, url):
        enter(home, register, url)
        with register.lease("callbacks"), pytest.raises(BusyError):
            callbacks.deliver(home, register)
        assert seen.seen == []


def test_a_kill_between_sending_and_writing_down_sends_the_same_event_again(
    home: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    with outside.endpoint() as (seen, url):
        enter(home, register, url)
        with monkeypatch.context() as patched:
            patched.setattr(register, "record_try", _killed)
            with pytest.raises(WorkspaceError):
                callbacks.deliver(home, register)
        assert callbacks.deliver(home, register).delivered == 1
        assert [body for _, body in seen.bodies] == [seen.bodies[0][1]] * 2


def test_many_callbacks_are_all_delivered(home: Path, register: Register) -> None:
    with outside.endpoint() as (seen, url):
        for number in range(1, 31):
            enter(home, register, url, f"{url}/second", number=number)
        assert callbacks.deliver(home, register).delivered == 60
        assert (
            len({(told["subject_request_id"], told["status_callback_url"]) for told in seen.seen})
            == 60
        )


def test_a_callback_names_nobody(home: Path, register: Register) -> None:
    with outside.endpoint() as (seen, url):
        enter(home, register, url)
        callbacks.deliver(home, register)
        assert b"lovelace" not in seen.bodies[0][1]
        pseudonym = register.cases()[0].identities[0]["identity_value"]
        assert pseudonym not in json.dumps(seen.seen)


def test_an_address_of_the_server_has_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(callbacks.PUBLIC_URL, "erasure.example.org")
    with pytest.raises(WorkspaceError, match="as in https"):
        callbacks.public_url()
    monkeypatch.setenv(callbacks.PUBLIC_URL, "https://erasure.example.org/")
    assert callbacks.public_url() == "https://erasure.example.org"


def _killed(*_: Any) -> None:
    raise WorkspaceError("killed")


def _certificate(path: Path, name: str) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path
