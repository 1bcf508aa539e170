"""A bucket of the JetStream key-value store, with compare-and-set on revisions.

The class of nats-py has no compare-and-set with a time to live, and its delete leaves a marker for each key for good.
Here a key is replaced by a publish with `Nats-Expected-Last-Subject-Sequence` and `Nats-TTL` (ADR-8, ADR-43), and
removed by deleting its own revision from the stream.

**Overdue keys.** After a `kill -9`, nats-server 2.15 may restore a deleted key and forget its time to live: a lock that
nobody holds and that never ends. So a key counts as gone once it is overdue, long past its end. Only the server's
clock decides that, asked for anew, and exactly the revision that was read is deleted: a holder that renews its key
keeps it.

**Markers.** `nats kv del` and `nats kv purge` leave a marker in place of a key, for good. It belongs to nobody: `read`,
`oldest`, `stored` and `living_keys` pass over it, and `create` replaces it. Only `keys` lists it, because the server
lists subjects without their headers. A contender whose way is blocked by listed keys asks for the `oldest`, which
removes markers.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.commands import header_block
from diracx.tasks.plumbing.jetstream.errors import WRONG_LAST_SEQUENCE, ApiError
from diracx.tasks.plumbing.jetstream.headers import EXPECTED_LAST_SUBJECT_SEQUENCE, KV_OPERATION, MARKER_REASON, TTL
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, delete_message, read_message, subjects_of
from diracx.tasks.plumbing.key_value_store import Entry, RevisionConflictError, StoredKey
from diracx.tasks.plumbing.wire.times import from_rfc3339

logger = logging.getLogger("diracx.tasks.jetstream")

OVERDUE_AFTER: Final = timedelta(seconds=10)
"""Longer than the server takes to drop an expired key, and than one read takes."""

_HEADER_BYTES: Final = 512
"""More than the headers of a write take."""

_MAX_BLOCKS: Final = 100

_READS_AT_ONCE: Final = 64

_KEY: Final = re.compile(r"[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*")
"""What a key may hold (ADR-8). A space would end the subject, and a wildcard is another key."""

_WHOLE_SECONDS: Final = re.compile(r"(\d+)s")


@dataclass(frozen=True, slots=True)
class KeptRevision:
    """One of the revisions that a bucket with a history keeps of a key."""

    revision: int
    value: bytes | None
    """None: another client removed the key, and left a marker."""
    stored: datetime
    """By the server's clock."""
    headers: Mapping[str, str]


