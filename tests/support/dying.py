"""A connection on which things happen right before a message is sent: others interfere, or its process dies."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings


class Died(BaseException):
    """No code of the process runs after this, as after `kill -9`: what it sent stays sent."""


async def nothing(subject: str) -> None:
    """Nothing happens."""


class DyingConnection(Connection):
    """Sends `lives` messages, and dies when it is to send one more."""

    lives: float = math.inf
    sent = 0
    before: Callable[[str], Awaitable[None]] = staticmethod(nothing)
    """Awaited with the subject of each message before it is sent; what it raises is raised in place of that."""

    async def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        if self.sent >= self.lives:
            raise Died
        await self.before(subject)
        self.sent += 1
        await super().publish(subject, payload, reply=reply, headers=headers)


@asynccontextmanager
async def dying(
    settings: ConnectionSettings | str, lives: float = math.inf, inbox_prefix: str = "_INBOX_dying"
) -> AsyncIterator[DyingConnection]:
    """A connection that sends so many messages after it was opened.

    Args:
        settings: Those of the connection, or the URL of the server.
    """
    if isinstance(settings, str):
        settings = ConnectionSettings(servers=(settings,))
    async with DyingConnection.open(settings, name="dying", inbox_prefix=inbox_prefix) as connection:
        assert isinstance(connection, DyingConnection)
        connection.sent, connection.lives = 0, lives
        yield connection
