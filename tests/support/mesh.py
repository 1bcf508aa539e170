"""One mesh in a namespace of its own on a real server: what the tests of workers stand on."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import nats

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import NANOSECONDS, assets
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.worker import Worker, WorkerSettings

END_SECONDS = 30.0


@dataclass(frozen=True)
class Stored:
    """A message as a stream keeps it."""

    subject: str
    sequence: int
    headers: dict[str, str]
    body: bytes


class Mesh:
    """A broker, and workers in this process. Every task class goes by `test:<ClassName>`."""

    def __init__(self, broker: JetStreamBroker) -> None:
        self.broker = broker
        self.connection = broker.connection
        self.namespace = broker.namespace
        self.registry = broker.registry
        self.attempts = Bucket(self.connection, self.namespace.attempts_bucket)
        self.locks = Bucket(self.connection, self.namespace.locks_bucket)
        self.leaves_something_behind = False
        """Whether messages and records may remain at the end of the test."""

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, namespace: str) -> AsyncIterator[Mesh]:
        async with JetStreamBroker.connect(url, namespace=namespace, registry=TaskRegistry()) as broker:
            yield cls(broker)

    def register(self, *classes: type[BaseTask]) -> None:
        for task_class in classes:
            self.registry.add(f"test:{task_class.__name__}", task_class)

    def worker(self, slots: int = 10, registry: TaskRegistry | None = None, **settings: Any) -> Worker:
        """A worker of small tasks whose delays suit a test."""
        defaults: dict[str, Any] = {
            "size": Size.SMALL,
            "max_concurrent_tasks": slots,
            "busy_delay": timedelta(seconds=0.1),
            "unknown_delay": timedelta(seconds=0.05),
            "grace": timedelta(seconds=END_SECONDS),
        }
        return Worker(
            self.connection,
            self.namespace,
            self.registry if registry is None else registry,
            Injector(),
            WorkerSettings(**(defaults | settings)),
        )

    @asynccontextmanager
    async def working(self, *args: Any, **settings: Any) -> AsyncIterator[Worker]:
        """A worker that runs for the block, and is stopped in order at its end."""
        worker = self.worker(*args, **settings)
        async with running(worker):
            yield worker

    async def burst(self, slots: int = 10, **settings: Any) -> Worker:
        """Run a worker until nothing is left that is due."""
        worker = self.worker(slots, burst=True, **settings)
        async with asyncio.timeout(END_SECONDS):
            await worker.run()
        return worker

    async def publish_by_hand(
        self,
        *messages: tuple[Mapping[str, str] | None, bytes],
        priority: Priority = Priority.NORMAL,
        size: Size = Size.SMALL,
    ) -> list[int]:
        """Publish with the plain client library; return the sequences."""
        url = self.connection.client.connected_url
        assert url is not None
        client = await nats.connect(url.geturl())
        try:
            js = client.jetstream()
            subject = self.namespace.task_subject(priority, size)
            return [
                (await js.publish(subject, body, headers=dict(headers) if headers is not None else None)).seq
                for headers, body in messages
            ]
        finally:
            await client.close()

    async def state(self, stream: str | None = None) -> dict[str, Any]:
        info = await self.connection.api(f"STREAM.INFO.{stream or self.namespace.tasks_stream}")
        state: dict[str, Any] = info["state"]
        return state

    async def waiting(self) -> int:
        """Tasks that are not settled."""
        return int((await self.state())["messages"])

    async def in_hand(self) -> int:
        """Messages that were handed out and are not settled; the server counts those that were given back, too."""
        infos = [
            await self.connection.api(f"CONSUMER.INFO.{asset.stream}.{asset.name}")
            for asset in assets(self.namespace)
            if asset.kind == "consumer"
        ]
        return sum(info["num_ack_pending"] for info in infos)

    async def stored(self, stream: str, subjects: str = ">") -> list[Stored]:
        """What a stream holds, the oldest first."""
        found: list[Stored] = []
        state = await self.state(stream)
        for sequence in range(max(state["first_seq"], 1), state["last_seq"] + 1):
            try:
                answer = await self.connection.api(f"STREAM.MSG.GET.{stream}", {"seq": sequence})
            except Exception as error:
                if "no message found" not in str(error):
                    raise
                continue
            message = answer["message"]
            if subjects == ">" or message["subject"].startswith(subjects):
                found.append(_read(message))
        return found

    async def dead_letters(self) -> list[Stored]:
        return await self.stored(self.namespace.dead_letters_stream, f"{self.namespace.name}.dlq.")

    async def edit_stream(self, stream: str, **changes: Any) -> None:
        config = (await self.connection.api(f"STREAM.INFO.{stream}"))["config"]
        await self.connection.api(f"STREAM.UPDATE.{stream}", {**config, **changes})

    async def set_ack_wait(self, seconds: float) -> None:
        """As an operator would, on the queues of small tasks; workers that start later go by it."""
        stream = self.namespace.tasks_stream
        for priority in Priority:
            consumer = self.namespace.consumer(priority, Size.SMALL)
            config = (await self.connection.api(f"CONSUMER.INFO.{stream}.{consumer}"))["config"]
            config["ack_wait"] = int(seconds * NANOSECONDS)
            await self.connection.api(
                f"CONSUMER.CREATE.{stream}.{consumer}.{config['filter_subject']}",
                {"stream_name": stream, "config": config},
            )

    async def residue(self) -> dict[str, int]:
        """What should be gone once everything is settled, by name; only what is there."""
        counts = {
            "tasks": await self.waiting(),
            "in hand": await self.in_hand(),
            "attempt records": len(await self.attempts.keys()),
            "locks": len(await self.locks.keys()),
        }
        return {name: count for name, count in counts.items() if count}

    async def remove(self) -> None:
        """Every stream and bucket: their reserved space would fill a server that many tests share."""
        for asset in reversed(assets(self.namespace)):
            if asset.kind != "consumer":
                await self.connection.api(f"STREAM.DELETE.{asset.stream}")


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    """Run a worker for the block, and stop it in order at its end."""
    task = asyncio.create_task(worker.run())
    try:
        yield
    except BaseException:
        worker.stop_now()
        raise
    finally:
        worker.stop()
        async with asyncio.timeout(END_SECONDS):
            await task


def _read(message: Mapping[str, Any]) -> Stored:
    lines = b64decode(message.get("hdrs", "")).decode().split("\r\n")[1:]
    headers = dict(line.split(": ", 1) for line in lines if line)
    return Stored(message["subject"], int(message["seq"]), headers, b64decode(message.get("data", "")))
