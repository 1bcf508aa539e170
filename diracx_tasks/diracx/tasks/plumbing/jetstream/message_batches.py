"""Many messages of a stream in one request (ADR-31, direct get in batches): ten times as fast as one after another.

Any replica may answer, and one that lags does not have the latest writes yet. So these reads are for lists: whoever
changes something reads the message again from the leader (see `stream_messages`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError, RequestTimeoutError
from diracx.tasks.plumbing.jetstream.headers import (
    ADDED_TO_DIRECT_READS,
    NO_RESPONDERS,
    STORED_SEQUENCE,
    STORED_SUBJECT,
    STORED_TIME,
    status_of,
)
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, read_messages
from diracx.tasks.plumbing.wire.times import from_rfc3339

BATCH_MESSAGES: Final = 500
BATCH_BYTES: Final = 2 * 1024 * 1024
"""The server ends a batch with the message that goes beyond. A client holds one batch at a time."""

ANSWER_SECONDS: Final = 10.0
"""How long a batch may take."""
REPLICA_SECONDS: Final = 3.0
"""As `ANSWER_SECONDS`, in a cluster. The request may have gone to a server that has ended; then the leader is asked."""


async def read_batches(
    connection: Connection, stream: str, subject: str = ">", *, first: int = 1, last: int | None = None
) -> AsyncIterator[StoredMessage]:
    """Read the messages whose subject matches, the oldest first, holding one batch at a time.

    A stream that does not exist has none. A stream that gives no direct reads, to nobody or not to this user, is read
    through its leader, one message after another.

    Args:
        first: The sequence to begin at.
        last: The sequence to end at; None: the end of the stream, with the messages that arrive meanwhile.

    Raises:
        ServerUnavailableError: No answer.
        ApiError: The server refused.
    """
    while last is None or first <= last:
        batch = await _Batch(connection, stream).read(subject, first)
        if batch is None:
            async for message in read_messages(connection, stream, subject, first=first):
                if last is not None and message.sequence > last:
                    return
                yield message
            return
        for message in batch:
            if last is not None and message.sequence > last:
                return
            yield message
        if not batch:
            return
        first = batch[-1].sequence + 1


class _Batch:
    """One request and its answers."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._subject = connection.api_subject(f"DIRECT.GET.{stream}")
        self._messages: list[StoredMessage] = []
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def read(self, subject: str, first: int) -> list[StoredMessage] | None:
        """The messages of this batch; empty at the end of the stream. None: nobody answers directly."""
        inbox = self._connection.client.new_inbox()
        subscription = await self._connection.client.listen(inbox, self._receive)
        self._connection.on_permission_denied(self._deny)
        request = {"seq": first, "next_by_subj": subject, "batch": BATCH_MESSAGES, "max_bytes": BATCH_BYTES}
        try:
            await self._connection.publish(self._subject, msgspec.json.encode(request), reply=inbox)
            status = await self._until_ended()
        finally:
            self._connection.remove_on_permission_denied(self._deny)
            await self._connection.client.leave(subscription)
        return None if status == NO_RESPONDERS else self._messages

    async def _until_ended(self) -> str:
        in_cluster = self._connection.in_cluster
        try:
            async with asyncio.timeout(REPLICA_SECONDS if in_cluster else ANSWER_SECONDS):
                return await self._ended
        except TimeoutError:
            if in_cluster:
                return NO_RESPONDERS
            raise RequestTimeoutError(self._subject, ANSWER_SECONDS) from None

    def _receive(self, message: Received) -> None:
        headers = message.headers or {}
        if STORED_SEQUENCE in headers:
            self._messages.append(_stored(headers, message.data))
        else:
            self._end(status_of(message))

    def _deny(self, denial: PermissionDeniedError) -> None:
        if denial.subject == self._subject.lower():
            self._end(NO_RESPONDERS)

    def _end(self, status: str) -> None:
        if not self._ended.done():
            self._ended.set_result(status)


def _stored(headers: dict[str, str], body: bytes) -> StoredMessage:
    return StoredMessage(
        subject=headers[STORED_SUBJECT],
        sequence=int(headers[STORED_SEQUENCE]),
        stored=from_rfc3339(headers[STORED_TIME]),
        headers={name: value for name, value in headers.items() if name not in ADDED_TO_DIRECT_READS},
        body=body,
    )
