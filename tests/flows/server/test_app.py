"""The server: OpenDSR in, operators' work, and what holds whatever is sent: no crash, nothing lost,
nothing named."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import logging
import os
import re
import signal
import socket
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flows.intake import callbacks
from flows.register import database
from flows.register.register import Register, State
from flows.release import approval
from flows.server import app, auth
from flows.server import connections as waiting
from flows.server.auth import ALLOWED, Gatekeeper, Right, Role
from flows.workspace import shell
from tasks.common.errors import WorkspaceError
from tests.worlds import dummy, outside, postgres

with warnings.catch_warnings():  # Starlette would rather have httpx2, which is not a dependency
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

DSR = "/opendsr/v1/requests"
KEY = "k" * 40
MAX_BODY = 256 * 1024
UNKNOWN = "00000000-0000-4000-8000-00000000ffff"

EARLIER_PATHS = ("/v1/opendsr_requests", "/v1/opendsr_requests/{request}", "/v1/discovery")
"""Paths of an earlier version of OpenDSR; they lead to the same and are not described."""
ROUTES: list[tuple[str, str, Right | None, tuple[int, ...]]] = [
    *(
        route
        for path in (DSR, EARLIER_PATHS[0])
        for route in (
            ("POST", path, Right.SUBMIT, (200, 201, 400, 409, 413, 415)),
            ("GET", f"{path}/{{request}}", Right.STATUS, (200, 404)),
            ("DELETE", f"{path}/{{request}}", Right.CANCEL, (202, 404, 409)),
        )
    ),
    ("GET", "/opendsr/v1/discovery", None, (200,)),
    ("GET", "/v1/discovery", None, (200,)),
    ("GET", "/opendsr/v1/certificate.pem", None, (200,)),
    ("GET", "/v1/requests", Right.LIST, (200, 400, 404)),
    ("GET", "/v1/requests/{request}", Right.LIST, (200, 404)),
    ("GET", "/v1/requests/{request}/events", Right.EVENTS, (200, 404)),
    *(
        ("POST", f"/v1/requests/{{request}}/{action}", right, (200, 400, 404, 409, 413, 415))
        for action, right in (
            ("identity", Right.IDENTITY),
            ("hold", Right.HOLD),
            ("lift", Right.HOLD),
            ("extend", Right.EXTEND),
            ("reject", Right.REFUSE),
        )
    ),
    ("POST", "/v1/batches/{batch}/approve", Right.DECIDE, (200, 400, 404, 409, 413, 415)),
    ("POST", "/v1/batches/{batch}/reject", Right.DECIDE, (200, 400, 404, 409, 413, 415)),
    ("GET", "/v1/chain", Right.CHAIN, (200,)),
    ("GET", "/v1/events", Right.CHAIN, (200, 400)),
    ("GET", "/healthz", None, (200,)),
]
"""Every way into the server: method, path, right, and statuses besides 401 and 403."""


class World:
    """A workspace, its register, its server, and a client for each role."""

    def __init__(self, folder: Path) -> None:
        self.home = outside.home(folder)
        self.register = Register(self.home)
        self.tokens, secret = outside.tokens()
        self.other, entry = auth.new_token("portal", ["intake"])
        self.gate = Gatekeeper(f"{secret}\n{entry}", f"signer:intake:{KEY}")
        self.app = app.create(self.home, self.register, self.gate)
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def call(self, role: str | None, method: str, path: str, **more: Any) -> Any:
        headers = dict(more.pop("headers", {}))
        if role is not None:
            headers["Authorization"] = f"Bearer {self.tokens.get(role, role)}"
        return self.client.request(method, path, headers=headers, **more)

    def post(self, number: int = 1, role: str = "intake", path: str = DSR, **changes: Any) -> Any:
        return self.call(role, "POST", path, json=outside.request(number, **changes))

    def act(self, what: str, number: int = 1, role: str = "operator", **body: Any) -> Any:
        return self.call(
            role, "POST", f"/v1/requests/{outside.request_id(number)}/{what}", json=body
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path / "home")
    yield found
    found.register.close()


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.running() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def either(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A world on each of the two databases."""
    if request.param == "postgresql":
        monkeypatch.setenv(database.URL, request.getfixturevalue("server").new())
    found = World(tmp_path / "home")
    yield found
    found.register.close()


def message(answer: Any, code: int) -> str:
    """The message of an error in OpenDSR's form."""
    assert answer.status_code == code, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    return str(error["message"])


def holds(world: World, answer: Any) -> bool:
    """Whether an answer's signature is right, by the certificate that discovery names."""
    pem = world.client.get(
        world.client.get("/opendsr/v1/discovery").json()["processor_certificate"]
    ).content
    public: Any = load_pem_x509_certificate(pem).public_key()
    public.verify(base64.b64decode(answer.headers["X-OpenDSR-Signature"]), answer.content)
    return True


