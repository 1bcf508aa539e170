"""Messages of a stream on a real server: read, listed and removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import (
    delete_message,
    purge_subject,
    read_message,
    read_messages,
    subjects_of,
)


@pytest.fixture
async def stream(connection: Connection, namespace: str) -> AsyncIterator[str]:
    """A stream with three messages, of which the first and the last are on one subject."""
    await connection.api(f"STREAM.CREATE.{namespace}", {"name": namespace, "subjects": [f"{namespace}.>"]})
    for number, subject in enumerate(("a", "b", "a"), 1):
        await publish(connection, f"{namespace}.{subject}", b"%d" % number, {"Number": str(number)})
    yield namespace
    await connection.api(f"STREAM.DELETE.{namespace}")


async def test_a_message_is_read_by_its_sequence_and_by_its_subject(connection: Connection, stream: str) -> None:
    second = await read_message(connection, stream, seq=2)
    assert second is not None
    assert (second.subject, second.sequence, second.body) == (f"{stream}.b", 2, b"2")
    assert second.headers == {"Number": "2"}
    assert datetime.now(UTC) - second.stored < timedelta(minutes=1)
    last = await read_message(connection, stream, last_by_subj=f"{stream}.a")
    following = await read_message(connection, stream, seq=2, next_by_subj=f"{stream}.a")
    assert last == following
    assert last is not None
    assert last.sequence == 3


async def test_a_missing_message_is_none_and_a_missing_stream_too_unless_it_must_exist(
    connection: Connection, stream: str
) -> None:
    assert await read_message(connection, stream, seq=4) is None
    assert await read_message(connection, f"{stream}_missing", seq=1) is None
    with pytest.raises(ApiError) as refused:
        await read_message(connection, f"{stream}_missing", strict=True, seq=1)
    assert refused.value.err_code == STREAM_NOT_FOUND


async def test_the_messages_of_a_subject_are_read_in_order(connection: Connection, stream: str) -> None:
    assert [message.body async for message in read_messages(connection, stream, f"{stream}.a")] == [b"1", b"3"]
    assert [message.body async for message in read_messages(connection, stream, f"{stream}.>")] == [b"1", b"2", b"3"]


async def test_a_message_is_deleted_once_and_a_second_time_changes_nothing(connection: Connection, stream: str) -> None:
    # The server answers with one code for a gap between two messages, with another one beyond the last.
    for sequence in (2, 2, 3, 3, 9):
        await delete_message(connection, stream, sequence)
    assert [message.sequence async for message in read_messages(connection, stream, f"{stream}.>")] == [1]
    await delete_message(connection, f"{stream}_missing", 1)
    with pytest.raises(ApiError):
        await delete_message(connection, f"{stream}_missing", 1, strict=True)


async def test_subjects_are_listed_and_purged(connection: Connection, stream: str) -> None:
    assert sorted(await subjects_of(connection, stream, f"{stream}.>")) == [f"{stream}.a", f"{stream}.b"]
    assert await purge_subject(connection, stream, f"{stream}.a", before=3) == 1
    assert await purge_subject(connection, stream, f"{stream}.a") == 1
    assert await purge_subject(connection, stream, f"{stream}.a") == 0
    assert await subjects_of(connection, stream, f"{stream}.>") == [f"{stream}.b"]
