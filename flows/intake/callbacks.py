"""Status callbacks to controllers: signed, in order, repeated until they are accepted.

The sender of a request chooses the address, so it counts as hostile: only HTTPS to public addresses
is allowed, the connection goes to the address that was checked, redirects are not followed, answers
are not read, and each endpoint has a time limit.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import random
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.intake import addresses
from flows.register.register import OUTWARD, DueCallback, Event, Register, State
from flows.workspace import signing_keys
from tasks.common.errors import RequestError, SignatureError, WorkspaceError

if TYPE_CHECKING:
    import httpx

    from tasks.signatures import keys

HOSTS = "ERASURE_AUDIT_CALLBACK_HOSTS"
"""Environment variable: own hosts (`name` or `name:port`, separated by commas), for which private
addresses and plain HTTP are allowed."""
PUBLIC_URL = "ERASURE_AUDIT_PUBLIC_URL"
"""Environment variable: the server's public address, such as https://erasure.example.org; its host
is the signing domain."""
API_VERSION = "1.0"

MOST_TRIES = 14
"""Tries of a callback before it is given up, over a day and a half."""
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 12 * 3600.0
"""The first and the longest pause between tries, s; each is twice the one before, less a random
part of up to a half."""
TIMEOUT = 10.0
"""Time limit of an endpoint, from looking up its name to the first line of its answer, s."""
AT_ONCE, AT_ONCE_PER_CLIENT, AT_ONCE_PER_HOST = 32, 8, 4
"""Maximum number of concurrent callbacks: in all, of one client, and to one host."""

_LOG = logging.getLogger("erasure_audit.callbacks")
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class RefusedAddressError(RequestError):
    """A callback's address is not allowed."""


@dataclass(frozen=True)
class CallbackNotice:
    """The public state of a request."""

    request_id: str
    status: str
    due: str | None
    controller: str
    received: str

    @property
    def completion(self) -> str | None:
        """RFC 3339; None: the law names no day."""
        return None if self.due is None else f"{self.due}T23:59:59Z"


@dataclass(frozen=True)
class Delivery:
    """The outcomes of due callbacks: delivered, to be tried again, given up."""

    delivered: int = 0
    again: int = 0
    given_up: int = 0

    @property
    def line(self) -> str:
        """For people."""
        return (
            f"{self.delivered} delivered, {self.again} to be tried again, {self.given_up} given up"
        )

    def plain(self) -> dict[str, int]:
        """As JSON values."""
        return {"delivered": self.delivered, "again": self.again, "given_up": self.given_up}


def notice_of(history: Sequence[Event]) -> CallbackNotice:
    """The public state of a request after its events, the first of which is its receipt."""
    first = history[0]
    status, due, rejected = OUTWARD[State.RECEIVED], first.details.get("due"), False
    for event in history:
        if event.kind in set(State):
            rejected = rejected or event.kind == State.REJECTED
            status = OUTWARD[State.REJECTED if rejected else State(event.kind)]
        elif event.kind == "extended":
            due = event.details.get("to")
    return CallbackNotice(str(first.request_id), status, due, first.actor, first.at)


def check(url: str) -> None:
    """Check the form of a callback's address.

    Raises:
        RequestError: it is not allowed; the message does not quote the address.
    """
    expected = (
        "status_callback_urls: expected addresses https://host/path of printable ASCII, without "
        "user or fragment"
    )
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        raise RequestError(expected) from None
    plain = url.isascii() and url.isprintable() and not set(url) & set(' \\"<>^`{|}')
    has_plain_host = (
        parts.hostname and not parts.username and not parts.password and "@" not in parts.netloc
    )
    if not plain or not has_plain_host or parts.fragment or len(url) > 2048:
        raise RequestError(expected)
    if parts.scheme != "https" and not (
        parts.scheme == "http" and _is_own_host(str(parts.hostname), parts.port or 80)
    ):
        raise RequestError(expected)
    if parts.scheme == "https" and port < 1:
        raise RequestError(expected)


