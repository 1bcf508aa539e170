"""Messages as a stream keeps them: read, listed and removed, through the leader.

The leader answers `STREAM.MSG.GET`, so what was acknowledged before is seen; a direct read may be answered by a replica
that lags.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import (
    MESSAGE_DELETE_FAILED,
    MESSAGE_NOT_FOUND,
    STREAM_NOT_FOUND,
    ApiError,
)
from diracx.tasks.plumbing.wire.times import from_rfc3339

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message in a stream."""

    subject: str
    sequence: int
    stored: datetime
    """By the server's clock, cut to microseconds."""
    headers: Mapping[str, str]
    """What is no UTF-8 in them is replaced, as it is for workers."""
    body: bytes

    @property
    def stored_us(self) -> int:
        """`stored` in microseconds since the epoch."""
        return (self.stored - _EPOCH) // timedelta(microseconds=1)

    @classmethod
    def from_answer(cls, message: Mapping[str, Any]) -> StoredMessage:
        """From the `message` of a `STREAM.MSG.GET` answer."""
        return cls(
            subject=message["subject"],
            sequence=int(message["seq"]),
            stored=from_rfc3339(message["time"]),
            headers=_headers(b64decode(message.get("hdrs", ""))),
            body=b64decode(message.get("data", "")),
        )


async def read_message(connection: Connection, stream: str, **which: object) -> StoredMessage | None:
    """One message; None where there is none such, or no such stream.

    Args:
        which: `seq=7`; or `last_by_subj="a.*"`; or both `seq` and `next_by_subj`, the first from there on.

    Raises:
        ServerUnavailableError: No answer.
        ApiError: The server refused.
    """
    try:
        answer = await connection.api(f"STREAM.MSG.GET.{stream}", which)
    except ApiError as error:
        if error.err_code in (MESSAGE_NOT_FOUND, STREAM_NOT_FOUND):
            return None
        raise
    return StoredMessage.from_answer(answer["message"])


async def read_messages(connection: Connection, stream: str, subject: str) -> AsyncIterator[StoredMessage]:
    """The messages whose subject matches, the oldest first; those that come meanwhile included.

    Raises:
        ServerUnavailableError: No answer.
        ApiError: The server refused.
    """
    sequence = 1
    while (message := await read_message(connection, stream, seq=sequence, next_by_subj=subject)) is not None:
        yield message
        sequence = message.sequence + 1


async def delete_message(connection: Connection, stream: str, sequence: int) -> None:
    """Delete one message; nothing happens when it is gone already.

    Raises:
        ServerUnavailableError: No answer; it may be gone.
        ApiError: The server refused.
    """
    try:
        await connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
    except ApiError as error:
        if error.err_code not in (MESSAGE_DELETE_FAILED, MESSAGE_NOT_FOUND, STREAM_NOT_FOUND):
            raise
        # The same code stands for a store that fails.
        if await read_message(connection, stream, seq=sequence) is not None:
            raise


async def subjects_of(connection: Connection, stream: str, pattern: str, *, timeout: float = 5.0) -> list[str]:
    """The subjects that match `pattern` and have messages, in no order.

    Raises:
        ServerError: As `Connection.api` does.
    """
    found: list[str] = []
    while True:
        request = {"subjects_filter": pattern, "offset": len(found)}
        info = await connection.api(f"STREAM.INFO.{stream}", request, timeout=timeout)
        page = info["state"].get("subjects") or {}
        found += page
        if not page or len(found) >= info.get("total", 0):
            return found


async def purge_subject(
    connection: Connection, stream: str, subject: str, *, before: int | None = None, timeout: float = 5.0
) -> int:
    """Remove the messages of a subject, and with them its schedule.

    Args:
        before: Only messages whose sequence is lower; None: all.

    Returns:
        How many were removed.

    Raises:
        ServerError: As `Connection.api` does.
    """
    request: dict[str, object] = {"filter": subject}
    if before is not None:
        request["seq"] = before
    return int((await connection.api(f"STREAM.PURGE.{stream}", request, timeout=timeout))["purged"])


def _headers(raw: bytes) -> dict[str, str]:
    # First comes the line of the protocol's version.
    lines = raw.decode(errors="replace").split("\r\n")[1:]
    return {name: value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}