# -- OpenDSR --------------------------------------------------------------------------------------


def test_a_new_request_is_taken_in_and_answered_as_opendsr_says(world: World) -> None:
    sent = json.dumps(outside.request(1)).encode()
    answer = world.call(
        "intake", "POST", DSR, content=sent, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 201
    told = answer.json()
    (event,) = world.register.history()
    assert told == {
        "controller_id": "intake",
        "expected_completion_time": "2026-12-21T23:59:59Z",
        "received_time": event.at,
        "encoded_request": base64.b64encode(sent).decode(),
        "subject_request_id": outside.request_id(1),
        "api_version": "1.0",
    }
    assert answer.headers["Location"] == f"{DSR}/{outside.request_id(1)}"
    assert answer.headers["Cache-Control"] == "no-store"
    assert holds(world, answer)
    case = world.register.case(outside.request_id(1))
    assert (case.state, case.source) == (State.RECEIVED, "http")


def test_a_repetition_changes_nothing_and_a_contradiction_is_a_conflict(world: World) -> None:
    first = world.post().json()
    head = world.register.head()
    again = world.post()
    assert again.status_code == 200
    assert again.json()["received_time"] == first["received_time"]
    assert "another content" in message(world.post(regulation="ccpa"), 409)
    assert world.register.head() == head


def test_the_path_of_the_specifications_earlier_name_leads_to_the_same(world: World) -> None:
    path = "/v1/opendsr_requests"
    assert world.post(path=path).status_code == 201
    assert world.post().status_code == 200
    status = world.call("intake", "GET", f"{path}/{outside.request_id(1)}")
    assert status.json()["request_status"] == "pending"
    assert "X-OpenDSR-Signature" in status.headers
    assert world.call("intake", "DELETE", f"{path}/{outside.request_id(1)}").status_code == 202


def test_the_law_that_names_no_day_gets_none(world: World) -> None:
    assert world.post(regulation="pipl").json()["expected_completion_time"] is None


def test_the_status_follows_the_request(world: World) -> None:
    world.post()
    request_id = outside.request_id(1)
    seen = [world.call("intake", "GET", f"{DSR}/{request_id}").json()["request_status"]]
    world.register.verify_identity(request_id, "ops", "at the desk")
    world.register.collect("b1", "nightly")
    for state in (
        State.AUDITED,
        State.AWAITING_SIGNOFF,
        State.RELEASED,
        State.ERASED,
        State.CLOSED,
    ):
        seen.append(world.call("intake", "GET", f"{DSR}/{request_id}").json()["request_status"])
        world.register.move([request_id], state, "nightly")
    seen.append(world.call("intake", "GET", f"{DSR}/{request_id}").json()["request_status"])
    assert list(dict.fromkeys(seen)) == ["pending", "in_progress", "completed"]


def test_a_request_can_be_cancelled_until_a_batch_holds_it(world: World) -> None:
    for number in (1, 2):
        world.post(number)
    answer = world.call("intake", "DELETE", f"{DSR}/{outside.request_id(1)}")
    assert answer.status_code == 202
    assert holds(world, answer)
    assert world.call("intake", "DELETE", f"{DSR}/{outside.request_id(1)}").status_code == 202
    status = world.call("intake", "GET", f"{DSR}/{outside.request_id(1)}").json()["request_status"]
    assert status == "cancelled"
    assert (
        world.register.history(outside.request_id(1))[-1].details["reason"]
        == "cancelled by the controller"
    )
    world.register.verify_identity(outside.request_id(2), "ops", "at the desk")
    world.register.collect("b1", "nightly")
    assert "before it is batched" in message(
        world.call("intake", "DELETE", f"{DSR}/{outside.request_id(2)}"), 409
    )
    assert world.register.case(outside.request_id(2)).state == State.BATCHED


def test_a_system_that_sends_requests_sees_and_cancels_only_its_own(world: World) -> None:
    world.post()
    path = f"{DSR}/{outside.request_id(1)}"
    hidden = [world.call(world.other, method, path) for method in ("GET", "DELETE")]
    missing = world.call(world.other, "GET", f"{DSR}/{UNKNOWN}")
    assert {message(answer, 404) for answer in (*hidden, missing)} == {
        "there is no such request or batch here"
    }
    assert world.register.case(outside.request_id(1)).state == State.RECEIVED
    assert world.call("operator", "GET", path).status_code == 200


def test_discovery_says_what_is_understood_to_anybody(world: World) -> None:
    (world.home / "data").mkdir()
    (world.home / "data" / "identities.csv").write_text(
        "identity_type,identity_value,subject_id\nemail,ada@example.org,ada\n<script>,x,ada\n"
    )
    found = TestClient(app.create(world.home, world.register, world.gate)).get(
        "/opendsr/v1/discovery"
    )
    assert found.status_code == 200
    told = found.json()
    assert {"identity_type": "email", "identity_format": "sha256"} in told["supported_identities"]
    assert told["supported_subject_request_types"] == ["erasure"]
    assert "ada" not in found.text
    assert "script" not in found.text


def test_the_host_that_a_client_names_reaches_no_answer(world: World) -> None:
    header = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    world.post()
    paths = [
        "/opendsr/v1/discovery", "/v1/discovery", "/opendsr/v1/certificate.pem", "/openapi.json",
        "/v1/requests", "/v1/requests/", "/healthz/", "/opendsr/v1/discovery/", DSR,
        "//evil.example",
        f"{DSR}/{outside.request_id(1)}",
    ]  # fmt: skip
    for path in paths:
        answer = world.call("operator", "GET", path, headers=header, follow_redirects=False)
        assert "evil" not in answer.text, path
        assert "evil" not in str(answer.headers), path
    answer = world.post(2, headers=header)
    assert "evil" not in answer.text + str(answer.headers)


def test_a_duplicate_is_taken_in_and_shown_to_operators(world: World) -> None:
    world.post(1, subject_identities=[outside.identity("same")])
    assert world.post(2, subject_identities=[outside.identity("same")]).status_code == 201
    listed = world.call("operator", "GET", "/v1/requests").json()["requests"]
    assert {one["request_id"]: one["duplicate_of"] for one in listed} == {
        outside.request_id(1): None,
        outside.request_id(2): outside.request_id(1),
    }


# -- what is refused ------------------------------------------------------------------------------

HOSTILE: dict[str, Any] = {
    "NUL in an address": outside.request(9, status_callback_urls=["https://example.org/\0"]),
    "half of a surrogate pair": outside.request(9, subject_identities=[outside.identity("\ud800")]),
    "no identity": outside.request(9, subject_identities=[]),
    "another type": outside.request(9, subject_request_type="access"),
    "a pseudonym from outside": outside.request(
        9, subject_identities=[outside.identity("0" * 64, form="hmac-sha256")]
    ),
    "a moment beyond time": outside.request(9, submitted_time="9999-12-31T00:00:00Z"),
    "an id that is none": outside.request(9, subject_request_id="'; DROP TABLE requests; --"),
    "a number as text": outside.request(9, regulation=10**400),
    "a list": [outside.request(9)],
    "null": None,
    "a text": "secret-word",
    "plain http": outside.request(9, status_callback_urls=["http://example.org/secret-word"]),
    "a wish we do not know": outside.request(9, extensions={"erasure_audit": {"secret-word": 1}}),
}
RAW = {
    "no JSON": b"{secret-word",
    "nothing": b"",
    "not UTF-8": b'{"regulation": "\xff"}',
    "UTF-16": json.dumps(outside.request(9)).encode("utf-16"),
    "nested deeply": b'{"extensions": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a huge number": b'{"regulation": ' + b"9" * 100_000 + b"}",
    "a key twice": json.dumps(outside.request(9)).encode()[:-1] + b', "regulation": "ccpa"}',
    "a key twice further in": json.dumps(outside.request(9))
    .encode()
    .replace(b'"identity_format": "raw"', b'"identity_format": "raw", "identity_format": "sha256"'),
    "not a number": b'{"regulation": NaN}',
}


@pytest.mark.parametrize(
    "body", [*map(json.dumps, HOSTILE.values()), *RAW.values()], ids=[*HOSTILE, *RAW]
)
def test_a_hostile_body_is_refused_without_an_echo_and_without_a_trace(
    world: World, body: Any
) -> None:
    answer = world.call(
        "intake", "POST", DSR, content=body, headers={"Content-Type": "application/json"}
    )
    said = message(answer, 400)
    assert "secret-word" not in said
    assert "DROP" not in said
    assert len(said) < 1000
    assert world.register.history() == []


def test_a_field_is_named_and_its_value_is_not(world: World) -> None:
    assert (
        message(world.post(regulation="magna-carta"), 400)
        == "regulation: expected one of gdpr, ccpa, lgpd, pipl"
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": ""},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_other_types_and_packed_bodies_are_refused(world: World, headers: dict[str, str]) -> None:
    body = json.dumps(outside.request(1)).encode()
    bomb = gzip.compress(b"0" * 100_000_000) if "Content-Encoding" in headers else body
    message(world.call("intake", "POST", DSR, content=bomb, headers=headers), 415)
    assert world.register.history() == []


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(world: World) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(6):
            yield b" " * 65536

    large = b" " * (MAX_BODY + 1)
    for content in (large, pieces()):
        answer = world.call(
            "intake", "POST", DSR, content=content, headers={"Content-Type": "application/json"}
        )
        assert "262144" in message(answer, 413)
    just = json.dumps(outside.request(1)).encode().ljust(MAX_BODY)
    fits = world.call(
        "intake", "POST", DSR, content=just, headers={"Content-Type": "application/json"}
    )
    assert fits.status_code == 201


def test_a_body_that_never_comes_to_its_end_is_not_waited_for(world: World) -> None:
    impatient = app.create(world.home, world.register, world.gate, body_seconds=0.1)
    pieces = iter([{"type": "http.request", "body": b"{", "more_body": True}])
    sent: list[Any] = []

    async def receive() -> Any:
        for piece in pieces:
            return piece
        return await asyncio.sleep(60)

    async def send(part: Any) -> None:
        sent.append(part)

    scope = {
        "type": "http",
        "method": "POST",
        "path": DSR,
        "raw_path": DSR.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "server": ("127.0.0.1", 80),
        "scheme": "http",
    }
    asyncio.run(impatient(scope, receive, send))
    assert sent[0]["status"] == 408


def test_what_is_not_there_is_said_in_the_same_form(world: World) -> None:
    message(world.call("intake", "GET", "/nothing/here"), 404)
    message(world.call("intake", "PUT", DSR), 405)
    message(world.call("operator", "GET", "/v1/requests/no-id"), 404)
    message(world.call("operator", "GET", f"/v1/requests/{UNKNOWN}/events"), 404)
    message(world.act("hold", 77, reason="a claim"), 404)


def test_a_defect_of_the_server_says_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("ada-lovelace")

    monkeypatch.setattr(world.register, "receive", broken)
    with caplog.at_level(logging.DEBUG):
        said = message(world.post(), 500)
    assert "lovelace" not in said + caplog.text
    assert "ValueError at test_app.py:" in caplog.text


def test_with_the_register_away_the_sender_is_asked_to_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise WorkspaceError("the register's postgresql database cannot be used (secret-host)")

    with monkeypatch.context() as patched:
        patched.setattr(world.register, "receive", away)
        patched.setattr(world.register, "note", away)
        answer = world.post()
        assert "secret-host" not in message(answer, 503)
        assert answer.headers["Retry-After"] == "30"
        message(world.call("nobody", "GET", DSR + "/x"), 401)  # denied all the same
    assert world.post().status_code == 201


# -- access ---------------------------------------------------------------------------------------


def test_every_way_in_is_open_to_exactly_those_whom_the_table_names(world: World) -> None:
    for method, template, right, _ in ROUTES:
        path = template.replace("{request}", UNKNOWN).replace("{batch}", "b1")
        if right is None:
            assert world.call(None, method, path).status_code == 200
            continue
        refused = world.call(None, method, path)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        for role in outside.ROLES:
            status = world.call(role, method, path).status_code
            assert (status == 403) == (Role(role) not in ALLOWED[right]), (role, template)


def test_there_is_no_way_in_beside_those_of_the_table(world: World) -> None:
    described = world.client.get("/openapi.json").json()["paths"]
    assert {
        (method.upper(), path) for path, methods in described.items() for method in methods
    } == {(method, path) for method, path, *_ in ROUTES if path not in EARLIER_PATHS}


def test_a_denied_attempt_is_written_down_by_route_and_without_what_was_sent(world: World) -> None:
    world.call(
        "intake",
        "POST",
        "/v1/batches/ada-lovelace/approve?x=ada-lovelace",
        json={"comment": "ada-lovelace"},
    )
    world.call("ea_wrong-token", "GET", f"{DSR}/ada-lovelace")
    named, unknown = world.register.history(kind="access_denied")
    assert (named.actor, named.details["path"]) == ("intake", "/v1/batches/{batch}/approve")
    assert (unknown.actor, unknown.details["path"]) == ("unknown", f"{DSR}/{{request}}")
    told = repr(world.register.history())
    assert "lovelace" not in told
    assert "wrong-token" not in told


def test_a_flood_of_denials_leaves_a_short_chain(world: World) -> None:
    for _ in range(100):
        world.call("ea_wrong-token", "GET", "/v1/requests")
    assert len(world.register.history()) == 10


def test_a_signed_request_is_let_in_once_and_covers_path_and_body(world: World) -> None:
    body = json.dumps(outside.request(1)).encode()

    def send(nonce: str, content: bytes = body, path: str = DSR, made_for: str = DSR) -> int:
        now = int(time.time())
        proof = auth.sign(KEY.encode(), now, nonce, "POST", made_for, body)
        headers = {
            auth.SIGNATURE: f"t={now},n={nonce},k=signer,s={proof}",
            "Content-Type": "application/json",
        }
        return int(world.client.post(path, content=content, headers=headers).status_code)

    assert send("nonce-number-0001") == 201
    assert send("nonce-number-0001") == 401
    assert send("nonce-number-0002", body + b" ") == 401
    assert send("nonce-number-0003", path="/v1/opendsr_requests") == 401
    assert send("nonce-number-0004", path=f"{DSR}?a=b", made_for=f"{DSR}?a=b") == 200
    assert world.register.history()[0].actor == "signer"


# -- operators, approvers, auditors ---------------------------------------------------------------


def test_an_operator_leads_a_request_and_every_step_bears_his_name(world: World) -> None:
    world.post()
    assert world.act("identity", how="passport at the desk").json()["state"] == "identity_verified"
    other_law = world.act("hold", reason="a claim", ground="CCPA § 1798.145")
    assert "under the GDPR" in message(other_law, 400)
    assert world.act("hold", reason="a claim").json()["shown"] == "on_hold"
    assert world.act("lift", reason="the claim is settled").json()["shown"] == "identity_verified"
    assert world.act("extend", reason="many records").json()["due"] == "2027-02-22"
    assert "cannot be extended" in message(world.act("extend", reason="again"), 409)
    assert world.act("reject", reason="not our customer").json()["state"] == "rejected"
    events = world.call("auditor", "GET", f"/v1/requests/{outside.request_id(1)}/events").json()[
        "events"
    ]
    assert [(event["kind"], event["actor"]) for event in events] == [
        ("received", "intake"),
        ("identity_verified", "operator"),
        ("on_hold", "operator"),
        ("hold_lifted", "operator"),
        ("extended", "operator"),
        ("rejected", "operator"),
    ]
    assert events[1]["details"]["how"] == "passport at the desk"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": ""},
        {"reason": "  "},
        {"reason": 1},
        {"reason": None},
        {"reason": "a\0b"},
        {"reason": "\ud800"},
        {"reason": "x" * 1001},
        {"reason": "x", "by": "somebody else"},
        {"reason": "x", "actor": "somebody else"},
        ["reason"],
        "reason",
    ],
)
def test_nobody_can_act_in_another_name_or_write_what_a_database_cannot_keep(
    world: World, body: Any
) -> None:
    world.post()
    answer = world.call(
        "operator",
        "POST",
        f"/v1/requests/{outside.request_id(1)}/hold",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    assert "who acts is who the token says" in message(answer, 400)
    assert len(world.register.history()) == 1


def test_requests_are_listed_by_state_and_page(world: World) -> None:
    for number in range(1, 6):
        world.post(number)
    world.act("hold", 3, reason="a claim")
    world.act("identity", 4, how="at the desk")

    def listed(query: str) -> list[str]:
        return [
            one["request_id"]
            for one in world.call("approver", "GET", f"/v1/requests{query}").json()["requests"]
        ]

    assert len(listed("")) == 5
    assert listed("?state=on_hold") == [outside.request_id(3)]
    assert listed("?state=identity_verified") == [outside.request_id(4)]
    assert listed("?limit=2&offset=2") == listed("")[2:4]
    for query in (
        "?state=lost",
        "?limit=-1",
        "?limit=9999",
        "?offset=x",
        "?limit=²",
        "?batch=../x",
    ):
        assert world.call("approver", "GET", f"/v1/requests{query}").status_code in (400, 404)


def awaits_signoff(world: World, batch: str) -> None:
    """A batch of one request that passed its audit, and the tag of that audit."""
    world.post()
    request = outside.request_id(1)
    world.register.verify_identity(request, "operator", "passport")
    world.register.collect(batch, "nightly")
    world.register.move([request], State.AUDITED, "nightly", verdicts={request: "pass"})
    world.register.move([request], State.AWAITING_SIGNOFF, "nightly")
    for command in (
        ["init", "--quiet"],
        ["config", "user.email", "auditor@example.org"],
        ["config", "user.name", "Auditor"],
        ["add", "params.yaml"],
        ["commit", "--quiet", "-m", batch],
        ["tag", f"audit/{batch}"],
    ):
        shell.git(world.home, *command)


def test_a_decision_bears_the_name_of_the_token(world: World) -> None:
    awaits_signoff(world, "b1")
    for body in ({"comment": "seen"}, {"comment": "seen", "model": "retrained"}):
        answer = world.call("approver", "POST", "/v1/batches/b1/approve", json=body)
        assert answer.json() == json.loads(
            json.dumps(approval.standing(world.home, world.register, "b1").plain())
        )
    back = {"comment": "too much is left", "next": "another_method", "method": "retrain"}
    assert world.call("approver", "POST", "/v1/batches/b1/reject", json=back).status_code == 200
    decisions = world.register.history(batch="b1", kind="decision")
    assert [(event.actor, event.details["comment"]) for event in decisions] == [
        ("approver", "seen"),
        ("approver", "seen"),
        ("approver", "too much is left"),
    ]
    assert [event.details.get("model") for event in decisions] == ["unlearned", "retrained", None]
    assert decisions[-1].details["next"] == "another_method"
    assert decisions[-1].details["settings"] == {"unlearn.method": "retrain"}
    for wrong in ({"comment": "seen", "by": "boss"}, {"comment": "seen", "model": "another"}, {}):
        message(world.call("approver", "POST", "/v1/batches/b1/approve", json=wrong), 400)
    message(
        world.call(
            "approver", "POST", "/v1/batches/b1/reject", json={"comment": "x", "next": "away"}
        ),
        400,
    )


def test_a_batch_that_does_not_wait_cannot_be_approved(world: World) -> None:
    answer = world.call("approver", "POST", "/v1/batches/nothing/approve", json={"comment": "seen"})
    assert answer.status_code in (404, 409)


def test_an_auditor_sees_whether_the_chain_is_whole_and_who_was_denied(world: World) -> None:
    world.post()
    world.call("intake", "GET", "/v1/chain")
    whole = world.call("auditor", "GET", "/v1/chain").json()
    assert whole == {"intact": True, "events": 2, "head": world.register.head().hash}
    denied = world.call("auditor", "GET", "/v1/events?kind=access_denied").json()
    assert [event["actor"] for event in denied["events"]] == ["intake"]
    kept = (
        world.home / "ledger" / "chain" / "b1.json"
    )  # git holds an end that the register does not reach
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"seq": 9, "hash": "0" * 64}))
    broken = world.call("auditor", "GET", "/v1/chain").json()
    assert broken["intact"] is False
    assert "event 9" in broken["message"]
    message(world.call("auditor", "GET", "/v1/events?kind=Robert'); --"), 400)


