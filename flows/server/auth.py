"""Authentication and authorisation over HTTP: a table of roles and rights, bearer tokens, signed
requests, and a record of denials.

A token's name is the actor in the register; no field of a request can change it. The setting holds
only SHA-256 digests of tokens, so reading it gives no access.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets as randomness
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from flows.register.register import Register
from flows.workspace import environment
from tasks.common.errors import AuditError, SettingsError

TOKENS = "ERASURE_AUDIT_TOKENS"
"""Names the secret with the bearer tokens: entries `name:role[+role]:SHA-256 of the token`,
separated by white space."""
SIGNING_CLIENTS = "ERASURE_AUDIT_SIGNING_CLIENTS"
"""Names the secret with clients that sign: entries `name:role[+role]:shared secret`, separated by
white space."""
SIGNATURE = "X-Erasure-Audit-Signature"
"""Header of a signed request: `t=<seconds since 1970>,n=<nonce>,k=<name>,s=<HMAC-SHA256 in
hexadecimal>`."""
WINDOW = 300
"""Maximum difference between the time of a signed request and the server's, s; within it a nonce is
accepted once."""
UNKNOWN = "unknown"
"""The actor of a denied attempt by an unknown client."""

_LOG = logging.getLogger("erasure_audit.access")
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SIGNED = re.compile(
    r"t=(?P<t>[0-9]{1,12}),n=(?P<n>[A-Za-z0-9_-]{16,64}),"
    r"k=(?P<k>[a-z0-9][a-z0-9._@-]{0,63}),s=(?P<s>[0-9a-f]{64})"
)
_MOST_NONCES = 100_000


class Role(StrEnum):
    """The role of a client."""

    INTAKE = "intake"
    OPERATOR = "operator"
    APPROVER = "approver"
    AUDITOR = "auditor"


class Right(StrEnum):
    """An action over HTTP that needs permission."""

    SUBMIT = "submit"
    STATUS = "status"
    CANCEL = "cancel"
    LIST = "list"
    EVENTS = "events"
    IDENTITY = "identity"
    HOLD = "hold"
    EXTEND = "extend"
    REFUSE = "refuse"
    DECIDE = "decide"
    CHAIN = "chain"


ALLOWED: Mapping[Right, frozenset[Role]] = {
    Right.SUBMIT: frozenset({Role.INTAKE, Role.OPERATOR}),
    Right.STATUS: frozenset(Role),
    Right.CANCEL: frozenset({Role.INTAKE, Role.OPERATOR}),
    Right.LIST: frozenset({Role.OPERATOR, Role.APPROVER, Role.AUDITOR}),
    Right.EVENTS: frozenset({Role.OPERATOR, Role.APPROVER, Role.AUDITOR}),
    Right.IDENTITY: frozenset({Role.OPERATOR}),
    Right.HOLD: frozenset({Role.OPERATOR}),
    Right.EXTEND: frozenset({Role.OPERATOR}),
    Right.REFUSE: frozenset({Role.OPERATOR}),
    Right.DECIDE: frozenset({Role.APPROVER}),
    Right.CHAIN: frozenset({Role.AUDITOR}),
}
"""The roles that have each right. A client with only the role intake sees and cancels only its own
requests."""


class DeniedError(AuditError):
    """An attempt that is not allowed.

    Attributes:
        status: 401 if the client is unknown, 403 if it is known and lacks the right.
        actor: the client's name, or `unknown`.
        why: the reason in a word or two, for the register.
    """

    def __init__(self, status: int, actor: str, why: str, message: str) -> None:
        super().__init__(message)
        self.status, self.actor, self.why = status, actor, why


@dataclass(frozen=True)
class Client:
    """A known client with its roles."""

    name: str
    roles: frozenset[Role]

    def may(self, right: Right) -> bool:
        """Whether one of the roles has the right."""
        return bool(self.roles & ALLOWED[right])

    @property
    def sees_only_own(self) -> bool:
        """Whether requests of other clients are hidden from it."""
        return self.roles == {Role.INTAKE}


@dataclass(frozen=True)
class Attempt:
    """An attempt to use the server; `target` is the path with its query as sent."""

    method: str
    target: str
    body: bytes = field(repr=False)
    authorization: str | None = field(repr=False, default=None)
    signature: str | None = field(repr=False, default=None)


class Gatekeeper:
    """Admits or denies clients."""

    def __init__(
        self, tokens: str | None, signers: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Args:
        tokens: the secret `ERASURE_AUDIT_TOKENS`.
        signers: the secret `ERASURE_AUDIT_SIGNING_CLIENTS`.
        clock: seconds since 1970.

        Raises:
            SettingsError: an entry is malformed; the message names its position, not its content.
        """
        entries = _entries(TOKENS, tokens)
        if position := next(
            (
                number
                for number, (_, secret) in enumerate(entries, 1)
                if not _DIGEST.fullmatch(secret)
            ),
            None,
        ):
            raise SettingsError(
                f"{TOKENS}: entry {position} does not end in the SHA-256 digest of a token (64 "
                "lower-case hexadecimal digits); make an entry with `erasure-audit serve token`"
            )
        self._tokens = [(client, bytes.fromhex(secret)) for client, secret in entries]
        self._signers = {
            client.name: (client, secret.encode())
            for client, secret in _entries(SIGNING_CLIENTS, signers)
        }
        if position := next(
            (
                number
                for number, (_, secret) in enumerate(self._signers.values(), 1)
                if len(secret) < 32
            ),
            None,
        ):
            raise SettingsError(
                f"{SIGNING_CLIENTS}: the secret of entry {position} is shorter than 32 characters"
            )
        self._clock = clock
        self._nonces: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_secrets(cls) -> Gatekeeper:
        """The gatekeeper of the secrets.

        Raises:
            SettingsError: a secret is malformed, or there is none, so that nobody could use the
                server.
        """
        tokens, signers = environment.secret(TOKENS), environment.secret(SIGNING_CLIENTS)
        if not (tokens or signers):
            raise SettingsError(
                f"nobody may use the server: {TOKENS} is not set; make an entry for it with "
                "`erasure-audit serve token --name crm --role intake`"
            )
        return cls(tokens, signers)

    def admit(self, attempt: Attempt, right: Right) -> Client:
        """The client, if it is known and has the right.

        Raises:
            DeniedError: it is unknown, or lacks the right.
        """
        if attempt.signature is not None:
            client = self._signed(attempt, attempt.signature)
        else:
            client = self._bearer(attempt.authorization)
        if not client.may(right):
            raise DeniedError(
                403,
                client.name,
                "not allowed",
                f"{client.name} may not do this; it takes one of the roles "
                f"{', '.join(sorted(ALLOWED[right]))}",
            )
        return client

    def _bearer(self, header: str | None) -> Client:
        if not header:
            raise DeniedError(
                401,
                UNKNOWN,
                "no credentials",
                f"expected a bearer token in Authorization, or {SIGNATURE}",
            )
        scheme, _, token = header.partition(" ")
        presented = hashlib.sha256(token.strip().encode(errors="surrogatepass")).digest()
        # every entry is compared, so that the time reveals no position
        matching = [
            client for client, digest in self._tokens if hmac.compare_digest(digest, presented)
        ]
        if scheme.lower() != "bearer" or not matching:
            raise DeniedError(
                401,
                UNKNOWN,
                "unknown token",
                "the bearer token is not known here; ask for a new one",
            )
        return matching[0]

    def _signed(self, attempt: Attempt, header: str) -> Client:
        refusal = DeniedError(
            401,
            UNKNOWN,
            "wrong signature",
            f"{SIGNATURE} does not hold; expected t=<seconds>,n=<nonce>,k=<name>,s=<HMAC> as "
            "docs/intake.md describes",
        )
        fields = _SIGNED.fullmatch(header)
        if fields is None:
            raise refusal
        # an unknown name takes as long as a known one
        client, key = self._signers.get(fields["k"], (None, b"\0" * 32))
        expected = sign(
            key, int(fields["t"]), fields["n"], attempt.method, attempt.target, attempt.body
        )
        if not hmac.compare_digest(expected, fields["s"]) or client is None:
            raise refusal
        now = self._clock()
        if abs(now - int(fields["t"])) > WINDOW:
            raise DeniedError(
                401,
                client.name,
                "stale signature",
                f"the signature is not of the last {WINDOW} s; set the clock right",
            )
        if not self._first_time(client.name, fields["n"], now):
            raise DeniedError(
                401,
                client.name,
                "replayed",
                "a request with this nonce was here before; sign each with its own",
            )
        return client

    def _first_time(self, name: str, nonce: str, now: float) -> bool:
        with self._lock:
            if len(self._nonces) >= _MOST_NONCES:
                self._nonces = {key: until for key, until in self._nonces.items() if until >= now}
            was_used = self._nonces.get((name, nonce), 0.0) >= now
            if was_used or len(self._nonces) >= _MOST_NONCES:
                return False
            self._nonces[name, nonce] = now + 2 * WINDOW  # as long as its time is accepted
            return True


