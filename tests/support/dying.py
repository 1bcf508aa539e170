"""A connection whose process dies in the middle of its work, as after `kill -9`: what it sent stays sent."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings


class Died(BaseException):
    """No code of the process runs after this."""


class DyingConnection(Connection):
    """Sends `lives` messages, and dies when it is to send one more."""

    lives: float = math.inf
    sent = 0

    async def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        if self.sent >= self.lives:
            raise Died
        self.sent += 1
        await super().publish(subject, payload, reply=reply, headers=headers)


@asynccontextmanager
async def dying(url: str, lives: float = math.inf) -> AsyncIterator[DyingConnection]:
    """A connection that sends so many messages after it was opened."""
    settings = ConnectionSettings(servers=(url,))
    async with DyingConnection.open(settings, name="dying", inbox_prefix="_INBOX_dying") as connection:
        assert isinstance(connection, DyingConnection)
        connection.sent, connection.lives = 0, lives
        yield connection
