"""The descriptions of answers in OpenAPI."""

from __future__ import annotations

from typing import Any

from flows.server.bodies import ErrorAnswer

_MEANINGS = {
    200: "done",
    201: "received",
    202: "cancelled",
    400: "malformed; the message names the fields",
    401: "not known here",
    403: "known, and not allowed",
    404: "there is no such request or batch",
    409: "this cannot be done as things are",
    413: "too large",
    415: "not JSON, or compressed",
}


def responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The descriptions of answers; errors have one form."""
    return {
        code: {"description": _MEANINGS[code]} | ({"model": ErrorAnswer} if code >= 400 else {})
        for code in codes
    }
