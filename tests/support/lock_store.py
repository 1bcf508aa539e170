"""A lock store in memory that records requests, and stalls and fails on demand; and locks to hold in it."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import ClassVar

import pytest

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    AcquiredKey,
    AcquiredLock,
    BaseLimiter,
    Entry,
    LockOwner,
    LockStore,
    MutexLock,
)
from diracx.tasks.testing.lock_store import InMemoryLockStore


class RecordingStore(InMemoryLockStore):
    """An `InMemoryLockStore` that records requests, and stalls and fails on demand. Reads of one key do neither."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []
        """A line for each request, `<verb> <key>`, in order."""
        self.stalled: dict[str, asyncio.Event] = {}
        """Requests of these verbs wait for the event."""
        self.failing: set[str] = set()
        """Requests of these verbs get no answer."""

    def requested(self, verb: str) -> list[str]:
        """The keys of the requests of one verb, in order."""
        return [line.split(" ", 1)[1] for line in self.requests if line.startswith(f"{verb} ")]

    @property
    def entries(self) -> dict[str, Entry]:
        """The entries by key."""
        return {key: entry for key, (entry, _) in self._entries.items()}

    def clear(self) -> None:
        """Remove all keys."""
        self._entries.clear()

    def steal(self, key: str) -> None:
        """Replace the owner of a key."""
        self._last_revision += 1
        self._entries[key] = (Entry(b"a thief", self._last_revision), math.inf)

    async def create(self, key: str, value: bytes, ttl: timedelta) -> int:
        await self._request("create", key)
        return await super().replace(key, value, ttl, 0)

    async def replace(self, key: str, value: bytes, ttl: timedelta, revision: int) -> int:
        await self._request("replace", key)
        return await super().replace(key, value, ttl, revision)

    async def delete(self, key: str, revision: int) -> None:
        await self._request("delete", key)
        await super().delete(key, revision)

    async def keys(self, below: str | None = None) -> list[str]:
        if below is not None:
            await self._request("keys", below)
        return await super().keys(below)

    async def _request(self, verb: str, key: str) -> None:
        self.requests.append(f"{verb} {key}")
        await asyncio.sleep(0)
        if (gate := self.stalled.get(verb)) is not None:
            await gate.wait()
        if verb in self.failing:
            raise ServerUnavailableError(f"no answer to {verb} of {key}")


class Limiter(BaseLimiter):
    """A limiter as an author writes it."""

    kind: ClassVar[str] = "conc"

    async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
        return await AcquiredKey.create(store, self.key, owner, self.ttl)


class Rate(Limiter):
    """A limiter that is taken last, like a rate limiter."""

    kind: ClassVar[str] = "rate"
    order: ClassVar[int] = 2


def mutexes(count: int) -> list[MutexLock]:
    """Mutexes of the jobs 0, 1, 2..."""
    return [MutexLock(JOB, number) for number in range(count)]


def not_lost() -> None:
    """An `on_lost` for locks that must not be lost."""
    pytest.fail("a lock was lost")
