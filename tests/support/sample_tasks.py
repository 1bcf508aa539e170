"""A task to submit, a broker that knows it, and the messages that the server then holds."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.stream_messages import read_message
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace


@dataclasses.dataclass
class Greet(BaseTask):
    name: str
    times: int = 1
    priority = Priority.REALTIME
    size = Size.SMALL

    async def execute(self) -> None: ...


def registry() -> TaskRegistry:
    """A registry with `test:Greet`."""
    tasks = TaskRegistry()
    tasks.add("test:Greet", Greet)
    return tasks


@asynccontextmanager
async def connect(server: EmbeddedServer, names: Namespace, **options: Any) -> AsyncIterator[JetStreamBroker]:
    """A broker that knows `test:Greet`; options as for `JetStreamBroker.connect`."""
    async with JetStreamBroker.connect(server.url, namespace=names.name, registry=registry(), **options) as broker:
        yield broker


async def message(connection: Connection, stream: str, sequence: int) -> tuple[str, dict[str, str], bytes]:
    """Subject, headers and body of a stored message, which must exist."""
    stored = await read_message(connection, stream, seq=sequence)
    assert stored is not None, f"{stream} has no message {sequence}"
    return stored.subject, dict(stored.headers), stored.body


async def count(connection: Connection, stream: str) -> int:
    """How many messages a stream holds."""
    return int((await connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"])
