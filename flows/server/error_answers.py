"""Answers to errors: our own errors name fields and facts; others are masked, and the log names
their origin."""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sa
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from flows.register.register import State, UnknownRequestError
from flows.server.auth import DeniedError
from flows.server.bodies import ErrorAnswer, ErrorFacts
from tasks.common.errors import (
    AuditError,
    PseudonymError,
    RequestError,
    SignatureError,
    WorkspaceError,
)

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Headers of every answer."""
EXPECTED = {
    "limit": "a whole number up to 1000",
    "offset": "a whole number up to 999999999",
    "state": f"one of {', '.join(State)}, on_hold",
    "kind": "a kind of events, as access_denied",
}
_UNAVAILABLE = (
    WorkspaceError,
    PseudonymError,
    SignatureError,
    sa.exc.TimeoutError,
    sa.exc.DBAPIError,
)
_LOG = logging.getLogger("erasure_audit.api")


class BadBodyError(RequestError):
    """A body is too large, too slow, or of another type; `status` is the one of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def answer(error: Exception) -> Response:
    """The answer to an error."""
    if isinstance(error, DeniedError | BadBodyError):
        return _error(
            error.status,
            str(error),
            {"WWW-Authenticate": "Bearer"} if error.status == 401 else {},
        )
    if isinstance(error, UnknownRequestError):
        return _error(404, "there is no such request or batch here")
    if isinstance(error, RequestError):
        return _error(400, str(error))
    if isinstance(error, RequestValidationError):
        return _error(400, _parameter(error))
    if isinstance(error, _UNAVAILABLE):
        _LOG.error("cannot work right now: %s", type(error).__name__)
        text = "the server cannot take this right now; send the same again later"
        return _error(503, text, {"Retry-After": "30"})
    if isinstance(error, AuditError):
        return _error(409, str(error))
    # without the error's text, which may quote a body
    _LOG.error("defect: %s at %s", type(error).__name__, _origin(error))
    return _error(500, "the server met a defect of its own; its log says where")


async def no_route(_request: Request, error: Exception) -> Response:
    """The answer if there is no route."""
    code = error.status_code if isinstance(error, HTTPException) else 404
    texts = {404: "there is nothing here", 405: "this method is not for this path"}
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    _LOG.info("no route %d", code)
    return _error(code, texts.get(code, "this cannot be done"), headers)


def _error(code: int, message: str, headers: dict[str, str] | None = None) -> Response:
    content = ErrorAnswer(error=ErrorFacts(code=code, message=message)).model_dump_json()
    return Response(content, code, HEADERS | (headers or {}), "application/json")


def _parameter(error: RequestValidationError) -> str:
    """The expected form of a parameter of the query, or of the body; quotes nothing."""
    part, *names = error.errors()[0]["loc"]
    name = str(names[0]) if names else str(part)
    return f"{name}: expected {EXPECTED.get(name, 'a JSON object')}"


def _origin(error: Exception) -> str:
    """File and line where an error arose."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return ""
    return f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
