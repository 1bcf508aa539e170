"""A bucket of the JetStream key-value store, under revision compare-and-set.

The client library's own class has no compare-and-set with a time to live, and its delete leaves a marker for each
key for good. Here a key is replaced by a publish with `Nats-Expected-Last-Subject-Sequence` and `Nats-TTL`
(ADR-8, ADR-43), and removed by deleting its very revision from the stream.

After a `kill -9` nats-server 2.15 may bring back a key that was deleted, and forget that it has a time to live: a lock
that nobody holds and that never ends. So a key that stands in somebody's way, long after its time, counts as gone. That
is by the server's clock alone, asked for anew, and takes the very revision that was looked at: a holder that renews
keeps its key.
"""

from __future__ import annotations

import logging
import math
import re
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import Any

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import (
    MESSAGE_DELETE_FAILED,
    MESSAGE_NOT_FOUND,
    WRONG_LAST_SEQUENCE,
    ApiError,
)
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.key_value_store import Entry, RevisionConflictError, StoredKey
from diracx.tasks.plumbing.wire.times import from_rfc3339

logger = logging.getLogger("diracx.tasks.jetstream")

OVERDUE = timedelta(seconds=10)
"""Longer than the server takes to drop a key whose time is over, and than a look at one takes."""

_TTL = re.compile(rb"Nats-TTL: *(\d+)s\r\n")
# What a client deletes leaves the first behind; what a bucket with limit markers lets expire, the second (ADR-43).
_MARKERS = (b"KV-Operation:", b"Nats-Marker-Reason:")


