"""The HTTP service: intake for controllers by OpenDSR 1.0, and `/v1` for operators, approvers and
auditors.

All input is untrusted: bodies are small and JSON, answers and logs quote nothing of them, and the
actor of an event is the token's name.
"""

from __future__ import annotations

import csv
import logging
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from flows.intake import callbacks, pseudonymise
from flows.register.register import BusyError, Register
from flows.server import auth, error_answers, opendsr_routes, operator_routes
from flows.server.bodies import ErrorAnswer
from flows.server.dependencies import BODY_SECONDS, Office
from flows.workspace import signing_keys
from tasks.common import settings
from tasks.common.errors import AuditError, SignatureError

PAUSE = 5.0
"""Time between two deliveries of status callbacks, s."""

_LOG = logging.getLogger("erasure_audit.api")


def create(
    home: Path,
    register: Register | None = None,
    gate: auth.Gatekeeper | None = None,
    *,
    deliver: bool = False,
    pause: float = PAUSE,
    body_seconds: float = BODY_SECONDS,
) -> FastAPI:
    """The server of a workspace.

    Args:
        home: the workspace.
        register: its register; None: opened here, and closed at the end.
        gate: admits clients; None: from the secrets.
        deliver: send status callbacks while it runs.
        pause: time between two deliveries of callbacks, s.
        body_seconds: time limit for receiving a body, s.

    Raises:
        SettingsError: nobody may use the server, or the secrets are malformed.
        SignatureError: there is no key to sign answers.
        AuditError: the register or the key of pseudonyms cannot be used.
    """
    opened_here = register is None
    office = _office(home, register, gate, body_seconds)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        stopped = threading.Event()
        helper = threading.Thread(
            target=_background, args=(office, stopped, deliver, pause), daemon=True
        )
        helper.start()
        try:
            yield
        finally:
            stopped.set()
            await run_in_threadpool(helper.join, callbacks.TIMEOUT)
            with suppress(AuditError):
                await run_in_threadpool(office.denials.settle, True)
            if opened_here:
                office.register.close()

    server = FastAPI(
        title="Erasure Audit",
        version="1.0",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
        redirect_slashes=False,
        responses={"default": {"model": ErrorAnswer, "description": "any other error"}},
    )
    server.state.office = office
    server.add_exception_handler(HTTPException, error_answers.no_route)
    for router in (*opendsr_routes.ROUTERS, *operator_routes.ROUTERS):
        server.include_router(router)
    return server


def _office(
    home: Path, register: Register | None, gate: auth.Gatekeeper | None, body_seconds: float
) -> Office:
    """The workspace as the routes see it; see `create`."""
    chosen = settings.load(home / "params.yaml")
    gate = gate or auth.Gatekeeper.from_secrets()
    key = signing_keys.load_key(home)
    if key is None:
        raise SignatureError(
            f"no key to sign answers and callbacks with; name a PEM file in {signing_keys.FILE}"
        )
    public_url = callbacks.public_url()
    pseudonymise.key_of(home)
    register = register or Register(home, chosen.report.holidays)
    denials = auth.Denials(register)
    types = _identity_types(home)
    return Office(home, register, gate, denials, key, types, public_url, body_seconds)


def _background(office: Office, stopped: threading.Event, deliver: bool, pause: float) -> None:
    """Send callbacks, and record denials that were only counted, in the background."""
    while not stopped.wait(pause):
        try:
            office.denials.settle()
            delivery = (
                callbacks.deliver(office.home, office.register) if deliver else callbacks.Delivery()
            )
            if delivery != callbacks.Delivery():
                _LOG.info("callbacks: %s", delivery.line)
        except BusyError:
            continue
        except Exception as error:  # the next round tries again
            _LOG.error("callbacks are not delivered: %s", type(error).__name__)


def _identity_types(home: Path) -> tuple[str, ...]:
    """The types of identities in the data set: the subjects' own, and those of `identities.csv`."""
    types, path = {"controller_customer_id"}, home / "data" / "identities.csv"
    if path.is_file():
        with path.open(encoding="utf-8-sig", newline="") as stream:
            types |= {str(row.get("identity_type")) for row in csv.DictReader(stream)}
    return tuple(sorted(kind for kind in types if re.fullmatch(r"[a-z0-9_]{1,64}", kind)))