def test_anybody_may_ask_whether_the_server_is_there_and_learns_nothing_else(world: World) -> None:
    assert world.call(None, "GET", "/healthz").json() == {"status": "ok"}


def test_nothing_that_names_a_person_is_stored_or_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        world.post()
        world.post(2, subject_identities=[outside.identity("Lovelace@example.org", "email")])
        world.post(3, regulation="lovelace")
        world.call("intake", "GET", f"{DSR}/lovelace@example.org?q=lovelace")
        world.call("intake", "GET", "/lovelace")
    world.register.close()
    kept = outside.everything_stored(world.home)
    assert b"lovelace" not in kept.lower()
    # httpx is this test's own client; what is looked at are the server's loggers
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")]
    assert ours
    assert "lovelace" not in "\n".join(ours).lower()
    assert not any(token in line for token in world.tokens.values() for line in ours)
    assert not any(token.encode() in kept for token in world.tokens.values())


def test_callbacks_are_sent_while_the_server_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(callbacks.HOSTS, "127.0.0.1")
    server = app.create(world.home, world.register, world.gate, deliver=True, pause=0.02)
    with outside.endpoint() as (seen, url), TestClient(server) as client:
        body = outside.request(1, status_callback_urls=[url])
        client.post(DSR, json=body, headers={"Authorization": f"Bearer {world.tokens['intake']}"})
        while not seen.seen:
            time.sleep(0.01)
        assert seen.seen[0]["request_status"] == "pending"


