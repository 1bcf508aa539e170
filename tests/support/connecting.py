"""A connection to a server, and what stands in the place of a server or on the way to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings

# Long enough that a test which passes because something timed out would not pass.
NEVER = 60.0


@asynccontextmanager
async def connect(server: EmbeddedServer | str, **settings: Any) -> AsyncIterator[Connection]:
    url = server if isinstance(server, str) else server.url
    async with Connection.open(
        ConnectionSettings(servers=(url,), **settings), name="a test", inbox_prefix="_INBOX_test"
    ) as connection:
        yield connection


@asynccontextmanager
async def serve(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A TCP server for what no nats-server of today does; yields its URL."""
    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()


class Link:
    """A wire to a server that can stop carrying what the client sends, and be cut."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._port = int(server.url.rpartition(":")[2])
        self._writers: list[asyncio.StreamWriter] = []
        self._carries = asyncio.Event()
        self._carries.set()

    def stall(self) -> None:
        self._carries.clear()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._carries.set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, to_server]
        await asyncio.gather(self._carry(reader, to_server, self._carries), self._carry(from_server, writer, None))

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event | None
    ) -> None:
        try:
            while chunk := await reader.read(4096):
                if gate is not None:
                    await gate.wait()
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()
