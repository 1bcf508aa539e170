"""A connection to a server, and a TCP server that stands in for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings

NEVER = 60.0
"""Seconds. A test that waits so long for a timeout fails."""


@asynccontextmanager
async def connect(server: EmbeddedServer | str, **settings: Any) -> AsyncIterator[Connection]:
    """A connection to a server, or to a URL, with these connection settings."""
    url = server if isinstance(server, str) else server.url
    async with Connection.open(
        ConnectionSettings(servers=(url,), **settings), name="a test", inbox_prefix="_INBOX_test"
    ) as connection:
        yield connection


@asynccontextmanager
async def serve(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A TCP server that does what no current nats-server does; yields its URL."""
    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