# -- fuzzing --------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=[]), max_size=40)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
QUIET: Any = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.generate, Phase.shrink),
    "derandomize": True,
}


@st.composite
def almost_good(draw: st.DrawFn) -> dict[str, Any]:
    """A request of which a part may be anything."""
    body = outside.request(draw(st.integers(1, 30)))
    changes = draw(
        st.sets(st.sampled_from([*body, "extensions", "status_callback_urls", "more"]), max_size=2)
    )
    for name in sorted(changes):
        body[name] = draw(ANYTHING)
    if draw(st.booleans()):
        body["subject_identities"] = draw(
            st.lists(
                st.builds(outside.identity, TEXTS, st.sampled_from(["email", "x"])),
                min_size=1,
                max_size=3,
            )
        )
    return body


def test_whatever_is_sent_nothing_crashes_and_nothing_taken_in_is_lost(either: World) -> None:
    taken: set[str] = set()

    @hypothesis_settings(max_examples=400, **QUIET)
    @given(
        body=almost_good() | ANYTHING,
        role=st.sampled_from(outside.ROLES),
        form=st.sampled_from(["json", "raw"]),
    )
    def send(body: Any, role: str, form: str) -> None:
        content = (
            json.dumps(body).encode() if form == "json" else repr(body).encode(errors="replace")
        )
        answer = either.call(
            role, "POST", DSR, content=content, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (200, 201, 400, 403, 409)
        if answer.status_code == 201:
            named = answer.json()["subject_request_id"]
            assert named not in taken
            taken.add(named)
        if answer.status_code == 200:
            assert answer.json()["subject_request_id"] in taken

    send()
    assert len(taken) > 10
    assert {case.request_id for case in either.register.cases()} == taken
    assert len(either.register.history(kind="received")) == len(taken)
    either.register.check_chain()


def test_no_path_crashes_on_what_its_description_allows_or_forbids(either: World) -> None:
    for number in range(1, 4):
        either.post(number)
    schema = schemathesis.openapi.from_asgi("/openapi.json", either.app)
    known = st.sampled_from([outside.request_id(number) for number in range(1, 4)])
    statuses: set[int] = set()
    created: set[str] = {outside.request_id(number) for number in range(1, 4)}
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 18

    def fuzz(operation: Any) -> None:
        @hypothesis_settings(max_examples=12, **QUIET)
        @given(
            case=operation.as_strategy(),
            role=st.sampled_from(outside.ROLES),
            request=st.none() | known,
        )
        def send(case: Any, role: str, request: str | None) -> None:
            if request is not None and case.path_parameters and "request" in case.path_parameters:
                case.path_parameters["request"] = request
            answer = case.call(headers={"Authorization": f"Bearer {either.tokens[role]}"})
            statuses.add(answer.status_code)
            assert answer.status_code < 500, (operation.label, answer.status_code)
            if answer.status_code == 201:
                created.add(json.loads(answer.content)["subject_request_id"])

        send()

    for operation in operations:
        fuzz(operation)
    assert {200, 400, 403, 404} <= statuses
    assert {case.request_id for case in either.register.cases()} == created
    either.register.check_chain()


def test_the_description_names_every_shown_way_and_what_it_answers(world: World) -> None:
    described = world.client.get("/openapi.json").json()
    for method, path, right, statuses in ROUTES:
        if path not in EARLIER_PATHS:
            answers = described["paths"][path][method.lower()]["responses"]
            denied = {401, 403} if right else set()
            assert {str(code) for code in {*statuses} | denied} == {*answers} - {"default"}, (
                method,
                path,
            )


def test_the_description_says_what_bodies_hold(world: World) -> None:
    described = world.client.get("/openapi.json").json()
    forms = described["components"]["schemas"]
    assert forms["HoldBody"]["required"] == ["reason"]
    assert forms["HoldBody"]["properties"]["ground"]["maxLength"] == 1000
    assert forms["RejectionBody"]["properties"]["next"]["enum"] == [
        "more_references",
        "another_method",
        "requeue",
        "refuse",
    ]
    sent = described["paths"][DSR]["post"]["requestBody"]
    assert sent["required"] is True
    assert "subject_identities" in sent["content"]["application/json"]["schema"]["required"]


# -- a real server --------------------------------------------------------------------------------


class Server:
    """`erasure-audit serve` as a process of its own."""

    def __init__(self, home: Path, secret: str, log: Path) -> None:
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                dummy.invocation("serve", "--port", "0"),
                cwd=home,
                env={**os.environ, **dummy.location(), auth.TOKENS: secret},
                stderr=stream,
                stdout=stream,
            )
        while not (found := re.search(r"running on http://127\.0\.0\.1:(\d+)", log.read_text())):
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.05)
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = outside.home(tmp_path / "home")
    (home / ".dvc").mkdir()
    (home / "dvc.yaml").write_text("stages: {}")
    return home


