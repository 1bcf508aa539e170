"""A pull of small tasks, and the messages that it delivered."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.pull import StrictPriorityPull
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until

REALTIME, NORMAL, BACKGROUND = Priority.REALTIME, Priority.NORMAL, Priority.BACKGROUND


class PullClient:
    """Pulls small tasks as a worker does, and keeps the deliveries; publishes tasks and inspects the queues."""

    def __init__(self, connection: Connection, names: Namespace, clock: Clock = boottime) -> None:
        self.connection = connection
        self.names = names
        self.delivered: list[Delivery] = []
        self.on_delivery: Any = None
        self.consumers = [names.consumer(priority, Size.SMALL) for priority in Priority]
        self.pull = StrictPriorityPull(connection, names.tasks_stream, self.consumers, self._deliver, clock)

    def _deliver(self, delivery: Delivery) -> None:
        self.delivered.append(delivery)
        if self.on_delivery is not None:
            self.on_delivery(delivery)

    @property
    def bodies(self) -> list[str]:
        """The bodies of the deliveries, in order."""
        return [delivery.body.decode() for delivery in self.delivered]

    async def put(self, priority: Priority, *bodies: str, connection: Connection | None = None) -> None:
        """Publish a message for each body."""
        subject = self.names.task_subject(priority, Size.SMALL)
        for body in bodies:
            await publish(connection or self.connection, subject, body.encode(), {})

    async def info(self, priority: Priority) -> dict[str, Any]:
        """The state of a consumer as the server reports it."""
        consumer = self.names.consumer(priority, Size.SMALL)
        return await self.connection.api(f"CONSUMER.INFO.{self.names.tasks_stream}.{consumer}")

    async def in_flight(self) -> int:
        """How many messages were delivered and are not settled."""
        return sum([(await self.info(priority))["num_ack_pending"] for priority in Priority])

    async def waiting_pulls(self) -> int:
        """How many pull requests wait on the server."""
        return sum([(await self.info(priority))["num_waiting"] for priority in Priority])

    async def left(self) -> int:
        """How many messages are not settled."""
        info = await self.connection.api(f"STREAM.INFO.{self.names.tasks_stream}")
        return int(info["state"]["messages"])

    async def probed(self, count: int) -> bool:
        """Probe once; return whether `count` messages have been delivered in all."""
        await self.pull.probe(10)
        return len(self.delivered) >= count

    async def polling(self, slots: int = 3) -> asyncio.Task[str]:
        """Start a `wait`, and return it once its requests have reached the server."""
        waiting = asyncio.create_task(self.pull.wait(slots))

        async def all_asked() -> bool:
            return await self.waiting_pulls() == len(self.consumers)

        await wait_until(all_asked, description="all three long polls wait on the server")
        return waiting


@asynccontextmanager
async def pulling(connection: Connection, names: Namespace, clock: Clock = boottime) -> AsyncIterator[PullClient]:
    puller = PullClient(connection, names, clock)
    await puller.pull.start()
    try:
        yield puller
    finally:
        await puller.pull.stop()


class Settled:
    """Acks whatever comes, and counts it."""

    def __init__(self, puller: PullClient) -> None:
        self.seen: Counter[str] = Counter()
        self.again = 0
        puller.on_delivery = self._settle

    def _settle(self, delivery: Delivery) -> None:
        self.seen[delivery.body.decode()] += 1
        self.again += delivery.delivered != 1
        delivery.ack()


async def pull_beside_a_trickle(puller: PullClient, producer: Connection, count: int, limit: float) -> Settled:
    """Probe and wait in turns until `count` messages, that `producer` publishes meanwhile, have come.

    Args:
        limit: Seconds until it fails, less than `ack_wait`: a message that nobody reads comes back only then.
    """
    settled = Settled(puller)
    # Seeded by the test run; the gaps are what is tested: shorter and longer than a round trip.
    gaps = random.Random(random.random())

    async def produce() -> None:
        for number in range(count):
            await puller.put(gaps.choice(list(Priority)), str(number), connection=producer)
            await asyncio.sleep(gaps.choice((0, 0.0002, 0.001, 0.003)))

    producing = asyncio.create_task(produce())
    waits = 0
    async with asyncio.timeout(limit):
        while len(settled.seen) < count:
            found, problem = await puller.pull.probe(1 + waits % 4)
            assert problem is None
            if not found:
                waits += 1
                assert await puller.pull.wait(1 + waits % 4) == ""
    await producing
    assert waits > count / 10
    assert settled.seen == Counter(str(number) for number in range(count))
    return settled


def labels(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]
