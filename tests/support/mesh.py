"""A mesh in a namespace of its own on a real server, with workers in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, ClassVar, Self

import nats

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, read_messages
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from diracx.tasks.plumbing.worker.processing import OnOutcome
from diracx.tasks.plumbing.worker.snapshot import Counters
from support.queues import edit_stream, set_ack_wait

END_SECONDS = 30.0
"""How long a worker may take to stop."""


class TaskMesh:
    """A broker with an empty registry, and a view of the streams, consumers and buckets behind it.

    `register` names every task class `test:<ClassName>`. Extension authors use `diracx.tasks.testing.Mesh`, which
    shows outcomes and hides the server.
    """

    binds: ClassVar[bool] = True
    """Whether `task.schedule()` submits to a mesh that `open` made."""

    def __init__(self, broker: JetStreamBroker) -> None:
        self.broker = broker
        self.connection = broker.connection
        self.namespace = broker.namespace
        self.registry = broker.registry
        self.attempts = Bucket(self.connection, self.namespace.attempts_bucket)
        self.locks = Bucket(self.connection, self.namespace.locks_bucket)
        self.allows_residue = False
        """Whether unsettled messages and records may remain at the end of the test."""

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, namespace: str) -> AsyncIterator[Self]:
        """Connect, and create the streams and buckets."""
        registry = TaskRegistry()
        async with JetStreamBroker.connect(url, namespace=namespace, registry=registry, bind=cls.binds) as broker:
            yield cls(broker)

    def register(self, *classes: type[BaseTask]) -> None:
        """Add task classes to the registry, as `test:<ClassName>`."""
        for task_class in classes:
            self.registry.add(f"test:{task_class.__name__}", task_class)

    def worker(
        self,
        slots: int = 10,
        registry: TaskRegistry | None = None,
        on_outcome: OnOutcome | None = None,
        counters: Counters | None = None,
        **settings: Any,
    ) -> Worker:
        """A worker of small tasks with short delays, not started."""
        defaults: dict[str, Any] = {
            "size": Size.SMALL,
            "max_concurrent_tasks": slots,
            "lock_retry_delay": timedelta(seconds=0.1),
            "unknown_delay": timedelta(seconds=0.05),
            "grace": timedelta(seconds=END_SECONDS),
        }
        return Worker(
            self.connection,
            self.namespace,
            self.registry if registry is None else registry,
            Injector(),
            WorkerSettings(**(defaults | settings)),
            on_outcome=on_outcome,
            counters=counters,
        )

    @asynccontextmanager
    async def working(self, *args: Any, **settings: Any) -> AsyncIterator[Worker]:
        """A worker that runs during the block and is stopped gracefully at its end; arguments as for `worker`."""
        worker = self.worker(*args, **settings)
        async with running(worker):
            yield worker

    async def burst(self, slots: int = 10, **settings: Any) -> Worker:
        """Run a worker until no due task is left."""
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
        """Publish headers and bodies with nats-py alone, as another program would; return the sequences."""
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

    async def publish_raw(self, headers: bytes, body: bytes = b"{}", *, size: Size = Size.SMALL) -> None:
        """Publish header lines as they are, as a client could that does not check their names."""
        url = self.connection.client.connected_url
        assert url is not None
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        try:
            head = b"NATS/1.0\r\n" + headers + b"\r\n\r\n"
            subject = self.namespace.task_subject(Priority.NORMAL, size).encode()
            writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
            writer.write(b"HPUB %b %d %d\r\n%b\r\nPING\r\n" % (subject, len(head), len(head + body), head + body))
            while await reader.readline() != b"PONG\r\n":
                pass
        finally:
            writer.close()
            await writer.wait_closed()

    async def state(self, stream: str | None = None) -> dict[str, Any]:
        """The `state` of a stream as the server reports it; of the task stream if none is named."""
        info = await self.connection.api(f"STREAM.INFO.{stream or self.namespace.tasks_stream}")
        state: dict[str, Any] = info["state"]
        return state

    async def waiting(self) -> int:
        """How many tasks are not settled."""
        return int((await self.state())["messages"])

    async def in_flight(self) -> int:
        """How many messages were delivered and are not settled; naked messages that wait for their delay count."""
        infos = [
            await self.connection.api(f"CONSUMER.INFO.{asset.stream}.{asset.name}")
            for asset in assets(self.namespace)
            if asset.kind == "consumer"
        ]
        return sum(info["num_ack_pending"] for info in infos)

    async def stored(self, stream: str, prefix: str = "") -> list[StoredMessage]:
        """The messages of a stream whose subject begins with `prefix`, the oldest first."""
        messages = read_messages(self.connection, stream, ">")
        return [message async for message in messages if message.subject.startswith(prefix)]

    async def dead_letters(self) -> list[StoredMessage]:
        """The dead letters, without the server's advisories."""
        return await self.stored(self.namespace.dead_letters_stream, f"{self.namespace.name}.dlq.")

    async def edit_stream(self, stream: str, **changes: Any) -> None:
        """Change fields of the configuration of a stream."""
        await edit_stream(self.connection, stream, **changes)

    async def set_ack_wait(self, seconds: float) -> None:
        """Set `ack_wait` of the queues of small tasks; workers that start later go by it."""
        await set_ack_wait(self.connection, self.namespace, seconds, [Size.SMALL])

    async def residue(self) -> dict[str, int]:
        """Counts of messages and records that disappear once everything is settled; without those that are 0."""
        counts = {
            "tasks": await self.waiting(),
            "in flight": await self.in_flight(),
            "attempt records": len(await self.attempts.keys()),
            "locks": len(await self.locks.keys()),
        }
        return {name: count for name, count in counts.items() if count}

    async def remove(self) -> None:
        """Remove the streams and buckets: their reserved space would fill a server that many tests share."""
        for asset in reversed(assets(self.namespace)):
            if asset.kind != "consumer":
                await self.connection.api(f"STREAM.DELETE.{asset.stream}")


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    """Run a worker during the block, and stop it gracefully at its end."""
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