@contextlib.contextmanager
def serving(folder: Path, secret: str, log: Path) -> Iterator[Server]:
    server = Server(folder, secret, log)
    try:
        yield server
    finally:
        server.kill()


def test_twenty_at_once_that_send_the_same_are_one_request(folder: Path, tmp_path: Path) -> None:
    tokens, secret = outside.tokens()
    header = {"Authorization": f"Bearer {tokens['intake']}"}
    with serving(folder, secret, tmp_path / "log") as server:
        gate = threading.Barrier(20)

        def send(_: int) -> int:
            gate.wait()
            return httpx.post(
                server.url + DSR, json=outside.request(1), headers=header, timeout=None
            ).status_code

        with ThreadPoolExecutor(20) as pool:
            codes = sorted(pool.map(send, range(20)))
        assert codes == [*[200] * 19, 201]
        server.process.send_signal(signal.SIGTERM)  # it ends in peace
        server.process.wait(60)
    register = Register(folder)
    assert outside.has_all(register, {1})
    assert len(register.history()) == 1
    log = (tmp_path / "log").read_text()
    assert "lovelace" not in log
    assert tokens["intake"] not in log
    assert "POST /opendsr/v1/requests 201 intake" in log


def test_what_was_answered_before_a_kill_is_in_the_register(folder: Path, tmp_path: Path) -> None:
    tokens, secret = outside.tokens()
    header = {"Authorization": f"Bearer {tokens['intake']}"}
    answered: set[int] = set()
    with serving(folder, secret, tmp_path / "log") as server:

        def send(worker: int) -> None:
            with (
                contextlib.suppress(httpx.HTTPError),
                httpx.Client(headers=header, timeout=None) as client,
            ):
                for number in range(1000 * worker, 1000 * worker + 500):
                    if (
                        client.post(server.url + DSR, json=outside.request(number + 1)).status_code
                        == 201
                    ):
                        answered.add(number + 1)

        threads = [threading.Thread(target=send, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        while len(answered) < 40 and any(thread.is_alive() for thread in threads):
            time.sleep(0.005)
        server.kill()
        for thread in threads:
            thread.join()
    assert len(answered) >= 40
    register = Register(folder)
    kept = {case.request_id for case in register.cases()}
    assert {outside.request_id(number) for number in answered} <= kept
    assert len(kept) <= len(answered) + 4  # at most one per sender was kept and not answered
    register.check_chain()
    with serving(folder, secret, tmp_path / "log2") as server:
        again = [
            httpx.post(server.url + DSR, json=outside.request(n), headers=header, timeout=None)
            for n in sorted(answered)[-5:]
        ]
        assert [answer.status_code for answer in again] == [200] * 5


def test_what_is_no_http_ends_in_an_error_and_the_server_goes_on(
    folder: Path, tmp_path: Path
) -> None:
    _, secret = outside.tokens()
    with serving(folder, secret, tmp_path / "log") as server:
        for noise in (
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /opendsr/v1/requests HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
            b"POST /opendsr/v1/requests HTTP/1.1\r\nHost: x\r\nContent-Length: "
            b"99999999999999999999\r\n\r\n",
            b"POST /opendsr/v1/requests HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
            b"chunked\r\n\r\nZZ\r\n",
        ):
            with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
                connection.sendall(noise)
                connection.shutdown(socket.SHUT_WR)
                said = connection.recv(4096)
                assert not said.startswith(b"HTTP/1.1 5"), noise[:60]
        assert httpx.get(server.url + "/healthz", timeout=None).json() == {"status": "ok"}
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_no_way_of_naming_a_host_reaches_an_answer(folder: Path, tmp_path: Path) -> None:
    tokens, secret = outside.tokens()
    allowed = f"Authorization: Bearer {tokens['operator']}\r\n"
    heads = (
        "GET {path} HTTP/1.1\r\nHost: evil.example\r\n",
        "GET {path} HTTP/1.1\r\nHost: evil.example:99\r\n",
        "GET {path} HTTP/1.1\r\nHost: user@evil.example\r\n",
        "GET {path} HTTP/1.1\r\nHost: x\r\nHost: evil.example\r\n",
        "GET {path} HTTP/1.1\r\nHost: x\r\nForwarded: host=evil.example;proto=https\r\n",
        "GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-Host: evil.example\r\n"
        "X-Original-URL: //evil.example\r\nX-Forwarded-Prefix: //evil.example\r\n",
        "GET http://evil.example{path} HTTP/1.1\r\nHost: x\r\n",
        "GET {path} HTTP/1.0\r\nX: evil.example\r\n",
        "GET {path} HTTP/1.1\r\nX: evil.example\r\n",
    )
    paths = ("/opendsr/v1/discovery", "/v1/requests", "/v1/requests/", "/healthz/", "/none")
    with serving(folder, secret, tmp_path / "log") as server:
        for head in heads:
            for path in paths:
                asked = f"{head.format(path=path)}{allowed}Connection: close\r\n\r\n"
                with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
                    connection.sendall(asked.encode())
                    with connection.makefile("rb") as stream:
                        said = stream.read()
                assert said.startswith(b"HTTP/1.1 "), asked
                assert not said.startswith(b"HTTP/1.1 5"), asked
                assert b"evil" not in said, asked
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_idle_and_slow_connections_do_not_keep_others_out(folder: Path, tmp_path: Path) -> None:
    _, secret = outside.tokens()
    slow = (
        b"",  # says nothing
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n",  # never ends its head
        b"POST /opendsr/v1/requests HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",  # its body
    )
    with (
        serving(folder, secret, tmp_path / "log") as server,
        contextlib.ExitStack() as connections,
    ):
        for number in range(2 * waiting.MOST_WAITING):
            connection = connections.enter_context(
                socket.create_connection(("127.0.0.1", server.port), 30)
            )
            with contextlib.suppress(ConnectionError):
                connection.sendall(slow[number % 3])
        for _ in range(3):
            assert httpx.get(server.url + "/healthz", timeout=None).json() == {"status": "ok"}


def test_a_server_that_nobody_may_use_does_not_start(folder: Path) -> None:
    ended = dummy.command(
        folder, "serve", "--port", "0", **{auth.TOKENS: "", auth.SIGNING_CLIENTS: ""}
    )
    assert ended.returncode == 1
    assert "erasure-audit serve token" in ended.stderr
    half = dummy.command(
        folder, "serve", "--certificate", "x.pem", **{auth.TOKENS: outside.tokens()[1]}
    )
    assert "belong together" in half.stderr


def test_a_token_is_made_by_a_command_and_kept_nowhere(folder: Path) -> None:
    made = json.loads(
        dummy.command(
            folder, "serve", "token", "--name", "crm", "--role", "intake", "--json"
        ).stdout
    )
    assert Gatekeeper(made["entry"]).admit(
        auth.Attempt("GET", "/", b"", authorization=f"Bearer {made['token']}"), auth.Right.SUBMIT
    )
    assert made["token"].encode() not in outside.everything_stored(folder)
    wrong = dummy.command(folder, "serve", "token", "--name", "Ada Lovelace", "--role", "boss")
    assert wrong.returncode == 1
