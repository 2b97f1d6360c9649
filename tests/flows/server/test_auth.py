"""Who may do what: tokens known by their digest, signed requests that hold once, denials that
cannot flood."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.register.register import Register
from flows.server import auth
from flows.server.auth import ALLOWED, Attempt, Denials, DeniedError, Gatekeeper, Right, Role
from tasks.common.errors import SettingsError
from tests.worlds import outside

KEY = "k" * 40
NOW = 1_800_000_000
NONCE = "0123456789abcdef"


def gate(now: float = NOW) -> Gatekeeper:
    return Gatekeeper(None, f"crm:intake:{KEY}", lambda: now)


def signed(
    seconds: int = NOW,
    nonce: str = NONCE,
    name: str = "crm",
    key: str = KEY,
    target: str = "/a?b=c",
    body: bytes = b"{}",
) -> Attempt:
    proof = auth.sign(key.encode(), seconds, nonce, "POST", target, body)
    return Attempt("POST", target, body, signature=f"t={seconds},n={nonce},k={name},s={proof}")


def denied(found: Gatekeeper, attempt: Attempt, right: Right = Right.SUBMIT) -> DeniedError:
    with pytest.raises(DeniedError) as caught:
        found.admit(attempt, right)
    return caught.value


def test_every_right_belongs_to_somebody_and_decisions_to_approvers_alone() -> None:
    assert set(ALLOWED) == set(Right)
    assert all(ALLOWED.values())
    assert ALLOWED[Right.DECIDE] == {Role.APPROVER}
    assert ALLOWED[Right.CHAIN] == {Role.AUDITOR}
    assert Role.INTAKE not in ALLOWED[Right.LIST]


@pytest.mark.parametrize("role", outside.ROLES)
@pytest.mark.parametrize("right", list(Right))
def test_a_token_may_what_its_role_may_and_nothing_else(role: str, right: Right) -> None:
    token, entry = auth.new_token("somebody", [role])
    attempt = Attempt("POST", "/", b"", authorization=f"Bearer {token}")
    if Role(role) in ALLOWED[right]:
        assert Gatekeeper(entry).admit(attempt, right).name == "somebody"
    else:
        assert denied(Gatekeeper(entry), attempt, right).status == 403


def test_the_setting_holds_the_digest_of_a_token_and_the_digest_opens_nothing() -> None:
    token, entry = auth.new_token("crm", ["intake", "operator"])
    assert token not in entry
    assert entry == f"crm:intake+operator:{hashlib.sha256(token.encode()).hexdigest()}"
    stolen = entry.rpartition(":")[2]
    assert (
        denied(Gatekeeper(entry), Attempt("GET", "/", b"", authorization=f"Bearer {stolen}")).status
        == 401
    )


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic {}", "{}", "Bearer {}x", "Bearer \udcff"]
)
def test_whoever_shows_no_token_that_we_know_is_nobody(header: str | None) -> None:
    token, entry = auth.new_token("crm", ["intake"])
    shown = None if header is None else header.format(token)
    found = denied(Gatekeeper(entry), Attempt("GET", "/", b"", authorization=shown))
    assert (found.status, found.actor) == (401, "unknown")
    assert token not in str(found)


def test_a_token_is_changed_without_a_gap_by_two_entries_of_one_name() -> None:
    (old, one), (new, two) = auth.new_token("crm", ["intake"]), auth.new_token("crm", ["intake"])
    both = Gatekeeper(f"{one}\n{two}")
    for token in (old, new):
        assert (
            both.admit(Attempt("GET", "/", b"", authorization=f"bearer {token}"), Right.SUBMIT).name
            == "crm"
        )
    assert (
        denied(Gatekeeper(two), Attempt("GET", "/", b"", authorization=f"Bearer {old}")).status
        == 401
    )


@pytest.mark.parametrize(
    "entry",
    [
        "crm",
        "crm:intake",
        "crm:intake:",
        "crm:boss:" + "a" * 64,
        "crm::" + "a" * 64,
        "crm:intake+:" + "a" * 64,
        "unknown:intake:" + "a" * 64,
        "Ada Lovelace:intake:" + "a" * 64,
        "crm:intake:ea_secret_token_itself",
        "crm:intake:" + "A" * 64,
    ],
)
def test_a_malformed_setting_stops_the_server_and_is_not_repeated(entry: str) -> None:
    good = "ops:operator:" + "0" * 64
    with pytest.raises(SettingsError, match=r"entry [23]") as caught:
        Gatekeeper(f"{good}\n{entry}")
    assert "ea_secret" not in str(caught.value)
    assert "a" * 64 not in str(caught.value)


def test_one_name_has_one_set_of_roles() -> None:
    with pytest.raises(SettingsError, match="different roles"):
        Gatekeeper(f"crm:intake:{'0' * 64} crm:operator:{'1' * 64}")


def test_a_server_that_nobody_may_use_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (auth.TOKENS, auth.SIGNING_CLIENTS, "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match="serve token"):
        Gatekeeper.from_secrets()
    monkeypatch.setenv(auth.TOKENS, auth.new_token("crm", ["intake"])[1])
    Gatekeeper.from_secrets()


def test_a_short_shared_secret_is_refused() -> None:
    with pytest.raises(SettingsError, match="32 characters"):
        Gatekeeper(None, "crm:intake:short")


def test_a_signed_request_is_let_in_once() -> None:
    found = gate()
    assert found.admit(signed(), Right.SUBMIT).name == "crm"
    assert denied(found, signed()).why == "replayed"
    assert found.admit(signed(nonce="another-nonce-16"), Right.SUBMIT).name == "crm"


@pytest.mark.parametrize("seconds", [NOW - 301, NOW + 301, 0])
def test_a_signature_of_another_time_does_not_hold(seconds: int) -> None:
    assert denied(gate(), signed(seconds)).why == "stale signature"


def test_a_nonce_is_remembered_as_long_as_its_time_could_pass() -> None:
    clock = [float(NOW - 300)]
    found = Gatekeeper(None, f"crm:intake:{KEY}", lambda: clock[0])
    found.admit(signed(), Right.SUBMIT)
    clock[0] = NOW + 300.0
    assert denied(found, signed()).why == "replayed"
    clock[0] = NOW + 300.5
    assert denied(found, signed()).why == "stale signature"


def test_a_signature_covers_all_of_a_request() -> None:
    good = signed()
    assert good.signature is not None
    for other in (
        Attempt("DELETE", good.target, good.body, signature=good.signature),
        Attempt("POST", "/a?b=d", good.body, signature=good.signature),
        Attempt("POST", good.target, b"{ }", signature=good.signature),
        Attempt(
            "POST",
            good.target,
            good.body,
            signature=good.signature.replace(f"t={NOW}", f"t={NOW + 1}"),
        ),
        Attempt(
            "POST",
            good.target,
            good.body,
            signature=good.signature.replace(NONCE, "fedcba9876543210"),
        ),
        signed(key="x" * 40),
        signed(name="nobody"),
        signed(name="nobody", key="\0" * 32),
    ):
        assert denied(gate(), other).why == "wrong signature"


@given(st.text(max_size=200))
def test_any_signature_header_is_denied_and_never_a_crash(header: str) -> None:
    assert denied(gate(), Attempt("POST", "/", b"", signature=header)).status == 401


@given(st.text(max_size=200))
def test_any_authorization_header_is_denied_and_never_a_crash(header: str) -> None:
    assert denied(gate(), Attempt("POST", "/", b"", authorization=header)).status == 401


def test_a_denied_attempt_is_in_the_register_and_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    register = Register(outside.home(tmp_path))
    with caplog.at_level(logging.WARNING):
        error = DeniedError(403, "crm", "not allowed", "no")
        Denials(register).write(error, "POST", "/v1/batches/{batch}/approve", Right.DECIDE)
    (event,) = register.history(kind="access_denied")
    assert event.actor == "crm"
    assert event.details == {
        "method": "POST",
        "path": "/v1/batches/{batch}/approve",
        "right": "decide",
        "why": "not allowed",
    }
    assert "/v1/batches/{batch}/approve" in caplog.text


def test_a_flood_of_denials_is_counted_and_does_not_fill_the_chain(tmp_path: Path) -> None:
    register = Register(outside.home(tmp_path))
    clock = [0.0]
    denials = Denials(register, clock=lambda: clock[0])
    for _ in range(500):
        denials.write(DeniedError(401, "unknown", "unknown token", "no"), "GET", "/", Right.LIST)
    denials.write(DeniedError(403, "crm", "not allowed", "no"), "GET", "/", Right.LIST)
    assert len(register.history(kind="access_denied")) == 11
    clock[0] = 61.0
    denials.settle()
    found = register.history(kind="access_denied")
    assert len(found) == 12
    assert found[-1].details["further"] == 490
    denials.write(DeniedError(401, "unknown", "unknown token", "no"), "GET", "/", Right.LIST)
    assert len(register.history(kind="access_denied")) == 13
    register.check_chain()


def test_comparing_does_not_stop_at_the_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [auth.new_token(f"c{number}", ["intake"]) for number in range(20)]
    found = Gatekeeper("\n".join(entry for _, entry in made))
    compared = []
    real = auth.hmac.compare_digest
    monkeypatch.setattr(
        auth.hmac, "compare_digest", lambda one, two: compared.append(1) or real(one, two)
    )
    found.admit(Attempt("GET", "/", b"", authorization=f"Bearer {made[0][0]}"), Right.SUBMIT)
    assert len(compared) == 20


def test_a_real_clock_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    Gatekeeper(None, f"crm:intake:{KEY}").admit(signed(int(time.time())), Right.SUBMIT)
