"""Many messages of a stream in few requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import message_batches
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import RequestTimeoutError
from diracx.tasks.plumbing.jetstream.message_batches import BATCH_BYTES, BATCH_MESSAGES, read_batches
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import delete_message, read_messages
from support.queues import edit_stream
from support.tcp_proxy import TcpProxy

NO_DIRECT_READS = """
authorization { users: [{ user: limited, password: p, permissions: {
    publish: { allow: ["Mixed.>", "$JS.API.INFO", "$JS.API.STREAM.>"] }, subscribe: ["_INBOX_test.>"]
} }] }
"""
MANY = 2 * BATCH_MESSAGES + 7


class Counted:
    """A connection that counts what it sends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.sent: list[str] = []

    async def publish(self, subject: str, *args: Any, **kwargs: Any) -> None:
        self.sent.append(subject)
        await self._connection.publish(subject, *args, **kwargs)

    async def api(self, suffix: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.sent.append(suffix)
        return await self._connection.api(suffix, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture
async def stream(connection: Connection, namespace: str) -> AsyncIterator[str]:
    """A stream that gives direct reads."""
    config = {"name": namespace, "subjects": [f"{namespace}.>"], "allow_direct": True}
    await connection.api(f"STREAM.CREATE.{namespace}", config)
    yield namespace
    await connection.api(f"STREAM.DELETE.{namespace}")


async def fill(connection: Connection, stream: str, count: int, body: bytes = b"") -> None:
    for number in range(count):
        await publish(connection, f"{stream}.{'ab'[number % 2]}", body or b"%d" % number, {"Number": str(number)})


async def test_all_messages_are_read_in_order_as_the_leader_has_them_in_a_request_a_batch(
    connection: Connection, stream: str
) -> None:
    await fill(connection, stream, MANY)
    for sequence in (3, 4, 5, MANY - 1):
        await delete_message(connection, stream, sequence)
    counted: Any = Counted(connection)
    read = [message async for message in read_batches(counted, stream)]
    assert read == [message async for message in read_messages(connection, stream, ">")]
    # Two full ones, one that is not, and one that finds the end.
    assert len(counted.sent) == 4


async def test_a_subject_and_a_part_of_the_stream_are_read(connection: Connection, stream: str) -> None:
    await fill(connection, stream, 9)

    async def sequences(subject: str = ">", **part: int) -> list[int]:
        return [message.sequence async for message in read_batches(connection, stream, subject, **part)]

    assert await sequences(f"{stream}.b") == [2, 4, 6, 8]
    assert await sequences(first=3, last=5) == [3, 4, 5]
    assert await sequences(f"{stream}.a", first=4, last=8) == [5, 7]
    assert await sequences(first=10) == await sequences(first=5, last=4) == []


async def test_a_batch_of_large_messages_ends_early(connection: Connection, stream: str) -> None:
    body = b"x" * (BATCH_BYTES // 4)
    await fill(connection, stream, 9, body)
    counted: Any = Counted(connection)
    assert [message.body async for message in read_batches(counted, stream)] == [body] * 9
    assert len(counted.sent) >= 3


async def test_where_nobody_gives_direct_reads_the_leader_is_asked(connection: Connection, stream: str) -> None:
    await fill(connection, stream, 5)
    await edit_stream(connection, stream, allow_direct=False)
    assert [message.sequence async for message in read_batches(connection, stream)] == [1, 2, 3, 4, 5]
    assert [message.sequence async for message in read_batches(connection, stream, first=2, last=3)] == [2, 3]
    assert [message async for message in read_batches(connection, f"{stream}_missing")] == []


async def test_a_user_who_may_not_read_directly_asks_the_leader() -> None:
    with EmbeddedServer(extra_config=NO_DIRECT_READS) as server:
        settings = ConnectionSettings(servers=(server.url,), user="limited", password="p")
        async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
            config = {"name": "Mixed", "subjects": ["Mixed.>"], "allow_direct": True}
            await connection.api("STREAM.CREATE.Mixed", config)
            await fill(connection, "Mixed", 3)
            # The denial of another subject does not end the batch.
            await connection.publish("Forbidden")
            assert [message.sequence async for message in read_batches(connection, "Mixed")] == [1, 2, 3]


async def test_an_answer_that_does_not_come_is_an_error(
    server: EmbeddedServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_batches, "ANSWER_SECONDS", 0.2)
    async with TcpProxy(server.url) as proxy:
        settings = ConnectionSettings(servers=(proxy.url,))
        async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
            proxy.block()
            try:
                with pytest.raises(RequestTimeoutError, match=r"DIRECT\.GET"):
                    _ = [message async for message in read_batches(connection, stream)]
            finally:
                proxy.unblock()
