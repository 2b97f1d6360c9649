"""Shared by the intake's tests: a small workspace, requests as controllers send them, tokens, an
endpoint."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

from flows.register.register import Register
from flows.server import auth
from flows.workspace import signing_keys
from tasks.common import settings

ROLES = ("intake", "operator", "approver", "auditor")


def home(folder: Path, **operate: Any) -> Path:
    """A workspace as far as the intake needs one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(settings.defaults_yaml())
    if operate:
        settings.assign(
            folder / "params.yaml", [f"{key}={value}" for key, value in operate.items()]
        )
    signing_keys.make_development(folder)
    return folder


def request_id(number: int) -> str:
    return str(UUID(int=number, version=4))


def request(number: int = 1, **changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "regulation": "gdpr",
        "subject_request_id": request_id(number),
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-20T09:30:00Z",
        "subject_identities": [identity(f"ada-lovelace-{number}")],
        "api_version": "1.0",
    }
    return good | changes


def identity(value: str, kind: str = "controller_customer_id", form: str = "raw") -> dict[str, str]:
    return {"identity_type": kind, "identity_value": value, "identity_format": form}


def tokens() -> tuple[dict[str, str], str]:
    """One token per role, named like the role, and the secret with all of them."""
    made = {role: auth.new_token(role, [role]) for role in ROLES}
    return {role: token for role, (token, _) in made.items()}, "\n".join(
        entry for _, entry in made.values()
    )


def everything_stored(folder: Path) -> bytes:
    """All bytes of all files of a workspace, its register among them."""
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def has_all(register: Register, numbers: set[int]) -> bool:
    return {case.request_id for case in register.cases()} == {
        request_id(number) for number in numbers
    }


class Endpoint:
    """A controller's server for status callbacks."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.bodies: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.delay = 0.0
        self.drip = False
        self.location = ""

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        time.sleep(self.delay)
        self.bodies.append((dict(handler.headers.items()), body))
        self.seen.append(json.loads(body))
        with contextlib.suppress(OSError):
            while self.drip:  # a line of the answer that never ends
                handler.wfile.write(b"H")
                handler.wfile.flush()
                time.sleep(0.05)
            handler.send_response(self.answers.pop(0) if self.answers else 200)
            if self.location:
                handler.send_header("Location", self.location)
            handler.end_headers()


@contextlib.contextmanager
def endpoint(context: Any = None) -> Iterator[tuple[Endpoint, str]]:
    """An endpoint on loopback, and its address."""
    result = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            result.take(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield (
            result,
            f"{'https' if context else 'http'}://127.0.0.1:{server.server_address[1]}/callback",
        )
    finally:
        result.drip = False
        server.shutdown()
        server.server_close()