class Denials:
    """Records denied attempts in the register; a flood is only counted, so that it cannot fill the
    chain."""

    def __init__(
        self,
        register: Register,
        limit: int = 10,
        window: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        register: of the requests.
        limit: recorded attempts of one actor per window; further ones are counted and recorded as
            one.
        window: s.
        clock: s.
        """
        self._register, self._limit, self._window, self._clock = register, limit, window, clock
        self._counts: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def write(self, denied: DeniedError, method: str, path: str, right: Right) -> None:
        """Record a denied attempt.

        Args:
            denied: the error, with actor and reason.
            method: of HTTP.
            path: the route's template, never the path itself, which may hold anything.
            right: that was needed.
        """
        _LOG.warning(
            "denied: %s %s by %s (%s), needed %s", method, path, denied.actor, denied.why, right
        )
        with self._lock:
            since, count = self._counts.get(denied.actor, (self._clock(), 0))
            self._counts[denied.actor] = since, count + 1
            is_recorded = count < self._limit
        if is_recorded:
            facts = {"method": method, "path": path, "right": str(right), "why": denied.why}
            self._register.note("access_denied", denied.actor, **facts)
        self.settle()

    def settle(self, all_of_them: bool = False) -> None:
        """Record the counted attempts of finished windows, or of all."""
        now = self._clock()
        with self._lock:
            finished = {
                name: count
                for name, (since, count) in self._counts.items()
                if all_of_them or now - since >= self._window
            }
            for name in finished:
                del self._counts[name]
        for name, count in finished.items():
            if count > self._limit:
                self._register.note(
                    "access_denied", name, further=count - self._limit, why="too many to name each"
                )


def new_token(name: str, roles: list[str]) -> tuple[str, str]:
    """A new bearer token, and its entry for `ERASURE_AUDIT_TOKENS`.

    Raises:
        SettingsError: the name or a role is not allowed.
    """
    token = "ea_" + randomness.token_urlsafe(32)
    entry = f"{name}:{'+'.join(roles)}:{hashlib.sha256(token.encode()).hexdigest()}"
    _entries("--name and --role", entry)
    return token, entry


def sign(key: bytes, seconds: int, nonce: str, method: str, target: str, body: bytes) -> str:
    """The `s` of a signed request: HMAC-SHA256 over time, nonce, method, path with query, and the
    body's SHA-256."""
    message = "\n".join(
        [str(seconds), nonce, method.upper(), target, hashlib.sha256(body).hexdigest()]
    )
    return hmac.new(key, message.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def _entries(source: str, text: str | None) -> list[tuple[Client, str]]:
    """Parse `name:roles:secret` entries. Errors do not quote an entry: it may be a token itself."""
    entries = []
    for position, entry in enumerate((text or "").split(), start=1):
        name, _, roles_and_secret = entry.partition(":")
        roles, _, secret = roles_and_secret.partition(":")
        known_roles = [role for role in roles.split("+") if role in set(Role)]
        if (
            not _NAME.fullmatch(name)
            or name == UNKNOWN
            or not secret
            or known_roles != roles.split("+")
        ):
            raise SettingsError(
                f"{source}: entry {position} is malformed; expected name:role:…, the name of small "
                f"letters, digits and ._@- (at most 64, not {UNKNOWN}), and roles of "
                f"{', '.join(Role)} joined by +"
            )
        entries.append((Client(name, frozenset(Role(role) for role in known_roles)), secret))
    names: dict[str, frozenset[Role]] = {}
    for client, _ in entries:
        if names.setdefault(client.name, client.roles) != client.roles:
            raise SettingsError(
                f"{source}: {client.name} has entries with different roles; give each the same"
            )
    return entries
