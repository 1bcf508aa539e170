"""What anybody who reaches the port can send, without a token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest

from diracx.tasks.dashboard import connections
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.dashboards import Site, listening, signed_in

FORM_HEADER = b"Content-Type: application/x-www-form-urlencoded\r\n"
SENT_IN_PART = (
    b"",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
    b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\n%sContent-Length: 100\r\n\r\ntoken=" % FORM_HEADER,
)
FORM = {"content-type": "application/x-www-form-urlencoded"}


@asynccontextmanager
async def opened(site: Site, sent: Sequence[bytes]) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Connections on which so much was sent."""
    streams = [await asyncio.open_connection("127.0.0.1", int(site.url.rpartition(":")[2])) for _ in sent]
    try:
        for (_, writer), each in zip(streams, sent, strict=True):
            writer.write(each)
        yield [reader for reader, _ in streams]
    finally:
        for _, writer in streams:
            writer.close()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Wait until a connection was closed from the other end; whether nothing was answered."""
    async with asyncio.timeout(20):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


async def test_who_never_sends_a_whole_request_keeps_no_place(
    connection: Connection, topology: Namespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.5)
    async with signed_in(connection, topology) as site, opened(site, SENT_IN_PART) as readers:
        parts = site.parts("overview")
        await anext(parts)
        assert [await is_closed(reader) for reader in readers] == [True] * len(readers)
        assert await anext(parts)  # its request was there in time; the answer goes on
        assert not [record for record in caplog.records if record.exc_info]


async def test_more_connections_than_there_is_room_for_are_closed_at_once(
    connection: Connection, topology: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_SOCKETS", 20)
    async with listening(connection, topology) as site:
        async with opened(site, [b""] * 21) as readers:
            assert await is_closed(readers[-1])
        await wait_until(lambda: answers(site), description="there is room again")


async def answers(site: Site) -> bool:
    """Whether it is alive."""
    try:
        return (await site.client.get("/live")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("content", [b"x" * (1 << 18), b"a=&" * 3_000], ids=["long", "of many values"])
async def test_a_form_that_no_browser_sends_is_not_read(
    connection: Connection, topology: Namespace, content: bytes
) -> None:
    async with listening(connection, topology) as site:
        assert (await site.client.post("/login", content=content, headers=FORM)).status_code == 413


async def test_a_path_is_not_mended_by_leading_elsewhere(connection: Connection, topology: Namespace) -> None:
    async with signed_in(connection, topology) as site:
        answer = await site.client.get("/tasks/", headers={"host": "localhost:1"})
        assert (answer.status_code, answer.headers.get("location")) == (404, None)


async def test_the_stream_of_a_session_ends_with_it(connection: Connection, topology: Namespace) -> None:
    async with signed_in(connection, topology) as site:
        async with asyncio.timeout(20):
            async for _ in site.parts("overview"):
                site.dashboard.gate.end_session(next(iter(site.client.cookies.values())))
