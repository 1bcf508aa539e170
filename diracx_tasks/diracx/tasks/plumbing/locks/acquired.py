"""A lock after it was taken: `LockOwner` is the stored value, `AcquiredLock` the protocol, `AcquiredKey` one key.

The deadline. An owner trusts its lock until

    deadline = sent + ttl - SAFETY_MARGIN

* `sent` is read on `CLOCK_BOOTTIME` *before* the request leaves.
* The store drops the key no earlier than `ttl` after it stored it, and it stores the key after `sent`.
* So nobody else can own the key before the deadline.
* Past the deadline the lock is lost for good. It is neither renewed nor released.

Two threads may renew one lock at a time: the worker's event loop, and a watcher with a connection of its own while that
loop is held up. The loop may read an answer long after the watcher has renewed the lock again.

* Each renewal replaces the highest revision that is known as ours. So at most one of two is stored, and the other finds
  that it met our own write.
* `revision` and `deadline` never go back, whichever answer is read last: a later write of ours only lengthens the life
  of the key.
* A renewal without an answer leaves a doubt while the revision that it wanted to replace is the highest known. A
  release then reads first.

What a crash leaves behind: a key that expires by itself.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import msgspec

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import LockLostError, UnableToAcquireLockError, shown
from diracx.tasks.plumbing.key_value_store import Entry, LockStore, RevisionConflictError
from diracx.tasks.plumbing.wire.times import readable_time

SAFETY_MARGIN = timedelta(seconds=1)
"""An owner stops trusting its lock this long before the key may expire."""

_SAFETY_SECONDS: Final = SAFETY_MARGIN.total_seconds()

_RENEWAL_TRIES: Final = 2
"""The second one moves the deadline after the first has met a write of our own."""


class LockOwner(msgspec.Struct, frozen=True, omit_defaults=True):
    """The owner of a lock: the JSON value of the key, which operators read in the bucket."""

    acquisition_id: str = msgspec.field(name="owner")
    """Unique for each acquisition. `owner` in the JSON."""
    task: str
    """The name of the task, `<category>:<ClassName>`."""
    id: str
    """The id of the task."""
    worker: str
    """The id of the worker, with host and pid."""
    since: datetime
    """The time of the acquisition, by the server's clock if the worker knows it."""
    waiting: bool = False
    """The owner holds nothing yet: a writer keeps new readers out until the present readers are gone."""

    @classmethod
    def new(
        cls,
        *,
        task: str,
        id: str,  # noqa: A002 - the field's name on the wire
        worker: str,
        since: datetime | None = None,
    ) -> LockOwner:
        """Make the owner of one acquisition, with a unique id. `since`: its time; None: now."""
        return cls(secrets.token_hex(16), task, id, worker, since or datetime.now(UTC))

    def __str__(self) -> str:
        return f"{self.task} {shown(self.id)} on {self.worker} since {readable_time(self.since)}"


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(LockOwner)


def decode_owner(value: bytes) -> LockOwner | None:
    """Decode the value of a lock's key. None: something else wrote it, e.g. an operator by hand."""
    try:
        return _decoder.decode(value)
    except msgspec.MsgspecError:
        return None


def describe_owner(value: bytes) -> str:
    """Render the value of a lock's key for an error text. A value that is no `LockOwner` is quoted, 100 bytes of it."""
    owner = decode_owner(value)
    return str(owner) if owner is not None else value[:100].decode(errors="replace")


class AcquiredLock(Protocol):
    """A lock that was taken."""

    key: str
    """The key of the lock in its bucket."""
    token: int
    """The fencing token. It rises strictly from one owner of a key to the next."""
    deadline: float
    """The owner trusts the lock until this time, in seconds of `clock.boottime`. Infinite: no renewal is needed."""
    ttl: timedelta
    """The life of the key after its last renewal."""

    async def renew(self, store: LockStore | None = None) -> None:
        """Move the deadline on. The thread that holds the lock and another one may call this at a time.

        Args:
            store: The store to renew through. A thread that does not hold the lock needs one of its own, since a
                connection belongs to an event loop. None: the store that the lock was taken from.

        Raises:
            LockLostError: The key has another owner, or is gone.
        """

    async def release(self) -> None:
        """Free the lock after the task has ended, and after every renewal has.

        A lock that has another owner by now is left alone.
        """

    async def abandon(self) -> None:
        """Undo the acquisition: the task never began."""


