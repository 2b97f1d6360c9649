"""Intake and operating over HTTP: OpenDSR 1.0 for controllers, and `/v1` for operators, approvers
and auditors.

All routes stand in one table with the right that each takes. What comes in is taken for hostile:
bodies are small and JSON, answers and logs repeat nothing of them, and who did something is who the
token says.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import json
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from flows.intake import callbacks, drop_folder, pseudonymise
from flows.register import anchors
from flows.register.register import (
    OPEN,
    BusyError,
    Case,
    ConflictError,
    Event,
    Register,
    RegisterError,
    State,
    UnknownRequestError,
)
from flows.server import auth
from flows.server.auth import Client, DeniedError, Right
from flows.workspace import signing_keys
from tasks.common import settings
from tasks.common.errors import (
    AuditError,
    PseudonymError,
    RequestError,
    SignatureError,
    WorkspaceError,
)
from tasks.requests import opendsr
from tasks.signatures import signing

MAX_BODY = 256 * 1024
"""Largest body, bytes; nobody needs more for one request."""
BODY_SECONDS = 20.0
"""All the time that a body may take to come, s."""
PAUSE = 5.0
"""Between two looks whether a status callback is due, s."""
PAGE = 100
"""Requests or events in an answer, where the query does not say otherwise; 1000 at most."""
MODELS = ("unlearned", "retrained")
NEXT = ("more_references", "another_method", "requeue", "refuse")

_LOG = logging.getLogger("erasure_audit.api")
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_BATCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TYPE = re.compile(r'application/json(\s*;\s*charset\s*=\s*"?utf-8"?)?', re.IGNORECASE)

Json = dict[str, Any]


@dataclass(frozen=True)
class Office:
    """What the server works with."""

    home: Path
    register: Register
    gate: auth.Gatekeeper
    denials: auth.Denials
    key: signing.SigningKey = field(repr=False)
    kinds: tuple[str, ...]
    public_url: str | None = None


@dataclass(frozen=True)
class Call:
    """One request to the server, let in."""

    office: Office
    client: Client
    parts: Mapping[str, str] = field(repr=False)
    query: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def register(self) -> Register:
        """The register of the workspace."""
        return self.office.register


@dataclass(frozen=True)
class Answer:
    """What is said to a call. `value` is JSON, or bytes of `media`."""

    value: Any = field(repr=False)
    status: int = 200
    media: str = "application/json"
    location: str | None = None


@dataclass(frozen=True)
class Route:
    """One way into the server.

    Attributes:
        right: what it takes; None: nothing, anybody may.
        form: of the body, as JSON Schema; None: no body is wanted.
        signed: whether the answer bears our signature, as OpenDSR wants it.
        shown: whether it stands in the OpenAPI description.
    """

    method: str
    path: str
    right: Right | None
    handler: Callable[[Call], Answer]
    summary: str
    statuses: tuple[int, ...] = (200,)
    form: Json | None = None
    query: tuple[str, ...] = ()
    signed: bool = False
    shown: bool = True


class BadBodyError(RequestError):
    """A body is too large, too slow, or of another type; `status` is the one of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# -- OpenDSR --------------------------------------------------------------------------------------


def receive(call: Call) -> Answer:
    """Take a request in: 201 if it is new, 200 if it was here before with the same content."""
    try:
        text = call.body.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("the body is no UTF-8; expected an OpenDSR request as JSON") from None
    case, new = drop_folder.enter(
        call.office.home, call.register, drop_folder.strict_json(text), call.client.name, "http"
    )
    told = callbacks.told(call.register.history(case.request_id))
    value = {
        "controller_id": told.controller,
        "expected_completion_time": told.completion,
        "received_time": told.received,
        "encoded_request": base64.b64encode(call.body).decode("ascii"),
        "subject_request_id": case.request_id,
        "api_version": callbacks.API_VERSION,
    }
    return Answer(value, 201 if new else 200, location=f"/opendsr/v1/requests/{case.request_id}")


def status(call: Call) -> Answer:
    """How far a request is, in OpenDSR's words."""
    told = callbacks.told(_own_history(call))
    value = {
        "controller_id": told.controller,
        "expected_completion_time": told.completion,
        "subject_request_id": told.request_id,
        "request_status": told.status,
        "api_version": callbacks.API_VERSION,
    }
    return Answer(value)