def deliver(
    home: Path,
    register: Register,
    at: datetime | None = None,
    resolve: Resolve | None = None,
    timeout: float = TIMEOUT,
) -> Delivery:
    """Send the status callbacks that are due, each signed; failed ones are tried again later.

    Only one process delivers at a time. A process that is killed between a callback and its record
    in the register sends it again: `event` in the body identifies it.

    Args:
        home: the workspace, for the signing key.
        register: of the requests.
        at: the current time; None: now.
        resolve: looks up the addresses of a host.
        timeout: time limit of an endpoint, s.

    Raises:
        SignatureError: there is no signing key.
        BusyError: another process delivers.
    """
    if not register.undelivered(at, limit=1):
        return Delivery()
    key = signing_keys.load_key(home)
    if key is None:
        raise SignatureError(
            f"status callbacks wait and there is no key to sign them with; see {signing_keys.FILE}"
        )
    with register.lease("callbacks"):
        return asyncio.run(_deliver(register, key, at, resolve or _resolve, timeout))


def headers(body: bytes, key: keys.SigningKey, domain: str) -> dict[str, str]:
    """The headers of OpenDSR that authenticate the sender of a body."""
    signature = base64.b64encode(key.private.sign(body)).decode("ascii")
    return {"X-OpenDSR-Processor-Domain": domain, "X-OpenDSR-Signature": signature}


def domain() -> str:
    """The signing domain: the host of `ERASURE_AUDIT_PUBLIC_URL`."""
    return urlsplit(os.environ.get(PUBLIC_URL, "")).hostname or "localhost"


def pause(tries: int, chance: Callable[[], float] = random.random) -> timedelta:
    """The pause after a number of tries. It doubles each time and is shortened at random, so that
    callbacks spread out.

    Args:
        tries: 1 or more.
        chance: returns random numbers from 0 to 1.
    """
    full = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (tries - 1))
    return timedelta(seconds=full * (1 - chance() / 2))


async def _deliver(
    register: Register,
    key: keys.SigningKey,
    at: datetime | None,
    resolve: Resolve,
    timeout: float,
) -> Delivery:
    """Deliver in rounds until nothing is due: after a callback the request's next one may be."""
    import certifi
    import httpx

    counted: Counter[str] = Counter()
    everywhere = asyncio.Semaphore(AT_ONCE)
    hosts: dict[str, asyncio.Semaphore] = {}
    clients: dict[str, asyncio.Semaphore] = {}
    trusted = ssl.create_default_context()  # with the machine's own authorities
    trusted.load_verify_locations(certifi.where())
    # no proxy from the environment: the connection must go to the address that was checked
    async with httpx.AsyncClient(
        verify=trusted, timeout=timeout, follow_redirects=False, trust_env=False
    ) as client:

        async def attempt(due: DueCallback) -> None:
            sender = clients.setdefault(due.client, asyncio.Semaphore(AT_ONCE_PER_CLIENT))
            name = urlsplit(due.url).hostname or ""
            host = hosts.setdefault(name, asyncio.Semaphore(AT_ONCE_PER_HOST))
            # `everywhere` last: a callback that waits for its host must not block others
            async with sender, host, everywhere:
                outcome, is_done = await _send(register, client, key, due, resolve, timeout)
            counted[await asyncio.to_thread(_note, register, due, outcome, is_done, at)] += 1

        for _ in range(1000):  # a request has few events; the limit only ends the loop of a defect
            due = await asyncio.to_thread(register.undelivered, at, 200)
            if not due:
                break
            await asyncio.gather(*map(attempt, due))
    return Delivery(counted["delivered"], counted["again"], counted["given_up"])