class Bucket:
    """One bucket; satisfies `key_value_store.LockStore`.

    Every method raises `ServerUnavailableError` when no answer came, and `ApiError` when the server refused.

    Args:
        overdue: A key that the server still has this long after its end counts as gone.
        headers: Further headers of each write, which `history` returns.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        *,
        overdue: timedelta = OVERDUE_AFTER,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._connection = connection
        self._stream = f"KV_{name}"
        self._overdue = overdue
        self._headers = dict(headers or {})
        self._subjects = connection.bucket_subject(self._subject(""))
        self._first_blocks: dict[timedelta | None, bytes] = {}
        """The headers of the first write of a key, by its time to live."""

    @property
    def max_value_bytes(self) -> int:
        """The largest value that the server accepts, in bytes."""
        return self._connection.max_payload - _HEADER_BYTES

    def _subject(self, key: str) -> str:
        return f"$KV.{self.name}.{key}"

    async def create(self, key: str, value: bytes, ttl: timedelta | None = None) -> int:
        """Store a new key and return its revision.

        Raises:
            RevisionConflictError: The key exists.
        """
        _check_key(key)
        if (block := self._first_blocks.get(ttl)) is None:
            block = header_block(self._headers_of(ttl, {EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}))
            if len(self._first_blocks) < _MAX_BLOCKS:
                self._first_blocks[ttl] = block
        try:
            return (await publish(self._connection, self._subjects + key, value, block)).seq
        except ApiError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise
        # A marker that `nats kv del` left counts as a revision, though the key is gone.
        if (gone := await self._revision_if_gone(key)) is None:
            raise RevisionConflictError(key)
        return await self.replace(key, value, ttl, gone)

    async def replace(self, key: str, value: bytes, ttl: timedelta | None, revision: int) -> int:
        """Replace `revision` (0: none) and return the new revision. The time to live starts anew.

        Args:
            ttl: Rounded up to whole seconds, which is all that the server knows. None: for ever.

        Raises:
            RevisionConflictError: The key is at another revision, or gone.
            ValueError: It is no key: an author's own lock made it.
        """
        _check_key(key)
        try:
            return await self._store(key, value, ttl, {EXPECTED_LAST_SUBJECT_SEQUENCE: str(revision)})
        except ApiError as error:
            if error.err_code == WRONG_LAST_SEQUENCE:
                raise RevisionConflictError(key) from None
            raise

    async def _store(self, key: str, value: bytes, ttl: timedelta | None, headers: dict[str, str]) -> int:
        return (await publish(self._connection, self._subjects + key, value, self._headers_of(ttl, headers))).seq

    def _headers_of(self, ttl: timedelta | None, headers: dict[str, str]) -> dict[str, str]:
        lasts = {} if ttl is None else {TTL: f"{math.ceil(ttl.total_seconds())}s"}
        return headers | self._headers | lasts

    async def put(self, key: str, value: bytes, ttl: timedelta) -> int:
        """Store a key, whatever its revision is, and return the new one.

        Args:
            ttl: As for `replace`.
        """
        return await self._store(key, value, ttl, {})

    async def read(self, key: str) -> Entry | None:
        """Read the entry from the leader; None when there is none. An overdue key is deleted.

        Raises:
            ValueError: It is no key. A wildcard would read another one.
        """
        _check_key(key)
        if (message := await self._last(key)) is None or _is_marker(message):
            return None
        if await self._is_overdue(message):
            logger.warning("%s: %s should have ended long ago, and is removed", self.name, key)
            await self.delete(key, message.sequence)
            return None
        return Entry(value=message.body, revision=message.sequence)

    async def history(self, key: str) -> list[KeptRevision]:
        """Read all revisions of a key that the bucket keeps, the oldest first, with markers."""
        found: list[KeptRevision] = []
        since = 1
        while (message := await self._read(seq=since, next_by_subj=self._subject(key))) is not None:
            value = None if _is_marker(message) else message.body
            found.append(KeptRevision(message.sequence, value, message.stored, message.headers))
            since = message.sequence + 1
        return found

    async def delete(self, key: str, revision: int) -> None:
        """Delete exactly this revision; nothing happens when it is gone already."""
        await delete_message(self._connection, self._stream, revision, strict=True)

    async def keys(self, below: str | None = None) -> list[str]:
        """List all keys, markers included, in no order.

        Args:
            below: List only the keys `<below>.<one more token>`.
        """
        subjects = await subjects_of(
            self._connection,
            self._stream,
            self._subject(">" if below is None else f"{below}.*"),
        )
        prefix = self._subject("")
        return [subject.removeprefix(prefix) for subject in subjects]

    async def living_keys(self, most: int | None = None) -> list[str]:
        """List all keys without markers, in no order; overdue keys are listed. It asks for each key, many at a time.

        Args:
            most: Ask for so many keys at the most; if there are more, all are listed, with markers. None: any number.
        """
        keys = await self.keys()
        if most is not None and len(keys) > most:
            return keys
        return [self._key(message) for message in await self._living(keys)]

    async def look_at(self, keys: Iterable[str]) -> list[StoredKey]:
        """Read these keys, many at a time: in their order, without markers, with overdue ones. Nothing is removed."""
        if self._connection.clock.ahead is None:
            await self._ask_clock()
        return [self._stored_key(message) for message in await self._living(keys)]

    async def _living(self, keys: Iterable[str]) -> list[StoredMessage]:
        reads = asyncio.Semaphore(_READS_AT_ONCE)

        async def last(key: str) -> StoredMessage | None:
            async with reads:
                return await self._last(key)

        found = await asyncio.gather(*map(last, keys))
        return [message for message in found if message is not None and not _is_marker(message)]

    async def oldest(self, below: str | None = None) -> StoredKey | None:
        """The key that was stored first, of all keys or of those `<below>.<one more token>`; None when there is none.

        Markers and overdue keys that were stored before it are removed. Each renewal stores a key anew, so a marker is
        soon older than every key that is held.
        """
        async for message in self._messages(below):
            if not _is_marker(message) and not await self._is_overdue(message):
                return self._stored_key(message)
            logger.warning("%s: %s belongs to nobody and is removed", self.name, self._key(message))
            await self.delete(self._key(message), message.sequence)
        return None

    async def stored(self) -> AsyncIterator[StoredKey]:
        """Read all keys, the oldest first, with overdue keys and without markers. Nothing is removed."""
        async for message in self._messages():
            if not _is_marker(message):
                yield self._stored_key(message)

    async def _messages(self, below: str | None = None) -> AsyncIterator[StoredMessage]:
        if self._connection.clock.ahead is None:
            await self._ask_clock()
        subjects, since = self._subject(">" if below is None else f"{below}.*"), 1
        while (message := await self._read(seq=since, next_by_subj=subjects)) is not None:
            yield message
            since = message.sequence + 1

    def _key(self, message: StoredMessage) -> str:
        return message.subject.removeprefix(self._subject(""))

    def _stored_key(self, message: StoredMessage) -> StoredKey:
        expires_in = None
        if (ttl := _ttl(message)) is not None:
            # What is known of the server's clock may be a moment behind.
            expires_in = min(message.stored + ttl - self._connection.clock.now(), ttl).total_seconds()
        return StoredKey(
            key=self._key(message),
            value=message.body,
            revision=message.sequence,
            expires_in=expires_in,
        )

    async def _ask_clock(self) -> datetime:
        """The present time by the server's clock."""
        info = await self._connection.api(f"STREAM.INFO.{self._stream}", {})
        return from_rfc3339(info["ts"])

    async def _last(self, key: str) -> StoredMessage | None:
        return await self._read(last_by_subj=self._subject(key))

    async def _read(self, **query: Any) -> StoredMessage | None:
        return await read_message(self._connection, self._stream, strict=True, **query)

    async def _revision_if_gone(self, key: str) -> int | None:
        """The revision to replace where a key is gone, 0 for none; None: the key exists."""
        message = await self._last(key)
        if message is None:
            # It expired or was deleted since: the key is free.
            return 0
        return message.sequence if _is_marker(message) or await self._is_overdue(message) else None

    async def _is_overdue(self, message: StoredMessage) -> bool:
        """Whether the server should have dropped it long ago."""
        if (ttl := _ttl(message)) is None:
            return False
        end = message.stored + ttl + self._overdue
        # What is known of the server's clock only decides whether to ask for it anew.
        clock = self._connection.clock
        if clock.ahead is not None and clock.now() < end:
            return False
        return await self._ask_clock() >= end


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"{shown(key)!r} is no key of a bucket: write letters, digits and - / _ = with single dots in between"
        )


def _ttl(message: StoredMessage) -> timedelta | None:
    found = _WHOLE_SECONDS.fullmatch(message.headers.get(TTL, ""))
    return None if found is None else timedelta(seconds=int(found[1]))


def _is_marker(message: StoredMessage) -> bool:
    return KV_OPERATION in message.headers or MARKER_REASON in message.headers
