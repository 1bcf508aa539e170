"""A bucket of attempt records that can fail in the ways of a network, and deliveries whose records it holds."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.key_value_store import Entry
from diracx.tasks.plumbing.wire.failure import Failure
from support.deliveries import fake_delivery

STORED_NS = 1_790_000_000_000_000_123
AT = datetime(2026, 12, 1, 6, tzinfo=UTC)
FAILURE = Failure("ValueError", "no such owner: Größe", "Traceback...", "host-1-small", AT)


def delivery(connection: Connection, sequence: int = 7, delivered: int = 1, stored_ns: int = STORED_NS) -> Delivery:
    return fake_delivery(connection, sequence, delivered=delivered, stored_ns=stored_ns)


class AnswerLost(Bucket):
    """A bucket whose next answer is lost, though the write is not; or that is away, or slow to write."""

    lose = False
    away = False

    def __init__(self, connection: Connection, name: str) -> None:
        super().__init__(connection, name)
        self.writing = asyncio.Event()
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.refused = 0

    async def read(self, key: str) -> Entry | None:
        if self.away:
            self.refused += 1
            raise ServerUnavailableError("away")
        return await super().read(key)

    async def replace(self, key: str, value: bytes, ttl: timedelta | None, revision: int) -> int:
        self.writing.set()
        await self.may_write.wait()
        stored = await super().replace(key, value, ttl, revision)
        if self.lose:
            self.lose = False
            raise ServerUnavailableError("no answer")
        return stored
