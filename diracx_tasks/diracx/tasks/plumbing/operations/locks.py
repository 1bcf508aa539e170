"""The locks of a mesh as an operator sees them, and the release of a lock.

Each key of the bucket is read, but for the count of many. A lock that is acquired or released at the same time may be
listed or not. The markers that `nats kv del` leaves are no locks: they stand in nobody's way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

import msgspec

from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import TaskError, shown
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.locks import StoredKey
from diracx.tasks.plumbing.locks.acquired import decode_owner
from diracx.tasks.plumbing.operations.in_flight import tasks_in_flight
from diracx.tasks.plumbing.wire.names import Namespace

NOTICE_SECONDS: Final = 15.0
"""How long `holders_notice` waits: a holder renews its lock at a third of its time to live, 10 s by default."""
LOOK_SECONDS: Final = 0.5
MAX_KEYS_READ: Final = 1_000
"""For a count of the locks, which each status has. A limiter may consist of ten thousand keys."""
LIMITERS: Final = {"rate": "admissions in its window", "conc": "holders"}
"""The kinds of locks that many hold by design, with what a release forgets."""


class OtherHolderError(TaskError):
    """A lock is held by somebody whom the operator who releases it has not seen."""


class LockHolder(msgspec.Struct, frozen=True):
    """A holder of a lock, or an admission by a rate limiter in its current window."""

    task: str
    id: str
    worker: str
    since: datetime


class HeldLock(msgspec.Struct, frozen=True):
    """One lock. These fields, in this order, are those of `locks list --json`."""

    key: str
    """The argument of `locks release`."""
    kind: str
    """`mutex`, `rw`, `conc`, `rate`, or the kind of an author's own lock."""
    holders: list[LockHolder]
    """The longest holder first. Left out: the mark of a waiting writer, and a value that cannot be read."""
    expires_in: float | None
    """Seconds until its last key expires if it is not renewed, by the server's clock; None: never."""


class Noticed(msgspec.Struct, frozen=True):
    """What has become of the holder of a lock that was released under it."""

    holder: LockHolder
    runs: bool
    """Whether its task was still running when it was last asked for."""
    cancelled: bool = False
    """Whether its task was told to end; it cleans up, if it still runs."""
    known: bool = True
    """Whether its worker answers. False: nothing is known of its task."""


async def holders_notice(
    connection: Connection, namespace: Namespace, lock: HeldLock, seconds: float = NOTICE_SECONDS
) -> list[Noticed]:
    """Wait until the tasks that held a lock, which was just released, have ended, but not longer than `seconds`.

    A live holder notices at its next renewal. Those of limiters that admit starts have nothing to notice, and whoever
    leads as the scheduler is no task.

    Raises:
        ServerError: The workers cannot be asked.
    """
    if not lock.holders or lock.kind in ("rate", "leader"):
        return []
    released, limit = connection.clock.now(), boottime() + seconds
    while True:
        noticed = await _look(connection, namespace, lock, released)
        if not any(each.runs for each in noticed) or boottime() >= limit:
            return noticed
        await asyncio.sleep(LOOK_SECONDS)


async def _look(connection: Connection, namespace: Namespace, lock: HeldLock, released: datetime) -> list[Noticed]:
    workers = await tasks_in_flight(connection, namespace, ids=[holder.id for holder in lock.holders])
    there = {worker.worker: worker for worker in workers}
    found = []
    for holder in lock.holders:
        worker = there.get(holder.worker)
        # One that came later is the next execution of the task: what lost its lock is tried again.
        running = [
            task for task in (worker.tasks if worker else ()) if task.id == shown(holder.id) and task.since < released
        ]
        cancelled = any(task.cancelled_for is not None for task in running)
        found.append(Noticed(holder, bool(running), cancelled, known=worker is not None and worker.answered))
    return found


def refuse_other_holders(lock: HeldLock, known: Collection[LockHolder]) -> None:
    """Check that nobody else holds a lock than an operator has seen. The holders of limiters change all the time.

    Raises:
        OtherHolderError: Somebody else does.
    """
    others = [] if lock.kind in LIMITERS else [holder for holder in lock.holders if holder not in known]
    if others:
        named = f"{shown(others[0].task)} {shown(others[0].id)} on {shown(others[0].worker)}"
        raise OtherHolderError(f"{shown(lock.key)} is held by another one by now, {named}: look again")


class LockReader:
    """Reads the lock bucket, and releases locks.

    Every method raises `ServerUnavailableError` if no answer arrives.
    """

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._bucket = Bucket(connection, namespace.locks_bucket)

    async def exists(self) -> bool:
        """Whether the bucket exists."""
        try:
            await self._bucket.read("exists")
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return False
            raise
        return True

    async def all(self) -> list[HeldLock]:
        """All locks, sorted by key."""
        return [held_lock(key, keys) for key, keys in sorted((await self.stored_keys()).items())]

    async def count(self) -> int:
        """The number of locks in `all`. Among more than `MAX_KEYS_READ` keys a marker counts as a lock."""
        return len({_lock_of(key) for key in await self._bucket.living_keys(MAX_KEYS_READ)})

    async def all_but(self, kind: str, most: int) -> list[HeldLock]:
        """All locks that are not of this kind, sorted by key; none if they consist of more than `most` keys."""
        keys = [key for key in await self._bucket.keys() if key.partition(".")[0] != kind]
        stored = await self._bucket.look_at(keys) if len(keys) <= most else []
        return [held_lock(key, of_lock) for key, of_lock in sorted(_by_lock(stored).items())]

    async def one(self, key: str) -> HeldLock | None:
        """One lock by its key; None if nobody holds it."""
        keys = (await self.stored_keys()).get(key)
        return None if keys is None else held_lock(key, keys)

    async def release(self, lock: HeldLock) -> bool:
        """Delete all keys of a lock; return False if there is none.

        A live holder notices at its next renewal, and its task is cancelled. Until then it runs at the same time as the
        next holder.

        Raises:
            OtherHolderError: Somebody holds it who did not when `lock` was read. Nothing was released.
        """
        keys = (await self.stored_keys()).get(lock.key, [])
        if keys:
            refuse_other_holders(held_lock(lock.key, keys), lock.holders)
        for stored in keys:
            await self._bucket.delete(stored.key, stored.revision)
        return bool(keys)

    async def stored_keys(self) -> dict[str, list[StoredKey]]:
        """The keys of each lock, by the key of the lock."""
        return _by_lock([stored async for stored in self._bucket.stored()])


def _by_lock(keys: Iterable[StoredKey]) -> dict[str, list[StoredKey]]:
    locks: dict[str, list[StoredKey]] = {}
    for stored in keys:
        locks.setdefault(_lock_of(stored.key), []).append(stored)
    return locks


def _lock_of(key: str) -> str:
    """The key of a lock, from one of the keys that it consists of. A limiter for one VO is a lock of its own."""
    lock, *tokens = key.split("./")
    return "./".join([lock, *(token for token in tokens if token.startswith("vo."))])


def held_lock(key: str, keys: list[StoredKey]) -> HeldLock:
    """One lock, from all of its keys."""
    holders = [
        LockHolder(holder.task, holder.id, holder.worker, holder.since)
        for stored in keys
        if (holder := decode_owner(stored.value)) is not None and not holder.waiting
    ]
    times = [stored.expires_in for stored in keys]
    expires_in = None if any(each is None for each in times) else max(max(0.0, each or 0.0) for each in times)
    return HeldLock(
        key=key,
        kind=key.partition(".")[0],
        holders=sorted(holders, key=lambda holder: holder.since),
        expires_in=None if expires_in is None else round(expires_in, 3),
    )
