"""One contender of `drain` as a process: `drain_contender.py bare|worker URL SLOTS TASKS asyncio|uvloop`.

It prints its figures as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module

import msgspec
import nats

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.wire.names import Namespace
from noop import Noop, registry
from processes import worker_on


def stopwatch(tasks: int) -> Callable[[], dict[str, float]]:
    """Start now; the function that is returned reads the speed and the CPU time a task since."""
    started, cpu_started = time.perf_counter(), time.process_time()

    def read() -> dict[str, float]:
        cpu = time.process_time() - cpu_started
        return {
            "per_second": tasks / (time.perf_counter() - started),
            "cpu_microseconds": cpu / tasks * 1_000_000,
        }

    return read


async def bare(url: str, batch: int, tasks: int) -> dict[str, float]:
    """The loop that one would write with nats-py alone: fetch, read the header, decode, ack."""
    names = Namespace("diracx")
    client = await nats.connect(url)
    consumer = await client.jetstream().pull_subscribe_bind(
        names.consumer(Priority.NORMAL, Size.SMALL), stream=names.tasks_stream
    )
    decoder = msgspec.json.Decoder(Noop)
    done = 0
    read = stopwatch(tasks)
    while done < tasks:
        for message in await consumer.fetch(batch, timeout=10):
            if message.headers is None or message.headers["Task-Name"] != "bench:Noop":
                raise SystemExit("error: not the message that was submitted")
            decoder.decode(message.data)
            await message.ack()
            done += 1
    await client.flush()
    measured = read()
    await client.close()
    return measured


async def worker(url: str, slots: int, tasks: int) -> dict[str, float]:
    """The worker of this project, until the queue is empty."""
    async with JetStreamBroker.connect(url, registry=registry(), role="worker") as broker:
        contender = worker_on(broker, slots, burst=True)
        gc.freeze()  # as the command does
        read = stopwatch(tasks)
        await contender.run()
        await broker.connection.client.flush()
        measured = read()
    if contender.processed != tasks:
        raise SystemExit(f"error: {contender.processed} of {tasks} tasks were processed")
    return measured


def main() -> None:
    """Run one of the two contenders."""
    mode, url, slots, tasks, loop = sys.argv[1:]
    contend = {"bare": bare, "worker": worker}[mode]
    new_loop = import_module(loop).new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        print(json.dumps(runner.run(contend(url, int(slots), int(tasks)))))


if __name__ == "__main__":
    main()
