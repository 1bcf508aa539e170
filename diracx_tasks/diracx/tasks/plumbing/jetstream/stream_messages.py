"""Messages as a stream keeps them: read, listed and removed through the stream's leader.

The leader answers `STREAM.MSG.GET`, so a read sees every write that was acknowledged before it. A direct read may be
answered by a replica that lags.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.elections import ELECTION_SECONDS
from diracx.tasks.plumbing.jetstream.errors import (
    MESSAGE_DELETE_FAILED,
    MESSAGE_NOT_FOUND,
    SEQUENCE_NOT_FOUND,
    STREAM_NOT_FOUND,
    ApiError,
    NoLeaderError,
    RequestTimeoutError,
)
from diracx.tasks.plumbing.wire.times import from_rfc3339

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PURGE_SECONDS: Final = 2.0
"""How long one try of a purge waits in a cluster."""
_BEYOND_LAST_PAGE: Final = 1 << 40
_SUCCEEDED: Final = b'"success":true}'
_MAYBE_GONE: Final = frozenset({MESSAGE_DELETE_FAILED, MESSAGE_NOT_FOUND, SEQUENCE_NOT_FOUND, STREAM_NOT_FOUND})


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message in a stream."""

    subject: str
    sequence: int
    stored: datetime
    """The time at which the stream stored it, by the server's clock, cut to microseconds."""
    headers: Mapping[str, str]
    """Bytes that are not UTF-8 are replaced, as they are for workers."""
    body: bytes

    @property
    def stored_us(self) -> int:
        """`stored` in microseconds since the epoch."""
        return (self.stored - _EPOCH) // timedelta(microseconds=1)

    @classmethod
    def from_answer(cls, message: Mapping[str, Any]) -> StoredMessage:
        """Read the `message` of a `STREAM.MSG.GET` answer."""
        return cls(
            subject=message["subject"],
            sequence=int(message["seq"]),
            stored=from_rfc3339(message["time"]),
            headers=_headers(b64decode(message.get("hdrs", ""))),
            body=b64decode(message.get("data", "")),
        )


async def read_message(
    connection: Connection, stream: str, *, timeout: float | None = None, strict: bool = False, **query: object
) -> StoredMessage | None:
    """Read one message; None when there is none.

    Args:
        timeout: Seconds for the answer, as for `Connection.api`.
        strict: Whether a missing stream is an `ApiError`; False: it counts as empty.
        query: `seq=7` for that message; `last_by_subj="a.*"` for the last one on a subject; `seq=7` with
            `next_by_subj="a.*"` for the first one on a subject from that sequence on.

    Raises:
        ServerUnavailableError: No answer.
        ApiError: The server refused.
    """
    try:
        answer = await connection.api(f"STREAM.MSG.GET.{stream}", query, timeout=timeout)
    except ApiError as error:
        if error.err_code == MESSAGE_NOT_FOUND or (error.err_code == STREAM_NOT_FOUND and not strict):
            return None
        raise
    return StoredMessage.from_answer(answer["message"])


async def read_messages(
    connection: Connection, stream: str, subject: str, *, first: int = 1
) -> AsyncIterator[StoredMessage]:
    """Read all messages whose subject matches, the oldest first, with those that arrive meanwhile.

    Args:
        first: The sequence to begin at.

    Raises:
        ServerUnavailableError: No answer.
        ApiError: The server refused.
    """
    sequence = first
    while (message := await read_message(connection, stream, seq=sequence, next_by_subj=subject)) is not None:
        yield message
        sequence = message.sequence + 1


async def delete_message(connection: Connection, stream: str, sequence: int, *, strict: bool = False) -> None:
    """Delete one message; nothing happens when it is gone already.

    Args:
        strict: Whether a missing stream is an `ApiError`.

    Raises:
        ServerUnavailableError: No answer; the message may be deleted.
        ApiError: The server refused.
    """
    subject = f"STREAM.MSG.DELETE.{stream}"
    if not connection.in_cluster:
        answer = await connection.request(connection.api_subject(subject), b'{"seq":%d,"no_erase":true}' % sequence)
        if answer.data.endswith(_SUCCEEDED):
            return
    # Where there may be elections; or once more, to have the reason read. It is as if it were sent once.
    try:
        await connection.api(subject, {"seq": sequence, "no_erase": True})
    except ApiError as error:
        if error.err_code not in _MAYBE_GONE:
            raise
        # MESSAGE_DELETE_FAILED also stands for a store that failed.
        if await read_message(connection, stream, strict=strict, seq=sequence) is not None:
            raise


async def subjects_of(
    connection: Connection,
    stream: str,
    pattern: str,
) -> list[str]:
    """List the subjects that match `pattern` and have messages, in no order.

    Raises:
        ServerError: As `Connection.api`.
    """
    found: list[str] = []
    while True:
        request = {"subjects_filter": pattern, "offset": len(found)}
        info = await connection.api(f"STREAM.INFO.{stream}", request)
        page = info["state"].get("subjects") or {}
        found += page
        if not page or len(found) >= info.get("total", 0):
            return found


def request_to_count(pattern: str) -> dict[str, object]:
    """The body of a `STREAM.INFO` whose answer tells in `total` how many subjects match, and names none of them.

    Without a match `total` is missing.
    """
    return {"subjects_filter": pattern, "offset": _BEYOND_LAST_PAGE}


async def purge_subject(connection: Connection, stream: str, subject: str, *, before: int | None = None) -> int:
    """Remove the messages of a subject, and with them its schedule.

    A request without an answer is repeated only where messages are left: a repeat that finds none cannot tell whether
    the first one removed them.

    Args:
        before: Remove only messages with a lower sequence; None: all.

    Returns:
        The number of removed messages.

    Raises:
        ServerUnavailableError: No answer; they may be removed.
        ServerError: As `Connection.api`.
    """
    request: dict[str, object] = {"filter": subject}
    if before is not None:
        request["seq"] = before
    clock = asyncio.get_running_loop().time
    deadline = clock() + ELECTION_SECONDS
    while True:
        try:
            answer = await connection.api(
                f"STREAM.PURGE.{stream}",
                request,
                timeout=_PURGE_SECONDS if connection.in_cluster else None,
                repeats=False,
            )
            return int(answer["purged"])
        except (NoLeaderError, RequestTimeoutError):
            if not connection.in_cluster or clock() >= deadline:
                raise
            seconds = max(deadline - clock(), _PURGE_SECONDS)
            left = await read_message(connection, stream, timeout=seconds, seq=1, next_by_subj=subject)
            if left is None or (before is not None and left.sequence >= before):
                raise


def _headers(raw: bytes) -> dict[str, str]:
    # The first line is the version of the protocol.
    lines = raw.decode(errors="replace").split("\r\n")[1:]
    return {name: value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}
