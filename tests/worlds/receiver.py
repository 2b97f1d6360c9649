"""A receiver of messages over HTTP on loopback, like a team's chat."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Receiver:
    """Takes messages as JSON, and can be away.

    Attributes:
        taken: the messages that it took, the first one first.
        away: whether it refuses them.
    """

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.away = False
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not owner.away:
                    owner.taken.append(json.loads(body))
                self.send_response(503 if owner.away else 200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def port(self) -> int:
        return self.server.server_port

    @property
    def url(self) -> str:
        """As an Apprise channel, with a password."""
        return f"json://user:hush@127.0.0.1:{self.port}"

    @property
    def texts(self) -> list[str]:
        return [message["message"] for message in self.taken]
