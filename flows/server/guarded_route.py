"""The class of all routes: it limits bodies, and masks and logs errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from flows.intake import callbacks
from flows.server import error_answers
from flows.server.dependencies import LimitedRequest, office

_LOG = logging.getLogger("erasure_audit.api")


class GuardedRoute(APIRoute):
    """A route with limits for bodies and with masked errors; each call is logged by its route."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI, guarded."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            since = time.monotonic()
            limited = LimitedRequest(request.scope, request.receive)
            try:
                await limited.body()
                response = await handle(limited)
            except Exception as error:  # any error is logged and masked
                response = error_answers.answer(error)
            response.headers.update(error_answers.HEADERS)
            self.finish(limited, response)
            client = getattr(limited.state, "client", "-")
            spent = 1000 * (time.monotonic() - since)
            code = response.status_code
            _LOG.info("%s %s %d %s %.0f ms", request.method, self.path, code, client, spent)
            return response

        return guarded

    def finish(self, request: Request, response: Response) -> None:
        """Complete an answer before it is sent."""


class SignedRoute(GuardedRoute):
    """A route whose answers are signed, as OpenDSR requires."""

    def finish(self, request: Request, response: Response) -> None:
        """Sign the answer."""
        key = office(request).key
        response.headers.update(callbacks.headers(bytes(response.body), key, callbacks.domain()))