def cancel(call: Call) -> Answer:
    """Withdraw a request that is in no batch yet."""
    first = _own_history(call)[0]
    call.register.cancel(str(first.request_id), call.client.name, "cancelled by the controller")
    value = {
        "controller_id": first.actor,
        "received_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "subject_request_id": first.request_id,
        "api_version": callbacks.API_VERSION,
    }
    return Answer(value, 202)


def discovery(call: Call) -> Answer:
    """What the server understands, and where the certificate of its signatures is."""
    value = {
        "api_version": callbacks.API_VERSION,
        "supported_identities": [
            {"identity_type": kind, "identity_format": form}
            for kind in call.office.kinds
            for form in ("raw", "sha256")
        ],
        "supported_subject_request_types": ["erasure"],
        "supported_regulations": list(opendsr.REGULATIONS),
        "processor_certificate": f"{call.office.public_url or ''}/opendsr/v1/certificate.pem",
    }
    return Answer(value)


def certificate(call: Call) -> Answer:
    """The certificate by which answers and callbacks are checked."""
    return Answer(signing.public_pem(call.office.key), media="application/x-pem-file")


# -- operators, approvers, auditors ---------------------------------------------------------------


def list_requests(call: Call) -> Answer:
    """Requests, the nearest deadline first."""
    wanted, batch = call.query.get("state"), call.query.get("batch")
    if wanted is not None and wanted not in (*State, "on_hold"):
        raise RequestError(f"state: expected one of {', '.join(State)}, on_hold")
    states = None if wanted is None else OPEN if wanted == "on_hold" else (State(wanted),)
    total, cases = call.register.page(
        states,
        None if batch is None else _batch(batch),
        held=wanted == "on_hold",
        first=_number(call, "offset", 0, 10**9 - 1),
        most=_number(call, "limit", PAGE, 1000),
    )
    return Answer({"total": total, "requests": [case.plain() for case in cases]})


def show_request(call: Call) -> Answer:
    """One request as it is now."""
    return Answer(call.register.case(_request(call)).plain())


def request_events(call: Call) -> Answer:
    """Everything that happened to one request."""
    request_id = call.register.case(_request(call)).request_id
    return Answer({"events": [_event(event) for event in call.register.history(request_id)]})


def identity(call: Call) -> Answer:
    """The person is who he says."""
    given = _fields(call, {"how": True})
    return _case(call.register.verify_identity(_request(call), call.client.name, given["how"]))


def hold(call: Call) -> Answer:
    """Put a legal hold on a request."""
    given = _fields(call, {"reason": True, "ground": False})
    return _case(call.register.hold(_request(call), call.client.name, **given))


def lift(call: Call) -> Answer:
    """Lift a legal hold."""
    return _case(
        call.register.lift(
            _request(call), call.client.name, _fields(call, {"reason": True})["reason"]
        )
    )


def extend(call: Call) -> Answer:
    """Extend the deadline, once, as the regulation allows."""
    return _case(
        call.register.extend(
            _request(call), call.client.name, _fields(call, {"reason": True})["reason"]
        )
    )


def refuse(call: Call) -> Answer:
    """Refuse a request for good, as long as no batch holds it."""
    reason = _fields(call, {"reason": True})["reason"]
    return _case(call.register.cancel(_request(call), call.client.name, reason))


def approve(call: Call) -> Answer:
    """Approve the release of a batch. Who approves is the token's name, whatever the body says."""
    from flows.operations import signoff

    given = _fields(call, {"comment": True, "model": False})
    model: Any = _one_of(given, "model", MODELS)
    batch = _batch(call.parts["batch"])
    done = signoff.approve(
        call.office.home, call.register, batch, call.client.name, given["comment"], model=model
    )
    return Answer(done.plain())


def reject(call: Call) -> Answer:
    """Send a batch back, and say what is to be done next."""
    from flows.operations import signoff

    given = _fields(call, {"comment": True, "next": True, "method": False})
    following: Any = _one_of(given, "next", NEXT)
    batch = _batch(call.parts["batch"])
    done = signoff.reject(
        call.office.home,
        call.register,
        batch,
        call.client.name,
        given["comment"],
        following,
        given.get("method"),
    )
    return Answer(done.plain())


def chain(call: Call) -> Answer:
    """Whether the chain of events is whole, the ends that git keeps included; where it ends."""
    try:
        head = anchors.check(call.office.home, call.register)
    except RegisterError as error:
        return Answer({"intact": False, "message": str(error)})
    return Answer({"intact": True, "events": head.seq, "head": head.hash})


