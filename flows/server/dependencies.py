"""Dependencies of routes: the workspace, the client and its right, limits, parameters.

FastAPI reads a body before it resolves dependencies. So `AllowedToSend` reports a body that is not
JSON, after the client was admitted.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path as Folder
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Depends, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from flows.intake import drop_folder
from flows.register.register import Register, UnknownRequestError
from flows.server import auth
from flows.server.auth import Client, DeniedError, Right
from flows.server.error_answers import EXPECTED, BadBodyError
from tasks.common.errors import AuditError, RequestError
from tasks.signatures import keys

MAX_BODY = 256 * 1024
"""Maximum size of a body, bytes; one request needs less."""
BODY_SECONDS = 20.0
"""Time limit for receiving a body, s."""

_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_BATCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TYPE = re.compile(r'application/json(\s*;\s*charset\s*=\s*"?utf-8"?)?', re.IGNORECASE)


@dataclass(frozen=True)
class Office:
    """The state of the server; `body_seconds` is the time limit for receiving a body, s."""

    home: Folder
    register: Register
    gate: auth.Gatekeeper
    denials: auth.Denials
    key: keys.SigningKey = field(repr=False)
    identity_types: tuple[str, ...]
    public_url: str | None = None
    body_seconds: float = BODY_SECONDS


def office(request: Request) -> Office:
    """The state of the server."""
    state_office: Office = request.app.state.office
    return state_office


class LimitedRequest(Request):
    """A request with limits on the size and time of its body.

    Attributes:
        fault: why the body is not JSON, once it was read.
    """

    fault: RequestError | None = None

    async def body(self) -> bytes:
        """The body.

        Raises:
            BadBodyError: it is too large, too slow, or compressed.
        """
        if not hasattr(self, "_body"):
            self._body = await self._limited_body()
        return self._body

    async def json(self) -> Any:
        """The body as JSON; None if it is not JSON, and then `fault` is set."""
        if not hasattr(self, "_json"):
            try:
                self._json = drop_folder.strict_json((await self.body()).decode("utf-8"))
            except UnicodeDecodeError:
                self.fault = RequestError("the body is no UTF-8; expected a JSON object")
                self._json = None
            except RequestError as error:
                self.fault, self._json = error, None
        return self._json

    async def _limited_body(self) -> bytes:
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise BadBodyError(
                415, "the body is packed; send it as it is, without Content-Encoding"
            )
        large = BadBodyError(
            413, f"the body is larger than {MAX_BODY} bytes; send one request at a time"
        )
        length = self.headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and (len(length) > 12 or int(length) > MAX_BODY):
            raise large
        body = bytearray()
        seconds = office(self).body_seconds
        try:
            async with asyncio.timeout(seconds):
                async for chunk in self.stream():
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise large
        except ClientDisconnect:
            raise BadBodyError(400, "the connection ended before the body did") from None
        except TimeoutError:
            raise BadBodyError(408, f"the body did not come within {seconds:g} s") from None
        return bytes(body)


@dataclass(frozen=True)
class Allowed:
    """The client of a call, if it has a right; a denial is recorded."""

    right: Right

    async def __call__(self, request: Request) -> Client:
        """The client.

        Raises:
            DeniedError: it is unknown, or lacks the right.
        """
        path = request.scope.get("raw_path") or request.url.path.encode()
        query = request.scope.get("query_string") or b""
        attempt = auth.Attempt(
            request.method,
            (path + (b"?" + query if query else b"")).decode("latin-1"),
            await request.body(),
            request.headers.get("authorization"),
            request.headers.get(auth.SIGNATURE),
        )
        try:
            client = office(request).gate.admit(attempt, self.right)
        except DeniedError as denied:
            # if the register fails, the log has it
            with suppress(AuditError, sa.exc.SQLAlchemyError):
                await run_in_threadpool(
                    office(request).denials.write,
                    denied,
                    request.method,
                    request.scope["route"].path,
                    self.right,
                )
            raise
        request.state.client = client.name
        return client


class AllowedToSend(Allowed):
    """The client of a call, if it has a right and the body is JSON."""

    async def __call__(self, request: Request) -> Client:
        """The client.

        Raises:
            DeniedError: it is unknown, or lacks the right.
            BadBodyError: the Content-Type is another one.
            RequestError: the body is not JSON, or an object of it has a key twice.
        """
        client = await super().__call__(request)
        await _require_json(request)
        return client


async def _require_json(request: Request) -> None:
    if not _TYPE.fullmatch(request.headers.get("content-type", "").strip()):
        raise BadBodyError(415, "expected Content-Type: application/json, in UTF-8")
    await request.json()
    if isinstance(request, LimitedRequest) and request.fault is not None:
        raise request.fault


async def raw_body(request: Request) -> bytes:
    """The body as it was sent."""
    return await request.body()


async def request_id(
    request: Annotated[str, Path(json_schema_extra={"format": "uuid"})],
) -> str:
    """The request id in the path.

    Raises:
        UnknownRequestError: it is not an id; it may be personal data, so it is not quoted.
    """
    if not _UUID4.fullmatch(request.lower()):
        raise UnknownRequestError("no request id")
    return request.lower()


async def batch_name(batch: Annotated[str, Path()]) -> str:
    """The batch in the path.

    Raises:
        UnknownRequestError: it is no name of a batch.
    """
    return _batch(batch)


async def batch_asked_for(batch: str | None = None) -> str | None:
    """The batch in the query, if there is one.

    Raises:
        UnknownRequestError: it is no name of a batch.
    """
    return None if batch is None else _batch(batch)


def _batch(name: str) -> str:
    if not _BATCH.fullmatch(name):
        raise UnknownRequestError("no name of a batch")
    return name


TheOffice = Annotated[Office, Depends(office)]
RequestId = Annotated[str, Depends(request_id)]
BatchName = Annotated[str, Depends(batch_name)]
BatchAskedFor = Annotated[str | None, Depends(batch_asked_for)]
Limit = Annotated[int, Query(ge=0, le=1000, description=EXPECTED["limit"])]
Offset = Annotated[int, Query(ge=0, le=10**9 - 1, description=EXPECTED["offset"])]
Kind = Annotated[str | None, Query(pattern=r"^[a-z_]{1,32}$", description=EXPECTED["kind"])]