def _note(
    register: Register, due: DueCallback, outcome: str, is_done: bool, at: datetime | None
) -> str:
    """Record a try. Returns its outcome."""
    event, url, tries = due.event, due.url, due.tries + 1
    if is_done:
        register.record_try(event.seq, url, outcome, None)
        return "delivered"
    if tries < MOST_TRIES:
        register.record_try(event.seq, url, outcome, (at or datetime.now(UTC)) + pause(tries))
        return "again"
    register.note(  # first: after a kill it is recorded twice, not never
        "callback_given_up",
        "callbacks",
        request_id=event.request_id,
        event=event.seq,
        tries=tries,
        outcome=outcome,
    )
    register.record_try(event.seq, url, outcome, None)
    _LOG.warning(
        "request %s: the callback of event %d is given up: %s", event.request_id, event.seq, outcome
    )
    return "given_up"


async def _send(
    register: Register,
    client: httpx.AsyncClient,
    key: keys.SigningKey,
    due: DueCallback,
    resolve: Resolve,
    timeout: float,
) -> tuple[str, bool]:
    """Try once. Returns the outcome, and whether the callback is done."""
    import httpx

    event, url = due.event, due.url
    history = [
        earlier
        for earlier in await asyncio.to_thread(register.history, event.request_id)
        if earlier.seq <= event.seq
    ]
    notice = notice_of(history)
    if len(history) > 1 and notice == notice_of(history[:-1]):
        return "nothing new to tell", True
    body = _body(notice, event, url)
    try:
        async with asyncio.timeout(timeout):
            target, extra = await _target(url, resolve)
            request = client.build_request(
                "POST",
                target,
                content=body,
                headers={
                    "Host": urlsplit(url).netloc,
                    "Content-Type": "application/json",
                    "User-Agent": "erasure-audit",
                    **headers(body, key, domain()),
                },
                extensions=dict(extra),
            )
            answer = await client.send(request, stream=True)
            await answer.aclose()  # the rest of the answer is ignored
    except TimeoutError:
        return f"no answer within {timeout:g} s", False
    except RequestError as error:
        return str(error), False
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return f"not reached ({type(error).__name__})", False
    return f"HTTP {answer.status_code}", 200 <= answer.status_code < 300


def _body(notice: CallbackNotice, event: Event, url: str) -> bytes:
    value = {
        "controller_id": notice.controller,
        "status_callback_url": url,
        "subject_request_id": notice.request_id,
        "request_status": notice.status,
        "expected_completion_time": notice.completion,
        "status_time": event.at,
        "event": event.seq,
        "event_hash": event.hash,
        "api_version": API_VERSION,
    }
    return json.dumps(value, ensure_ascii=False).encode()


async def _target(url: str, resolve: Resolve) -> tuple[str, Mapping[str, Any]]:
    """The URL with the checked address in place of the host, and the name that its certificate must
    have.

    Raises:
        RefusedAddressError: the host has an address that is not public, and is not an own host.
        RequestError: the form of the URL is not allowed.
    """
    check(url)
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    resolved = await resolve(host, port)
    if not resolved:
        raise OSError("no address")
    if not _is_own_host(host, port) and not all(map(addresses.is_public, resolved)):
        raise RefusedAddressError(
            f"the callback's host has an address that is not public; list our own in {HOSTS}"
        )
    address = f"[{resolved[0]}]" if ":" in resolved[0] else resolved[0]
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"{parts.scheme}://{address}:{port}{path}", {"sni_hostname": host}


async def _resolve(host: str, port: int) -> Sequence[str]:
    resolved = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in resolved]


def _is_own_host(host: str, port: int) -> bool:
    listed = {name.strip().lower() for name in os.environ.get(HOSTS, "").replace(",", " ").split()}
    return host.lower() in listed or f"{host.lower()}:{port}" in listed


def public_url() -> str | None:
    """The server's public address, without a slash at its end; None: it is not set.

    Raises:
        WorkspaceError: it is not the address of a server.
    """
    url = os.environ.get(PUBLIC_URL)
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
        raise WorkspaceError(f"{PUBLIC_URL}: expected an address as in https://erasure.example.org")
    return url.rstrip("/")
