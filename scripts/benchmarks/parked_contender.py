"""One worker of `parked`, as a process: drain|serve URL NAMESPACE SLOTS.

`drain` ends when nothing is left that is due, and writes as JSON how fast it was from the first task that was settled
to the flush of the last answer. `serve` writes after how many seconds its first pull was answered, then whatever its
tasks write, and ends by SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from parked_tasks import registry

_LOOK_SECONDS = 0.002


@asynccontextmanager
async def worker(url: str, namespace: str, slots: int, settled: list[float], *, burst: bool) -> AsyncIterator[Worker]:
    """A worker of small tasks; when each was settled goes into the list."""
    tasks = registry()
    async with JetStreamBroker.connect(url, namespace=namespace, registry=tasks, role="worker") as broker:
        settings = WorkerSettings(size=Size.SMALL, max_concurrent_tasks=slots, burst=burst)
        yield Worker(
            broker.connection,
            broker.namespace,
            tasks,
            Injector(),
            settings,
            on_outcome=lambda *_: settled.append(time.perf_counter()),
        )
        await broker.connection.client.flush()
        settled.append(time.perf_counter())


async def drain(url: str, namespace: str, slots: int) -> None:
    """Work until nothing is left that is due."""
    settled: list[float] = []
    async with worker(url, namespace, slots, settled, burst=True) as contender:
        await contender.run()
    print(json.dumps({"settled": len(settled) - 1, "per_second": (len(settled) - 2) / (settled[-1] - settled[0])}))


async def serve(url: str, namespace: str, slots: int) -> None:
    """Work until told to stop."""
    async with worker(url, namespace, slots, [], burst=False) as contender:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, contender.stop)
        begun = time.perf_counter()
        running = asyncio.create_task(contender.run())
        while contender.snapshot.last_pull is None and not running.done():  # noqa: ASYNC110 - it tells by a number
            await asyncio.sleep(_LOOK_SECONDS)
        print(json.dumps({"start_seconds": time.perf_counter() - begun}), flush=True)
        await running


def main() -> None:
    """Run one of the two."""
    mode, url, namespace, slots = sys.argv[1:]
    asyncio.run({"drain": drain, "serve": serve}[mode](url, namespace, int(slots)))


if __name__ == "__main__":
    main()
