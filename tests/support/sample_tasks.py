"""A task to submit, a broker that knows it, and what the server then holds."""

from __future__ import annotations

import dataclasses
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.connection import Connection
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
    tasks = TaskRegistry()
    tasks.add("test:Greet", Greet)
    return tasks


@asynccontextmanager
async def connect(server: EmbeddedServer, names: Namespace, **options: Any) -> AsyncIterator[JetStreamBroker]:
    async with JetStreamBroker.connect(server.url, namespace=names.name, registry=registry(), **options) as broker:
        yield broker


async def message(connection: Connection, stream: str, sequence: int) -> tuple[str, dict[str, str], bytes]:
    stored = (await connection.api(f"STREAM.MSG.GET.{stream}", {"seq": sequence}))["message"]
    lines = b64decode(stored.get("hdrs", "")).decode().split("\r\n")[1:]
    return stored["subject"], dict(line.split(": ", 1) for line in lines if line), b64decode(stored.get("data", ""))


async def count(connection: Connection, stream: str) -> int:
    return int((await connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"])


async def edit(connection: Connection, stream: str, **fields: Any) -> None:
    config = (await connection.api(f"STREAM.INFO.{stream}"))["config"]
    await connection.api(f"STREAM.UPDATE.{stream}", {**config, **fields})
