"""A connection on which things happen right before a message is sent: others interfere, or its process dies."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
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

    async def publish(self, subject: str, *args: Any, **kwargs: Any) -> None:
        await self._before_sending(subject)
        await super().publish(subject, *args, **kwargs)

    async def send_request(self, subject: str, *args: Any, **kwargs: Any) -> asyncio.Future[Received]:
        await self._before_sending(subject)
        return await super().send_request(subject, *args, **kwargs)

    async def request(self, subject: str, *args: Any, **kwargs: Any) -> Received:
        await self._before_sending(subject)
        return await super().request(subject, *args, **kwargs)

    async def _before_sending(self, subject: str) -> None:
        if self.sent >= self.lives:
            raise Died
        await self.before(subject)
        self.sent += 1


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
