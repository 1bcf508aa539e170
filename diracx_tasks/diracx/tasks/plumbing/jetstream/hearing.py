"""What a stream has stored, heard by a plain subscription.

The server publishes what it has stored once more, where the stream says so (`republish`, ADR-28). So a message that is
heard is stored. But no correctness may rest on hearing it: a subscription may die without notice, the server may refuse
it to this user, and nothing is heard of what was stored before. So whoever waits polls besides.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from nats.errors import Error

from diracx.tasks.plumbing.background import wait_for_event
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.jetstream.headers import STREAM


class Heard:
    """The latest message that was heard."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._event = asyncio.Event()
        self._body = b""

    def take(self, message: Received) -> None:
        """Hear a message."""
        if message.headers and message.headers.get(STREAM) == self._stream:
            self._body = message.data
            self._event.set()

    async def next(self, seconds: float) -> bytes:
        """The body of the next message; empty if none is heard in that time, or if a key was removed."""
        await wait_for_event(self._event, seconds)
        self._event.clear()
        body, self._body = self._body, b""
        return body


@asynccontextmanager
async def hearing(connection: Connection, stream: str, subject: str) -> AsyncIterator[Heard]:
    """Hear what a stream republishes to `subject` during the block.

    Requests that are sent in the block see what was stored before. A user that may not subscribe hears nothing, and
    nothing is logged of it.
    """
    heard = Heard(stream)
    async with listening(connection, subject, heard.take):
        yield heard


@asynccontextmanager
async def listening(connection: Connection, subject: str, take: Callable[[Received], None]) -> AsyncIterator[None]:
    """Call `take` with each message on `subject` during the block; as `hearing` otherwise."""

    def expected(denial: PermissionDeniedError) -> bool:
        return denial.action == "subscription" and denial.subject == subject.lower()

    connection.on_permission_denied(expected)
    try:
        subscription = None
        with suppress(Error):  # the connection is being closed
            subscription = await connection.client.listen(subject, take)
        try:
            yield
        finally:
            with suppress(Error):
                if subscription is not None:
                    await subscription.unsubscribe()
    finally:
        connection.remove_on_permission_denied(expected)
