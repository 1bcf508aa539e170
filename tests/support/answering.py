"""Answers to the questions that operators ask of workers, by whoever is no worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from diracx.tasks.plumbing.background import in_background
from diracx.tasks.plumbing.jetstream.connection import Connection

WORKER: Final[dict[str, Any]] = {
    "id": "w1",
    "metadata": {"id": "host-1-small-w1", "size": "small", "host": "host", "pid": "1"},
}
"""The part of an answer that says which worker it comes from."""


@asynccontextmanager
async def answering(connection: Connection, subject: str, answer: object) -> AsyncIterator[None]:
    """Answer each request on a subject within the block."""
    asked: asyncio.Queue[str] = asyncio.Queue()

    async def answers() -> None:
        while True:
            await connection.publish(await asked.get(), json.dumps(answer).encode())

    listening = await connection.client.listen(subject, lambda message: asked.put_nowait(message.reply))
    try:
        async with in_background(answers=answers()):
            yield
    finally:
        await connection.client.leave(listening)