def all_events(call: Call) -> Answer:
    """The latest events, of a kind where one is asked for, as access_denied."""
    kind = call.query.get("kind")
    if kind is not None and not re.fullmatch(r"[a-z_]{1,32}", kind):
        raise RequestError("kind: expected a kind of events, as access_denied")
    found = call.register.latest(
        kind, _number(call, "offset", 0, 10**9 - 1), _number(call, "limit", PAGE, 1000)
    )
    return Answer({"events": [_event(event) for event in found]})


def health(_call: Call) -> Answer:
    """That the server is there, and nothing else."""
    return Answer({"status": "ok"})


# -- the table ------------------------------------------------------------------------------------

_SAID = {
    200: "done",
    201: "taken in",
    202: "cancelled",
    400: "malformed; the message names the fields",
    401: "not known here",
    403: "known, and not allowed",
    404: "there is no such request or batch",
    409: "this cannot be done as things are",
    413: "too large",
    415: "no JSON, or packed",
}
_TEXT: Json = {"type": "string", "minLength": 1, "maxLength": 1000}
_REASON: Json = {"type": "object", "required": ["reason"], "properties": {"reason": _TEXT}}
_REQUEST: Json = {
    "type": "object",
    "required": [
        "regulation",
        "subject_request_id",
        "subject_request_type",
        "submitted_time",
        "subject_identities",
    ],
    "properties": {
        "regulation": {"enum": list(opendsr.REGULATIONS)},
        "subject_request_id": {"type": "string", "format": "uuid", "description": "version 4"},
        "subject_request_type": {"enum": ["erasure"]},
        "submitted_time": {"type": "string", "format": "date-time"},
        "subject_identities": {
            "type": "array",
            "minItems": 1,
            "maxItems": 64,
            "items": {
                "type": "object",
                "required": ["identity_type", "identity_value", "identity_format"],
                "properties": {
                    "identity_type": {"type": "string", "pattern": "^[a-z0-9_]{1,64}$"},
                    "identity_value": {"type": "string", "minLength": 1, "maxLength": 512},
                    "identity_format": {"enum": ["raw", "sha256"]},
                },
            },
        },
        "api_version": {"type": "string", "maxLength": 32},
        "status_callback_urls": {
            "type": "array",
            "maxItems": 16,
            "items": {"type": "string", "format": "uri", "maxLength": 2048},
        },
        "extensions": {"type": "object"},
    },
}


def routes() -> tuple[Route, ...]:
    """Every way into the server, and what it takes."""
    dsr, one, case, batch = (
        "/opendsr/v1",
        "/{request}",
        "/v1/requests/{request}",
        "/v1/batches/{batch}",
    )
    listed = ("state", "batch", "limit", "offset")
    paged = ("kind", "limit", "offset")
    intake_routes = [
        route
        for place, shown in (
            (f"{dsr}/requests", True),
            ("/v1/opendsr_requests", False),
        )
        for route in (
            Route(
                "POST",
                place,
                Right.SUBMIT,
                receive,
                "Send a request",
                (200, 201, 400, 409, 413, 415),
                _REQUEST,
                signed=True,
                shown=shown,
            ),
            Route(
                "GET",
                place + one,
                Right.STATUS,
                status,
                "How far it is",
                (200, 404),
                signed=True,
                shown=shown,
            ),
            Route(
                "DELETE",
                place + one,
                Right.CANCEL,
                cancel,
                "Cancel it",
                (202, 404, 409),
                signed=True,
                shown=shown,
            ),
        )
    ]
    return (
        *intake_routes,
        *(
            Route("GET", f"{place}/discovery", None, discovery, "What is understood", signed=True, shown=place == dsr)
            for place in (dsr, "/v1")
        ),
        Route("GET", f"{dsr}/certificate.pem", None, certificate, "Certificate of the signatures"),
        Route("GET", "/v1/requests", Right.LIST, list_requests, "All requests", (200, 400), query=listed),
        Route("GET", case, Right.LIST, show_request, "One request", (200, 404)),
        Route("GET", f"{case}/events", Right.EVENTS, request_events, "Its history", (200, 404)),
        Route("POST", f"{case}/identity", Right.IDENTITY, identity, "The identity is verified", (200, 400, 404, 409),
              {"type": "object", "required": ["how"], "properties": {"how": _TEXT}}),
        Route("POST", f"{case}/hold", Right.HOLD, hold, "Legal hold", (200, 400, 404, 409),
              {**_REASON, "properties": {"reason": _TEXT, "ground": _TEXT}}),
        Route("POST", f"{case}/lift", Right.HOLD, lift, "Lift the hold", (200, 400, 404, 409), _REASON),
        Route("POST", f"{case}/extend", Right.EXTEND, extend, "Extend the deadline", (200, 400, 404, 409), _REASON),
        Route("POST", f"{case}/reject", Right.REFUSE, refuse, "Refuse it for good", (200, 400, 404, 409), _REASON),
        Route("POST", f"{batch}/approve", Right.DECIDE, approve, "Approve a release", (200, 400, 404, 409),
              {"type": "object", "required": ["comment"],
               "properties": {"comment": _TEXT, "model": {"enum": list(MODELS)}}}),
        Route("POST", f"{batch}/reject", Right.DECIDE, reject, "Send a batch back", (200, 400, 404, 409),
              {"type": "object", "required": ["comment", "next"],
               "properties": {"comment": _TEXT, "method": _TEXT,
                              "next": {"enum": list(NEXT)}}}),
        Route("GET", "/v1/chain", Right.CHAIN, chain, "Is the chain whole?"),
        Route("GET", "/v1/events", Right.CHAIN, all_events, "The latest events", (200, 400), query=paged),
        Route("GET", "/healthz", None, health, "Is the server there?"),
    )  # fmt: skip


