"""What a crowd behind one lock costs: the worker's CPU, and how long others wait for it.

The crowd is at rest when each task of it was looked at and put back; from then on its worker is watched, and some tasks
that want no lock are submitted. Each case has a server and a worker of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import crowd_worker
from crowd_worker import LOCKS, Crowded, Free
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import LockOwner, MutexLock

SUMMARY: Final = "many tasks behind one held mutex, or behind a rate limit: the worker's CPU, and how late others begin"
MOST_CPU: Final = 0.1
"""Of one core."""
LATEST: Final = 1.0
"""Seconds until the last of the others has begun."""
PATIENCE_SECONDS: Final = 120.0
HELD: Final = MutexLock(JOB, "crowd", ttl_ms=3_600_000)
"""By somebody who renews nothing and outlasts the measurement."""


@dataclass(frozen=True)
class Case:
    """What came out behind one lock."""

    lock: str
    cpu: float
    """Of one core."""
    late: float
    """In seconds, of the last of the others."""


@dataclass(frozen=True)
class CrowdReport:
    """What came out."""

    tasks: int
    others: int
    cases: list[Case]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        cases = {case.lock: {"cpu": round(case.cpu, 4), "late": round(case.late, 3)} for case in self.cases}
        return {"tasks": self.tasks, "others": self.others, "cases": cases}

    def text(self) -> str:
        """For people."""
        lines = [
            f"{case.lock:6} worker: {case.cpu:5.1%} of a core; the last of {self.others} others began after "
            f"{case.late:.3f} s"
            for case in self.cases
        ]
        return "\n".join([f"{self.tasks:,} tasks behind one lock", *lines])

    def missed(self) -> list[str]:
        """The promises that were not kept."""
        return [
            *(f"{c.lock}: {c.cpu:.1%} of a core, {MOST_CPU:.0%} is promised" for c in self.cases if c.cpu > MOST_CPU),
            *(f"{c.lock}: {c.late:.2f} s late, {LATEST:g} s is promised" for c in self.cases if c.late > LATEST),
        ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--tasks", type=int, default=10_000, metavar="N", help="how many in the crowd (10000)")
    parser.add_argument("--others", type=int, default=100, metavar="N", help="how many outside (100)")
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="how long the worker is watched (10)")


def run(options: argparse.Namespace) -> CrowdReport:
    """Measure."""

    async def measure() -> list[Case]:
        return [await _measure(lock, options.tasks, options.others, options.seconds) for lock in LOCKS]

    return CrowdReport(options.tasks, options.others, asyncio.run(measure()))


async def _measure(lock: str, tasks: int, others: int, seconds: float) -> Case:
    async with (
        EmbeddedServer() as server,
        JetStreamBroker.connect(server.url, registry=crowd_worker.registry()) as broker,
    ):
        bucket = Bucket(broker.connection, broker.namespace.locks_bucket)
        await HELD.acquire(bucket, LockOwner.new(task="bench:Somebody", id="0", worker="another process"))
        await broker.schedule_many([Crowded(lock)] * tasks)
        async with _worker(server.url) as worker:
            await _at_rest(broker)
            before, started = _cpu_seconds(worker.pid), time.monotonic()
            await asyncio.sleep(seconds)
            cpu = (_cpu_seconds(worker.pid) - before) / (time.monotonic() - started)
            submitted = time.monotonic_ns()
            await broker.schedule_many([Free()] * others)
            assert worker.stdout is not None
            async with asyncio.timeout(PATIENCE_SECONDS):
                begun = [int(await worker.stdout.readline()) for _ in range(others)]
    return Case(lock, cpu, (max(begun) - submitted) / 1e9)


async def _at_rest(broker: JetStreamBroker) -> None:
    """Wait until each message was delivered once, and what was in hand then is settled."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            info = await broker.connection.api(f"CONSUMER.INFO.{broker.namespace.tasks_stream}.normal-small")
            if not info["num_pending"]:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)


@asynccontextmanager
async def _worker(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(crowd_worker.__file__)), url, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        if await process.stdout.readline() != b"ready\n":
            raise SystemExit("error: the worker did not start")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
