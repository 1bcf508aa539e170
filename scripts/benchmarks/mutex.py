"""Tasks under a lock that is free, beside the bare operations on its bucket.

- mutex: each task has a key of its own. The floor is nats-py's create and delete of as many keys at a time.
- concurrency limiter: there is always a free slot. The floor is the same.
- rate limiter: there is always room. The floor is the create alone, since an admission is never freed, but expires.

The message of the task itself is not in the floor. One more comparison, to which nothing is promised, has it there:
fetch, create, delete, ack.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
from itertools import count
from typing import Final

from nats.aio.msg import Msg
from nats.js.kv import KeyValue

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import DEFAULT_TTL_MS, BaseLock, ConcurrencyLimiter, MutexLock, RateLimiter
from figures import Comparisons
from ways import Bench, Way, compare, in_lanes, on_a_server, watch
from ways import add_options as add_options

SUMMARY: Final = "tasks under a free mutex or limiter, beside the bare operations on the bucket"
BOUND: Final = 1.3
MANY: Final = 10**9
"""So many slots that a random one of them is free."""


@dataclasses.dataclass
class Locked(BaseTask):
    """Does nothing under a lock of one of the three kinds."""

    kind: str
    key: int

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        """The lock."""
        match self.kind:
            case "mutex":
                return [MutexLock(JOB, self.key)]
            case "concurrency":
                return [ConcurrencyLimiter(JOB, "all", limit=MANY)]
        return [RateLimiter(JOB, "all", limit=MANY, window_seconds=1)]

    async def execute(self) -> None:
        """Do nothing."""
        watch.start()


def run(options: argparse.Namespace) -> Comparisons:
    """Measure all kinds."""
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> Comparisons:
    async with on_a_server(Locked) as bench:
        bucket = await bench.jetstream.key_value(bench.names.locks_bucket)
        ways = [_way(bench, bucket, "mutex", slots, BOUND) for slots in (100, 10)]
        ways += [_way(bench, bucket, "mutex", slots, None, with_message=True) for slots in (100, 10)]
        ways += [_way(bench, bucket, kind, 100, None) for kind in ("concurrency", "rate")]
        return await compare(ways, options)


def _way(
    bench: Bench, bucket: KeyValue, kind: str, slots: int, bound: float | None, *, with_message: bool = False
) -> Way:
    keys = count()

    async def ours(tasks: int) -> None:
        await bench.submit([Locked(kind, next(keys)) for _ in range(tasks)])
        await bench.drain(tasks, slots)
        await bench.ensure_drained()

    async def pair(number: int) -> None:
        key = f"bare.{kind}.{slots}.{next(keys)}"
        await bucket.create(key, b"x" * 150, msg_ttl=DEFAULT_TTL_MS / 1000)
        if kind != "rate":
            await bucket.delete(key)

    async def bare(tasks: int) -> None:
        await in_lanes(slots, tasks, pair)

    async def handle(message: Msg) -> None:
        await pair(0)
        await message.ack()

    async def bare_with_message(tasks: int) -> None:
        await bench.submit([Locked(kind, next(keys)) for _ in range(tasks)])
        watch.start(anew=True)
        await bench.fetch(tasks, slots, handle)
        watch.stop()
        await bench.ensure_drained()

    if with_message:
        floor = f"  fetch, create, delete, ack, {slots} at a time"
        return Way(f"{kind}, {slots} slots, with its message", floor, ours, bare_with_message, bound)
    name = kind if kind == "mutex" else f"{kind} limiter"
    operations = "create" if kind == "rate" else "create and delete"
    return Way(f"{name}, {slots} slots", f"  {operations}, {slots} at a time", ours, bare, bound)
