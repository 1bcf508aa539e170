"""One worker of `parked` as a process: `parked_contender.py drain|serve URL NAMESPACE SLOTS`.

`drain` ends when no due task is left. It prints as JSON how many tasks it settled, and how many a second from the first
settlement to the flush of the last ack. `serve` prints as JSON how many seconds it took until its first pull was
answered, then the lines of its tasks, and ends at SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.worker import Worker
from parked_tasks import registry
from processes import worker_on

POLL_SECONDS = 0.002


@asynccontextmanager
async def worker(url: str, namespace: str, slots: int, settled: list[float], *, burst: bool) -> AsyncIterator[Worker]:
    """A worker of small tasks, not started; it appends the time of each settlement, and that of the last flush."""
    async with JetStreamBroker.connect(url, namespace=namespace, registry=registry(), role="worker") as broker:
        yield worker_on(broker, slots, burst=burst, on_outcome=lambda *_: settled.append(time.perf_counter()))
        await broker.connection.client.flush()
        settled.append(time.perf_counter())


async def drain(url: str, namespace: str, slots: int) -> None:
    """Work until no due task is left."""
    settled: list[float] = []
    async with worker(url, namespace, slots, settled, burst=True) as contender:
        await contender.run()
    print(json.dumps({"settled": len(settled) - 1, "per_second": (len(settled) - 2) / (settled[-1] - settled[0])}))


async def serve(url: str, namespace: str, slots: int) -> None:
    """Work until SIGTERM."""
    async with worker(url, namespace, slots, [], burst=False) as contender:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, contender.stop)
        begun = time.perf_counter()
        running = asyncio.create_task(contender.run())
        while contender.snapshot.last_pull is None and not running.done():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(POLL_SECONDS)
        print(json.dumps({"start_seconds": time.perf_counter() - begun}), flush=True)
        await running


def main() -> None:
    """Run in one of the two modes."""
    mode, url, namespace, slots = sys.argv[1:]
    asyncio.run({"drain": drain, "serve": serve}[mode](url, namespace, int(slots)))


if __name__ == "__main__":
    main()
