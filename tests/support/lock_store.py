"""A store of locks in memory that stalls and fails on demand, and a keeper of locks whose watchdog runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import ClassVar

import pytest

from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    BaseLimiter,
    Entry,
    Hold,
    Holder,
    KeyHold,
    LockStore,
    MutexLock,
    RevisionConflictError,
    Standing,
)
from diracx.tasks.plumbing.locks.keeper import LockKeeper


# The shortest that there is: renewed after 0.67 s, not trusted after 1.001 s.
class MemoryStore:
    """Keys in memory, in the order of what was done to them; satisfies `LockStore`."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.log: list[tuple[str, str]] = []
        self.stalled: dict[str, asyncio.Event] = {}
        self.failing: set[str] = set()
        self._revision = 0

    def did(self, verb: str) -> list[str]:
        """The keys that something was done to, in order."""
        return [key for done, key in self.log if done == verb]

    def keys_held(self) -> list[str]:
        return sorted(self.entries)

    def steal(self, key: str) -> None:
        """Put somebody else in place of the holder."""
        self._revision += 1
        self.entries[key] = Entry(b"a thief", self._revision)

    async def _step(self, verb: str, key: str) -> None:
        self.log.append((verb, key))
        await asyncio.sleep(0)
        if (gate := self.stalled.get(verb)) is not None:
            await gate.wait()
        if verb in self.failing:
            raise ServerUnavailableError(f"no answer to {verb} of {key}")

    async def create(self, key: str, value: bytes, ttl: timedelta) -> int:
        return await self._store("create", key, value, 0)

    async def replace(self, key: str, value: bytes, ttl: timedelta, revision: int) -> int:
        return await self._store("replace", key, value, revision)

    async def _store(self, verb: str, key: str, value: bytes, revision: int) -> int:
        await self._step(verb, key)
        current = self.entries.get(key)
        if (current.revision if current else 0) != revision:
            raise RevisionConflictError(key)
        self._revision += 1
        self.entries[key] = Entry(value, self._revision)
        return self._revision

    async def read(self, key: str) -> Entry | None:
        return self.entries.get(key)

    async def keys(self, below: str | None = None) -> list[str]:
        raise NotImplementedError

    async def oldest(self, below: str | None = None) -> Standing | None:
        raise NotImplementedError

    async def delete(self, key: str, revision: int) -> None:
        await self._step("delete", key)
        current = self.entries.get(key)
        if current is not None and current.revision == revision:
            del self.entries[key]


class Limiter(BaseLimiter):
    """Of an author's own."""

    kind: ClassVar[str] = "conc"

    async def acquire(self, store: LockStore, holder: Holder) -> Hold:
        return await KeyHold.create(store, self.key, holder, self.ttl)


class Rate(Limiter):
    kind: ClassVar[str] = "rate"
    order: ClassVar[int] = 2


def holder() -> Holder:
    return Holder.new(task="lollygag:SyncOwnersTask", id="0192", worker="w1")


def mutexes(count: int) -> list[MutexLock]:
    return [MutexLock(JOB, number) for number in range(count)]


def nobody() -> None:
    pytest.fail("no lock was lost")


@asynccontextmanager
async def watched(store: LockStore, clock: Callable[[], float] = boottime) -> AsyncIterator[LockKeeper]:
    """A keeper whose watchdog runs."""
    keeper = LockKeeper(store, clock)
    watchdog = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        watchdog.cancel()
        await asyncio.wait([watchdog])
        assert watchdog.cancelled(), watchdog