def app(
    home: Path,
    register: Register | None = None,
    gate: auth.Gatekeeper | None = None,
    *,
    deliver: bool = False,
) -> FastAPI:
    """The server of a workspace.

    Args:
        home: the workspace.
        register: its register; None: opened as the settings say, and closed at the end.
        gate: who may come in; None: as the secrets say.
        deliver: send status callbacks as long as it runs.

    Raises:
        SettingsError: nobody may use it, or the secrets are malformed.
        SignatureError: there is no key to sign answers with.
        AuditError: the register or the key of pseudonyms cannot be used.
    """
    chosen = settings.load(home / "params.yaml")
    gate = gate or auth.Gatekeeper.from_secrets()
    key = signing_keys.at_hand(home)
    if key is None:
        raise SignatureError(
            f"no key to sign answers and callbacks with; name a PEM file in {signing_keys.FILE}"
        )
    public_url = callbacks.public_url()
    pseudonymise.key_of(home)
    own = register is None
    register = register or Register(home, chosen.report.holidays)
    office = Office(
        home, register, gate, auth.Denials(register), key, _identity_types(home), public_url
    )

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        over = threading.Event()
        helper = threading.Thread(target=_background, args=(office, over, deliver), daemon=True)
        helper.start()
        try:
            yield
        finally:
            over.set()
            await run_in_threadpool(helper.join, callbacks.TIMEOUT)
            with suppress(AuditError):
                await run_in_threadpool(office.denials.settle, True)
            if own:
                register.close()

    made = FastAPI(
        title="Erasure Audit",
        version="1.0",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
        redirect_slashes=False,
    )
    made.add_exception_handler(HTTPException, _no_such_way)
    for route in routes():
        made.add_api_route(
            route.path,
            _endpoint(office, route),
            methods=[route.method],
            summary=route.summary,
            name=route.handler.__name__,
            include_in_schema=route.shown,
            response_class=Response,
            openapi_extra=_described(route),
        )
    return made


# -- from a connection to a handler, and back -----------------------------------------------------


def _endpoint(office: Office, route: Route) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        since = time.monotonic()
        name = "-"
        try:
            body = await _body(request)
            client = await run_in_threadpool(_admit, office, route, request, body)
            name = client.name
            call = Call(
                office,
                client,
                request.path_params,
                request.query_params,
                body,
            )
            if route.form is not None:
                _check_type(request)
            answer = await run_in_threadpool(route.handler, call)
            response = _respond(answer)
        except Exception as error:  # the edge of the server: nothing of an error gets out unseen
            response = _failure(error)
        if route.signed:
            response.headers.update(
                callbacks.headers(bytes(response.body), office.key, callbacks.domain())
            )
        spent = 1000 * (time.monotonic() - since)
        _LOG.info(
            "%s %s %d %s %.0f ms", route.method, route.path, response.status_code, name, spent
        )
        return response

    return endpoint


