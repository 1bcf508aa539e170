"""Readers and writers of one key: any number of readers, or one writer.

The writer has one key, `<key>./writer`, and each reader has one of its own, `<key>./readers.<owner>`, all with a time
to live: a reader that died blocks a writer no longer than that. Two keys cannot be compared and set in one, so both
sides raise a flag and then look:

    writer: create its key, then look for readers        reader: create its key, then look for a writer

The store puts writes in one order, and a look sees every write that was answered before. If the reader's look finds
no writer, the writer's key was stored after that look, hence after the reader's key, and the writer's own look finds
the reader. So of two that meet at least one sees the other; a flag that lapsed before the look is caught since the
deadline is checked after the taking. (In a cluster the leader of the bucket's stream answers both. One that was
deposed and has not noticed can answer a look from the past, but hardly to somebody whose write the new one has just
answered: both would have to be reached over one connection.) If both see each other, both step back: the reader
removes its key, the writer waits.

**A stream of readers starves no writer.** A writer that finds readers does not remove its key: it leaves it in place
marked as waiting, for 10 s. No new reader passes it, those inside run out, and the writer comes back every second or
so to find them gone; each time it renews the mark. Any writer may take the mark over, since who waits holds nothing;
so a crowd of writers shares one. If nobody comes back, the mark expires and readers pass again. Readers are not
starved either by more than luck: a writer that finds a writer leaves no mark, and when that one ends whoever asks
first gets in.

What a crash leaves behind: a writer's or a reader's key, or a mark, each until it expires.
"""

from __future__ import annotations

import random
from datetime import timedelta
from typing import ClassVar, Final

import msgspec

from diracx.tasks.plumbing.exceptions import ServerError, UnableToAcquireLockError
from diracx.tasks.plumbing.key_value_store import Entry, LockStore, RevisionConflictError
from diracx.tasks.plumbing.locks.base import BaseLock, Capacity
from diracx.tasks.plumbing.locks.hold import Hold, KeyHold
from diracx.tasks.plumbing.locks.holder import Holder, in_words, read_holder

WAITING_TTL: Final = timedelta(seconds=10)
"""How long the mark of a writer that waits keeps readers out; many times what it takes to come back."""

_COME_BACK: Final = 1.0


class _ReadersWriterLock(BaseLock):
    kind: ClassVar[str] = "rw"

    @property
    def writer_key(self) -> str:
        """The key of the writer."""
        return f"{self.key}./writer"

    @property
    def readers(self) -> str:
        """What the keys of the readers begin with."""
        return f"{self.key}./readers"


class ExclusiveRWLock(_ReadersWriterLock):
    """The writer of a readers-writer lock: alone on its key."""

    capacity: ClassVar[Capacity] = Capacity.ONE

    @property
    def contention(self) -> str:
        """Writers contend with each other; what refuses a reader may let a writer pass."""
        return self.writer_key

    async def acquire(self, store: LockStore, holder: Holder) -> Hold:
        """Become the writer, or say who is inside; readers are then kept out for a while."""
        hold = await KeyHold.create(store, self.writer_key, holder, self.ttl, self.clock, yields=_waits)
        try:
            readers = await store.keys(self.readers)
            if not readers:
                return hold
            reader = await store.read(readers[0])
            mark = msgspec.json.encode(msgspec.structs.replace(holder, waiting=True))
            await store.replace(self.writer_key, mark, WAITING_TTL, hold.revision)
        except RevisionConflictError:
            raise UnableToAcquireLockError(self.key) from None
        except ServerError:
            await _take_down(hold)
            raise
        words = f"{len(readers)} readers" if reader is None else f"{len(readers)} readers: {in_words(reader.value)}"
        again = timedelta(seconds=_COME_BACK * random.uniform(0.75, 1.25))
        raise UnableToAcquireLockError(self.writer_key, words, again, reason=f"{self.key} is held by {words}")


class SharedRWLock(_ReadersWriterLock):
    """A reader of a readers-writer lock: shares its key with readers."""

    capacity: ClassVar[Capacity] = Capacity.ANY

    @property
    def contention(self) -> str:
        """What refuses one reader refuses all."""
        return self.readers

    async def acquire(self, store: LockStore, holder: Holder) -> Hold:
        """Become a reader, or say who writes or waits to."""
        key = f"{self.readers}.{holder.owner}"
        hold = await KeyHold.create(store, key, holder, self.ttl, self.clock)
        try:
            writer = await store.read(self.writer_key)
        except ServerError:
            await _take_down(hold)
            raise
        if writer is None:
            return hold
        await hold.abandon()
        waits = "a writer that waits: " if _waits(writer) else ""
        raise UnableToAcquireLockError(self.key, f"{waits}{in_words(writer.value)}")


def _waits(entry: Entry) -> bool:
    holder = read_holder(entry.value)
    return holder is not None and holder.waiting


async def _take_down(hold: KeyHold) -> None:
    """Remove a flag after a look that was not answered; if this is not answered either, it expires."""
    try:
        await hold.abandon()
    except ServerError:
        return
