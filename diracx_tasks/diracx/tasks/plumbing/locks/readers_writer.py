"""The readers-writer lock: any number of readers, or one writer.

The writer has one key, `<key>./writer`. Each reader has a key of its own, `<key>./readers.<acquisition>`. All keys have
a TTL: a reader that died blocks a writer no longer than that.

Two keys cannot be compared and set in one request, so both sides store their own key first and look for the other side
after that:

    writer: create `/writer`, then list `/readers`        reader: create `/readers.<id>`, then read `/writer`

Of two that meet, at least one sees the other:

* The store puts writes in one order, and a read sees every write that was answered before it was sent.
* If the reader finds no writer, the writer's key was stored after that read, hence after the reader's key. So the
  writer's own look finds the reader.
* The list may contain markers of keys that an operator deleted. The writer asks for the oldest reader, and the store
  removes the markers on the way. Without a reader, the writer passes.
* A key that expired before the look is caught later: the deadline is checked after the locks are taken.
* If both see each other, both step back: the reader removes its key, the writer waits.
* In a cluster, the leader of the bucket's stream answers both. A deposed leader that has not noticed can answer a look
  from the past, but hardly to a client whose write the new leader has just answered: both would have to be reached over
  one connection.

A stream of readers does not starve a writer:

* A writer that finds readers leaves its key in place for 10 s, marked as waiting.
* New readers are refused, the present readers end, and the writer tries again about every second. Each try renews the
  mark.
* Any writer may take over the mark, because a waiting writer holds nothing. So many writers share one mark.
* If no writer comes back, the mark expires and readers pass again.

Writers starve readers by bad luck only: a writer that finds a writer leaves no mark, and when that writer ends, the
first to ask gets in.

What a crash leaves behind: the key of a writer or a reader, or a mark, each until it expires.
"""

from __future__ import annotations

import logging
import random
from datetime import timedelta
from typing import ClassVar, Final

import msgspec

from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError, shown
from diracx.tasks.plumbing.key_value_store import Entry, LockStore, RevisionConflictError
from diracx.tasks.plumbing.locks.acquired import AcquiredKey, AcquiredLock, LockOwner, decode_owner, describe_owner
from diracx.tasks.plumbing.locks.base import BaseLock, Capacity

logger = logging.getLogger("diracx.tasks.locks")

WAITING_TTL: Final = timedelta(seconds=10)
"""The life of the mark of a waiting writer, many times the delay after which the writer tries again."""

_WRITER_RETRY_SECONDS: Final = 1.0


class _ReadersWriterLock(BaseLock):
    kind: ClassVar[str] = "rw"

    @property
    def writer_key(self) -> str:
        """The key of the writer."""
        return f"{self.key}./writer"

    @property
    def readers(self) -> str:
        """The prefix of the keys of the readers."""
        return f"{self.key}./readers"


class ExclusiveRWLock(_ReadersWriterLock):
    """The writer's side of a readers-writer lock: no other writer and no reader."""

    capacity: ClassVar[Capacity] = Capacity.ONE

    @property
    def contention_key(self) -> str:
        """All writers of the key. A writer may pass where a reader is refused."""
        return self.writer_key

    async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
        """Become the writer. If readers are inside, leave a mark that keeps new readers out for 10 s, and fail."""
        acquired = await AcquiredKey.create(
            store, self.writer_key, owner, self.ttl, self.clock, may_replace=_is_waiting_writer
        )
        try:
            readers = await store.keys(self.readers)
            reader = await store.oldest(self.readers) if readers else None
            if reader is None:
                return acquired
            mark = msgspec.json.encode(msgspec.structs.replace(owner, waiting=True))
            await store.replace(self.writer_key, mark, WAITING_TTL, acquired.revision)
        except RevisionConflictError:
            raise UnableToAcquireLockError(self.key) from None
        except Exception:
            await _remove_if_possible(acquired)
            raise
        count = f"{len(readers)} readers"
        holders = f"{count}: {describe_owner(reader.value)}"
        retry_after = timedelta(seconds=_WRITER_RETRY_SECONDS * random.uniform(0.75, 1.25))
        reason = f"{shown(self.key)} is held by {holders}"
        raise UnableToAcquireLockError(self.writer_key, holders, retry_after, reason=reason)


class SharedRWLock(_ReadersWriterLock):
    """The reader's side of a readers-writer lock: shared with other readers."""

    capacity: ClassVar[Capacity] = Capacity.ANY

    @property
    def contention_key(self) -> str:
        """All readers of the key: a writer that refuses one refuses all."""
        return self.readers

    async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
        """Become a reader, or name the writer that writes or waits."""
        key = f"{self.readers}.{owner.acquisition_id}"
        acquired = await AcquiredKey.create(store, key, owner, self.ttl, self.clock)
        try:
            writer = await store.read(self.writer_key)
        except Exception:
            await _remove_if_possible(acquired)
            raise
        if writer is None:
            return acquired
        await acquired.abandon()
        waiting = "a writer that waits: " if _is_waiting_writer(writer) else ""
        raise UnableToAcquireLockError(self.key, f"{waiting}{describe_owner(writer.value)}")


def _is_waiting_writer(entry: Entry) -> bool:
    owner = decode_owner(entry.value)
    return owner is not None and owner.waiting


async def _remove_if_possible(acquired: AcquiredKey) -> None:
    """Remove our key after a look that failed. If this fails too, the key expires; the look's error is raised."""
    try:
        await acquired.abandon()
    except Exception as error:
        logger.warning("%s was not removed: %s; it expires by itself", shown(acquired.key), error)