class AcquiredKey:
    """One key of one owner, changed by compare-and-set on its revision only."""

    __slots__ = ("_clock", "_lock", "_replacing", "_revision", "_store", "_value", "deadline", "key", "token", "ttl")

    def __init__(
        self,
        store: LockStore,
        key: str,
        value: bytes,
        ttl: timedelta,
        revision: int,
        sent: float,
        clock: Clock,
    ) -> None:
        self._store = store
        self._clock = clock
        self._value = value
        self._revision = revision
        self._replacing = 0
        """The highest revision that a renewal wanted to replace. Equal to `_revision`: no answer is known."""
        self._lock = threading.Lock()
        """Guards the changes of `_revision`, `_replacing` and `deadline`."""
        self.key = key
        self.ttl = ttl
        self.token = revision
        self.deadline = self._deadline_after(sent)

    @property
    def revision(self) -> int:
        """The highest revision that is known to be ours."""
        return self._revision

    @classmethod
    async def claim(
        cls, store: LockStore, key: str, owner: LockOwner, ttl: timedelta, clock: Clock
    ) -> AcquiredKey | None:
        """Create the key in one round trip. None: the key exists."""
        value = _encode(owner)
        sent = clock()
        try:
            revision = await store.create(key, value, ttl)
        except RevisionConflictError:
            return None
        return cls(store, key, value, ttl, revision, sent, clock)

    @classmethod
    async def create(
        cls,
        store: LockStore,
        key: str,
        owner: LockOwner,
        ttl: timedelta,
        clock: Clock = boottime,
        may_replace: Callable[[Entry], bool] | None = None,
    ) -> AcquiredKey:
        """Create the key, or take over an entry that may be replaced.

        Args:
            ttl: The life of the key after its last renewal.
            may_replace: Decides whether an entry that stands in the way may be replaced. None: no entry may.

        Raises:
            UnableToAcquireLockError: The key exists; the text names its owner.
        """
        value, sent = _encode(owner), clock()
        try:
            return cls(store, key, value, ttl, await store.create(key, value, ttl), sent, clock)
        except RevisionConflictError:
            entry = await store.read(key)
        if entry is not None and entry.value == value:
            # An earlier try of this very acquisition was stored, but its answer was lost. Nobody knows when it was
            # stored, so only a renewal gives it a deadline.
            acquired = cls(store, key, value, ttl, entry.revision, clock(), clock)
            try:
                await acquired.renew()
            except LockLostError:
                raise UnableToAcquireLockError(key) from None
            return acquired
        if entry is not None and may_replace is not None and may_replace(entry):
            sent = clock()
            try:
                revision = await store.replace(key, value, ttl, entry.revision)
            except RevisionConflictError:
                raise UnableToAcquireLockError(key) from None
            return cls(store, key, value, ttl, revision, sent, clock)
        raise UnableToAcquireLockError(key, None if entry is None else describe_owner(entry.value))

    def _deadline_after(self, sent: float) -> float:
        return sent + self.ttl.total_seconds() - _SAFETY_SECONDS

    async def renew(self, store: LockStore | None = None) -> None:
        """Store the key again. After a conflict with a write of our own, replace that one.

        Such a write is a renewal whose answer was lost, or of another thread. Nobody knows here when it was sent, so it
        does not move the deadline.

        Args:
            store: As for `AcquiredLock.renew`.

        Raises:
            LockLostError: The deadline has passed, or the key has another owner or is gone.
        """
        store = store or self._store
        for _ in range(_RENEWAL_TRIES):
            sent = self._clock()
            if sent >= self.deadline:
                raise LockLostError(self.key, "its deadline passed before it was renewed")
            with self._lock:
                replaced = self._replacing = self._revision
            try:
                self._learn(await store.replace(self.key, self._value, self.ttl, replaced), sent)
                return
            except RevisionConflictError:
                entry = await store.read(self.key)
            if entry is None or entry.value != self._value:
                raise LockLostError(self.key, "it is gone" if entry is None else describe_owner(entry.value))
            self._learn(entry.revision)

    def _learn(self, revision: int, sent: float = -math.inf) -> None:
        """Note a write of ours, and when it was sent at the earliest. What is known already may be newer."""
        with self._lock:
            self._revision = max(self._revision, revision)
            self.deadline = max(self.deadline, self._deadline_after(sent))

    async def release(self) -> None:
        """Delete our revision. After a renewal without an answer, read first to learn which revision is ours.

        No renewal may be under way: the one that is stored after the deletion is lost, but one that is stored right
        before it keeps the key for its time to live.
        """
        if self._replacing == self._revision:
            entry = await self._store.read(self.key)
            if entry is None or entry.value != self._value:
                return
            self._learn(entry.revision)
        await self._store.delete(self.key, self._revision)

    async def abandon(self) -> None:
        """Delete our revision, like `release`."""
        await self.release()
