"""A TCP proxy between a client and the server, whose connections can be blocked and dropped."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

CHUNK_BYTES = 65_536


class TcpProxy:
    """Forwards TCP connections from a port of its own; while it is blocked, nothing passes in either direction.

    Args:
        url: Of the server, `nats://host:port`.
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("nats://").rpartition(":")
        self._target = (host, int(port))
        self._unblocked = asyncio.Event()
        self._unblocked.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._forwarding: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        """The address that a client connects to."""
        return "nats://{}:{}".format(*self._server.sockets[0].getsockname())

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._forwarding:
            task.cancel()
        await asyncio.gather(*self._forwarding, return_exceptions=True)

    def block(self) -> None:
        """Hold back all data without a sign to either end; drop new connections."""
        self._unblocked.clear()

    def unblock(self) -> None:
        """Drop the connections, so that nothing held back arrives late, and let new ones pass."""
        self._drop()
        self._unblocked.set()

    def sever(self) -> None:
        """Drop the connections and refuse new ones, until `unblock`."""
        self.block()
        self._drop()

    async def cut(self, seconds: float, silently: bool) -> None:
        """Block for a while.

        Args:
            silently: The ends notice nothing until it is over, as when a router dies. Otherwise their connections are
                dropped at once, as when a cable is pulled.
        """
        if silently:
            self.block()
        else:
            self.sever()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.unblock()

    def _drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._forwarding.add(task)
        try:
            if self._unblocked.is_set():
                await self._forward_both_ways(reader, writer)
        except (OSError, asyncio.CancelledError):
            return
        finally:
            self._forwarding.discard(task)
            writer.transport.abort()

    async def _forward_both_ways(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        ends = {writer, server_writer}
        self._writers |= ends
        try:
            ways = [
                asyncio.ensure_future(self._forward(reader, server_writer)),
                asyncio.ensure_future(self._forward(server_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._writers -= ends
            server_writer.transport.abort()

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(CHUNK_BYTES):
            await self._unblocked.wait()
            target.write(data)
            await target.drain()
