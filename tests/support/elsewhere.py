"""Another thread with a connection of its own to a bucket, and a bucket that holds requests or answers back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from diracx.tasks.plumbing.execution.loops import loop_on_a_thread, run_on
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.key_value import Bucket


class HeldBack:
    """A bucket whose chosen verb is held back until `go` is set: its request, or its answer."""

    def __init__(self, bucket: Any, verb: str, *, request: bool = False) -> None:
        self._bucket, self._verb, self._request = bucket, verb, request
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self.requests: list[str] = []

    def __getattr__(self, verb: str) -> Any:
        async def call(*arguments: Any) -> Any:
            self.requests.append(verb)
            if verb == self._verb and self._request:
                await self._wait()
            answer = await getattr(self._bucket, verb)(*arguments)
            if verb == self._verb and not self._request:
                await self._wait()
            return answer

        return call

    async def _wait(self) -> None:
        self.reached.set()
        await self.go.wait()


@dataclass
class Elsewhere:
    """The event loop of another thread, and the bucket through its own connection."""

    loop: asyncio.AbstractEventLoop
    bucket: Bucket

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, bucket: str) -> AsyncIterator[Elsewhere]:
        """Start the thread and connect there, for the block."""
        opened = AsyncExitStack()
        connecting = Connection.open(ConnectionSettings(servers=(url,)), name="elsewhere", inbox_prefix="_INBOX_other")
        with loop_on_a_thread("elsewhere") as loop:
            connection = await run_on(loop, opened.enter_async_context(connecting))
            try:
                yield cls(loop, Bucket(connection, bucket))
            finally:
                await run_on(loop, opened.aclose())


async def stored(bucket: Bucket, key: str) -> int | None:
    """The revision of a key in the bucket; None without the key."""
    return None if (entry := await bucket.read(key)) is None else entry.revision
