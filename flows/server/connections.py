"""Limits for connections that keep the server waiting.

uvicorn gives a new connection unlimited time for its first request, and refuses all new ones once
too many are open. Here a connection counts as waiting until its request is complete, head and body.
If too many wait, the oldest is closed, so idle and slow connections cannot keep others out.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_WAITING = 200
"""Maximum number of connections that wait for a request."""
HEAD_SECONDS = 10.0
"""Time limit for receiving the head of a request, s."""

_waiting: OrderedDict[WaitingProtocol, asyncio.TimerHandle] = OrderedDict()
"""Waiting connections of this process, the oldest first, each with its timer."""


class WaitingProtocol(H11Protocol):
    """HTTP/1.1 with limits for slow senders."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting: the connection is closed."""
        self.stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take data; stop waiting once the request is complete."""
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self.stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request on the connection."""
        super().on_response_complete()
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing():
            self._wait()

    def _wait(self) -> None:
        self.stop_waiting()
        _waiting[self] = self.loop.call_later(HEAD_SECONDS, self._head_is_late)
        if len(_waiting) > MOST_WAITING:
            oldest = next(iter(_waiting))
            oldest.stop_waiting()
            oldest.transport.abort()

    def stop_waiting(self) -> None:
        """Stop waiting: the head of a request is here, or the connection ends."""
        timer = _waiting.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _head_is_late(self) -> None:
        # a body has its own time limit; its connection goes on waiting
        if self.conn.their_state is h11.IDLE:
            self.stop_waiting()
            self.transport.abort()
