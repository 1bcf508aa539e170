"""Answers to the questions that operators ask of workers, by whoever is no worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from diracx.tasks.plumbing.background import in_background
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.micro import Service, ServiceStats
from diracx.tasks.plumbing.operations.worker_service import worker_service
from diracx.tasks.plumbing.wire.names import Namespace

WORKER: Final[dict[str, Any]] = {
    "id": "w1",
    "metadata": {"id": "host-1-small-w1", "size": "small", "host": "host", "pid": "1"},
}
"""The part of an answer that says which worker it comes from."""


def earlier_worker(names: Namespace, **others: Any) -> Service:
    """The service of a worker of an earlier version, `host-1-small`: it knows no question but those in `others`."""
    return Service(
        name=worker_service(names),
        id="host-1-small",
        version="0.1",
        description="An earlier version",
        metadata={"id": "host-1-small", "size": "small"},
        endpoint="execute",
        subject="a.*.small",
        queue_group="small",
        stats=ServiceStats,
        **others,
    )


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