def _admit(office: Office, route: Route, request: Request, body: bytes) -> Client:
    """The client of a call, if it may do that; a denial is written down."""
    if route.right is None:
        return Client("anybody", frozenset())
    path = request.scope.get("raw_path") or request.url.path.encode()
    query = request.scope.get("query_string") or b""
    attempt = auth.Attempt(
        request.method,
        (path + (b"?" + query if query else b"")).decode("latin-1"),
        body,
        request.headers.get("authorization"),
        request.headers.get(auth.SIGNATURE),
    )
    try:
        return office.gate.admit(attempt, route.right)
    except DeniedError as denied:
        with suppress(AuditError, sa.exc.SQLAlchemyError):  # with the register gone, the log has it
            office.denials.write(denied, route.method, route.path, route.right)
        raise


async def _body(request: Request) -> bytes:
    """The body, if it is small and comes in time.

    Raises:
        BadBodyError: it is too large, too slow, or packed.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise BadBodyError(415, "the body is packed; send it as it is, without Content-Encoding")
    large = BadBodyError(
        413, f"the body is larger than {MAX_BODY} bytes; send one request at a time"
    )
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and (len(length) > 12 or int(length) > MAX_BODY):
        raise large
    found = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                found += chunk
                if len(found) > MAX_BODY:
                    raise large
    except ClientDisconnect:
        raise BadBodyError(400, "the connection ended before the body did") from None
    except TimeoutError:
        raise BadBodyError(408, f"the body did not come within {BODY_SECONDS:g} s") from None
    return bytes(found)


def _check_type(request: Request) -> None:
    if not _TYPE.fullmatch(request.headers.get("content-type", "").strip()):
        raise BadBodyError(415, "expected Content-Type: application/json, in UTF-8")


def _respond(answer: Answer) -> Response:
    content = answer.value if isinstance(answer.value, bytes) else _json(answer.value)
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    if answer.location:
        headers["Location"] = answer.location
    return Response(content, answer.status, headers, answer.media)


def _failure(error: Exception) -> Response:
    """What is said of an error: ours name fields and facts; of any other nothing is said, and its
    place is logged."""
    if isinstance(error, DeniedError | BadBodyError):
        answer = _error(error.status, str(error))
        if error.status == 401:
            answer.headers["WWW-Authenticate"] = "Bearer"
        return answer
    if isinstance(error, UnknownRequestError):
        return _error(404, "there is no such request or batch here")
    if isinstance(error, RequestError):
        return _error(400, str(error))
    if isinstance(error, ConflictError | BusyError | RegisterError):
        return _error(409, str(error))
    if isinstance(
        error,
        WorkspaceError | PseudonymError | SignatureError | sa.exc.TimeoutError | sa.exc.DBAPIError,
    ):
        _LOG.error("cannot work right now: %s", type(error).__name__)
        answer = _error(503, "the server cannot take this right now; send the same again later")
        answer.headers["Retry-After"] = "30"
        return answer
    if isinstance(error, AuditError):
        return _error(409, str(error))
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = (
        "" if place is None else f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
    )
    _LOG.error(
        "defect: %s at %s", type(error).__name__, where
    )  # not its text, which may quote a body
    return _error(500, "the server met a defect of its own; its log says where")


async def _no_such_way(_request: Request, error: Exception) -> Response:
    code = error.status_code if isinstance(error, HTTPException) else 404
    said = {404: "there is nothing here", 405: "this method is not for this path"}
    response = _error(code, said.get(code, "this cannot be done"))
    _LOG.info("no route %d", code)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


def _error(code: int, message: str) -> Response:
    return _respond(Answer({"error": {"code": code, "message": message}}, code))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace")


def _background(office: Office, over: threading.Event, deliver: bool) -> None:
    """What the server does beside answering: callbacks, and denials that were only counted."""
    while not over.wait(PAUSE):
        try:
            office.denials.settle()
            done = (
                callbacks.deliver(office.home, office.register) if deliver else callbacks.Delivery()
            )
            if done != callbacks.Delivery():
                _LOG.info("callbacks: %s", done.line)
        except BusyError:
            continue
        except Exception as error:  # it goes on at the next look, whatever it was
            _LOG.error("callbacks are not delivered: %s", type(error).__name__)


# -- reading what was sent ------------------------------------------------------------------------


def _request(call: Call) -> str:
    """The request id in the path.

    Raises:
        UnknownRequestError: it is none; what it is may be anything and is not repeated.
    """
    named = call.parts["request"].lower()
    if not _UUID4.fullmatch(named):
        raise UnknownRequestError("no request id")
    return named


def _own_history(call: Call) -> list[Event]:
    """A request's events, if the client may know of it.

    Raises:
        UnknownRequestError: there is no such request, or it is another's; the answer is the same.
    """
    history = call.register.history(_request(call))
    if not history or (call.client.sees_only_own and history[0].actor != call.client.name):
        raise UnknownRequestError("no such request")
    return history


def _fields(call: Call, wanted: Mapping[str, bool]) -> dict[str, str]:
    """Texts of a body; `wanted` says which there may be, and whether each has to be.

    Raises:
        RequestError: one is missing, empty, too long or holds control characters, or there is
            another.
    """
    try:
        value = drop_folder.strict_json(call.body.decode("utf-8"))
    except UnicodeDecodeError:
        raise RequestError("the body is no UTF-8; expected a JSON object") from None
    names = ", ".join(
        name + ("" if needed else " (may be missing)") for name, needed in wanted.items()
    )
    fault = RequestError(
        f"expected a JSON object with {names}: texts of 1 to 1000 characters without control "
        "characters, and no other "
        "key; who acts is who the token says"
    )
    if not isinstance(value, dict) or not set(value) <= set(wanted):
        raise fault
    for name, needed in wanted.items():
        text = value.get(name)
        if name not in value and not needed:
            continue
        if not isinstance(text, str) or not 1 <= len(text.strip()) <= 1000 or not _writable(text):
            raise fault
    return {name: text.strip() for name, text in value.items()}


def _one_of(given: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    """A text of a body that has to be one of a few, if it is there."""
    if name in given and given[name] not in allowed:
        raise RequestError(f"{name}: expected one of {', '.join(allowed)}")
    return given.get(name)


def _writable(text: str) -> bool:
    """Whether every database keeps it: no NUL, no half of a surrogate pair, no other control but
    line ends."""
    return not any(
        (ord(mark) < 32 and mark not in "\n\t") or 0xD800 <= ord(mark) <= 0xDFFF for mark in text
    )


def _batch(name: str) -> str:
    if not _BATCH.fullmatch(name):
        raise UnknownRequestError("no name of a batch")
    return name


def _number(call: Call, name: str, default: int, most: int) -> int:
    text = call.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or int(text) > most:
        raise RequestError(f"{name}: expected a whole number up to {most}")
    return int(text)


def _case(case: Case) -> Answer:
    return Answer(case.plain())


def _event(event: Event) -> Json:
    return {
        "seq": event.seq,
        "at": event.at,
        "actor": event.actor,
        "request_id": event.request_id,
        "batch": event.batch,
        "kind": event.kind,
        "details": dict(event.details),
        "hash": event.hash,
    }


def _identity_types(home: Path) -> tuple[str, ...]:
    """Types of identities that the data set knows: the subjects' own, and those of
    `identities.csv`."""
    found, path = {"controller_customer_id"}, home / "data" / "identities.csv"
    if path.is_file():
        with path.open(encoding="utf-8-sig", newline="") as stream:
            found |= {str(row.get("identity_type")) for row in csv.DictReader(stream)}
    return tuple(sorted(kind for kind in found if re.fullmatch(r"[a-z0-9_]{1,64}", kind)))


def _described(route: Route) -> Json:
    """A route in OpenAPI's words, as far as FastAPI cannot know it by itself."""
    named = re.findall(r"{(\w+)}", route.path)
    forms: dict[str, Json] = {
        "request": {"type": "string", "format": "uuid"},
        "limit": {"type": "integer"},
    }
    forms["offset"] = {"type": "integer"}
    parameters = [
        {
            "name": name,
            "in": where,
            "required": where == "path",
            "schema": forms.get(name, {"type": "string"}),
        }
        for where, names in (("path", named), ("query", route.query))
        for name in names
    ]
    codes = [*route.statuses, *((401, 403) if route.right else ())]
    found: Json = {
        "parameters": parameters,
        "responses": {str(code): {"description": _SAID[code]} for code in codes},
    }
    if route.form is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": route.form}},
        }
    return found