class Bucket:
    """One bucket; satisfies `locks.LockStore`.

    Every method raises `ServerUnavailableError` when no answer came, and `ApiError` when the server refused.

    Args:
        timeout: For one answer, in seconds.
        overdue: How long after its time a key counts as gone, though the server has it.
    """

    def __init__(
        self, connection: Connection, name: str, *, timeout: float = 5.0, overdue: timedelta = OVERDUE
    ) -> None:
        self.name = name
        self._connection = connection
        self._stream = f"KV_{name}"
        self._timeout = timeout
        self._overdue = overdue
        self._clock_offset: timedelta | None = None

    def _subject(self, key: str) -> str:
        return f"$KV.{self.name}.{key}"

    async def create(self, key: str, value: bytes, ttl: timedelta | None = None) -> int:
        """Store a new key; return its revision.

        Raises:
            RevisionConflictError: It exists.
        """
        try:
            return await self.replace(key, value, ttl, 0)
        except RevisionConflictError:
            # A marker that `nats kv del` left behind counts as a revision, though the key is gone.
            if (gone := await self._gone(key)) is None:
                raise
        return await self.replace(key, value, ttl, gone)

    async def replace(self, key: str, value: bytes, ttl: timedelta | None, revision: int) -> int:
        """Store over `revision` (0: none); return the new one. The life of the key starts anew.

        Args:
            ttl: Whole seconds are what the server knows; it is rounded up. None: for ever.

        Raises:
            RevisionConflictError: The key is at another revision, or gone.
        """
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        if ttl is not None:
            headers["Nats-TTL"] = f"{math.ceil(ttl.total_seconds())}s"
        try:
            ack = await publish(self._connection, self._subject(key), value, headers, timeout=self._timeout)
        except ApiError as error:
            if error.err_code == WRONG_LAST_SEQUENCE:
                raise RevisionConflictError(key) from None
            raise
        return ack.seq

    async def read(self, key: str) -> Entry | None:
        """The entry as the leader has it, or None; one that is overdue is removed."""
        if (message := await self._last(key)) is None or _is_marker(message):
            return None
        if await self._is_overdue(message):
            logger.warning("%s: %s should have ended long ago, and is removed", self.name, key)
            await self.delete(key, int(message["seq"]))
            return None
        return Entry(value=b64decode(message.get("data", "")), revision=int(message["seq"]))

    async def delete(self, key: str, revision: int) -> None:
        """Delete exactly this revision; nothing happens when it is gone already."""
        try:
            await self._connection.api(
                f"STREAM.MSG.DELETE.{self._stream}",
                {"seq": revision, "no_erase": True},
                timeout=self._timeout,
            )
        except ApiError as error:
            # The same code stands for a store that fails.
            if error.err_code != MESSAGE_DELETE_FAILED or await self._message(seq=revision) is not None:
                raise

    async def keys(self, below: str | None = None) -> list[str]:
        """All keys, markers included, in no order.

        Args:
            below: Only the keys `<below>.<one more token>`.
        """
        prefix = self._subject("")
        subjects = ">" if below is None else self._subject(f"{below}.*")
        keys: list[str] = []
        offset = 0
        while True:
            info = await self._info({"subjects_filter": subjects, "offset": offset})
            page = info["state"].get("subjects") or {}
            keys += (subject.removeprefix(prefix) for subject in page)
            offset += len(page)
            if not page or offset >= info.get("total", 0):
                return keys

    async def oldest(self, below: str | None = None, *, since: int = 1) -> StoredKey | None:
        """The key that was stored first, of all keys or of those `<below>.<one more token>`; None when there is none.

        Args:
            since: Only revisions from this one on.
        """
        if self._clock_offset is None:
            await self._info({})
        subjects = self._subject(">" if below is None else f"{below}.*")
        while (message := await self._message(seq=since, next_by_subj=subjects)) is not None:
            if not _is_marker(message):
                return self._standing(message)
            since = int(message["seq"]) + 1
        return None

    def _standing(self, message: dict[str, str]) -> StoredKey:
        expires_in = None
        if (ttl := _ttl(message)) is not None and self._clock_offset is not None:
            age = datetime.now(UTC) + self._clock_offset - from_rfc3339(message["time"])
            expires_in = (ttl - age).total_seconds()
        return StoredKey(
            key=message["subject"].removeprefix(self._subject("")),
            value=b64decode(message.get("data", "")),
            revision=int(message["seq"]),
            expires_in=expires_in,
        )

    async def _info(self, request: dict[str, object]) -> dict[str, Any]:
        info = await self._connection.api(f"STREAM.INFO.{self._stream}", request, timeout=self._timeout)
        self._clock_offset = from_rfc3339(info["ts"]) - datetime.now(UTC)
        return info

    async def _last(self, key: str) -> dict[str, str] | None:
        return await self._message(last_by_subj=self._subject(key))

    async def _message(self, **which: object) -> dict[str, str] | None:
        try:
            answer = await self._connection.api(f"STREAM.MSG.GET.{self._stream}", which, timeout=self._timeout)
        except ApiError as error:
            if error.err_code == MESSAGE_NOT_FOUND:
                return None
            raise
        message: dict[str, str] = answer["message"]
        return message

    async def _gone(self, key: str) -> int | None:
        """The revision that stands where a key is gone, 0 for none; None: the key is there."""
        message = await self._last(key)
        if message is None:
            # It expired or was deleted since: the key is free after all.
            return 0
        return int(message["seq"]) if _is_marker(message) or await self._is_overdue(message) else None

    async def _is_overdue(self, message: dict[str, str]) -> bool:
        """Whether the server should have dropped it long ago."""
        if (ttl := _ttl(message)) is None:
            return False
        end = from_rfc3339(message["time"]) + ttl + self._overdue
        # This machine's clock may be wrong: it only tells whether to ask for the server's.
        if self._clock_offset is not None and datetime.now(UTC) + self._clock_offset < end:
            return False
        return from_rfc3339((await self._info({}))["ts"]) >= end


def _ttl(message: dict[str, str]) -> timedelta | None:
    found = _TTL.search(b64decode(message.get("hdrs", "")))
    return None if found is None else timedelta(seconds=int(found[1]))


def _is_marker(message: dict[str, str]) -> bool:
    return "hdrs" in message and any(marker in b64decode(message["hdrs"]) for marker in _MARKERS)
