"""Connections that keep the server waiting: they are limited, and give way to new ones.

uvicorn gives a new connection any time to send its first request, and refuses everybody once too
many are open. Here a connection waits until its request has come as a whole, head and body. Of the
waiting ones the oldest gives way when there are too many, so idle and slow connections cannot keep
others out.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_WAITING = 200
"""Connections that may wait for the rest of a request at once."""
HEAD_SECONDS = 10.0
"""All the time that the head of a request may take to come, s."""

_waiting: OrderedDict[WaitingProtocol, asyncio.TimerHandle] = OrderedDict()
"""Waiting connections of this process, the oldest first, each with the end of its time."""


class WaitingProtocol(H11Protocol):
    """HTTP/1.1 with limits for those who do not send."""

    def connection_made(self, transport: Any) -> None:
        """A connection begins to wait."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Something came; with the end of a request the wait is over."""
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self.head_came()

    def on_response_complete(self) -> None:
        """The next request on the connection is waited for."""
        super().on_response_complete()
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing():
            self._wait()

    def _wait(self) -> None:
        self.head_came()
        _waiting[self] = self.loop.call_later(HEAD_SECONDS, self._head_is_late)
        if len(_waiting) > MOST_WAITING:
            oldest = next(iter(_waiting))
            oldest.head_came()
            oldest.transport.abort()

    def head_came(self) -> None:
        """The head of a request is there, or the connection ends: stop waiting for it."""
        timer = _waiting.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _head_is_late(self) -> None:
        # a body that is on its way has a limit of its own and stays among those that wait
        if self.conn.their_state is h11.IDLE:
            self.head_came()
            self.transport.abort()
