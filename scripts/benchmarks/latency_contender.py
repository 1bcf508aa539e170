"""One contender of `latency` as a process: `latency_contender.py bare|worker URL NAMESPACE`, until it is killed.

It prints `ready`, then a line for each task: when it began, in nanoseconds of the clock that all processes share.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import sys
import time

import msgspec
import nats

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace
from processes import worker_on

SLOTS = 100


def tell_begun() -> None:
    """Print the time."""
    print(time.monotonic_ns(), flush=True)


@dataclasses.dataclass
class Begins(BaseTask):
    """Tells when it began; has one field, as most tasks do."""

    owner_name: str

    size = Size.SMALL

    async def execute(self) -> None:
        """Tell it."""
        tell_begun()


def registry() -> TaskRegistry:
    """A registry of this task."""
    tasks = TaskRegistry()
    tasks.add("bench:Begins", Begins)
    return tasks


async def bare(url: str, namespace: str) -> None:
    """The loop that one would write with nats-py alone: fetch one, read the header, decode, begin, ack."""
    names = Namespace(namespace)
    client = await nats.connect(url)
    consumer = await client.jetstream().pull_subscribe_bind(
        names.consumer(Priority.NORMAL, Size.SMALL), stream=names.tasks_stream
    )
    decoder = msgspec.json.Decoder(Begins)
    gc.freeze()
    print("ready", flush=True)
    while True:
        with contextlib.suppress(nats.errors.TimeoutError):
            for message in await consumer.fetch(1, timeout=30):
                if message.headers is None or message.headers["Task-Name"] != "bench:Begins":
                    raise SystemExit("error: not the message that was submitted")
                decoder.decode(message.data)
                tell_begun()
                await message.ack()


async def worker(url: str, namespace: str) -> None:
    """The worker of this project."""
    async with JetStreamBroker.connect(url, namespace=namespace, registry=registry(), role="worker") as broker:
        contender = worker_on(broker, SLOTS)
        gc.freeze()  # as the command does
        print("ready", flush=True)
        await contender.run()


def main() -> None:
    """Run one of the two contenders."""
    mode, url, namespace = sys.argv[1:]
    asyncio.run({"bare": bare, "worker": worker}[mode](url, namespace))


if __name__ == "__main__":
    main()
