"""The connections of browsers: one that sends its request slowly, or not at all, does not keep its place.

The server counts connections, and answers no more than it has room for. Without a limit of time, a few hundred that
never send a whole request would shut out everybody, also who has no token.
"""

from __future__ import annotations

import asyncio
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS: Final = 10.0
"""A request has to arrive as a whole within this time after the connection or its first byte."""
MAX_CONNECTIONS: Final = 500
"""Further ones are answered 503."""
MAX_SOCKETS: Final = 600
"""Further ones are closed at once, so that file descriptors are left for the connection to NATS."""


class PromptProtocol(H11Protocol):
    """HTTP/1.1 with a limit of time for each request."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        if len(self.connections) > MAX_SOCKETS:
            transport.abort()
            return
        self._limit()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        self._limit()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end_limit()
        super().connection_lost(exc)

    def _limit(self) -> None:
        """Begin to wait for the rest of a request, or end the wait if it is there."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._end_limit()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _end_limit(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
