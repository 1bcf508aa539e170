"""The cost of many tasks behind one lock: the CPU of their worker, and the delay of other tasks.

Measurement begins when every task of the crowd has been delivered and naked once. Then the CPU of the worker is
measured for a while, and tasks that need no lock are submitted. Each case has its own server and worker.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
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
from processes import running

SUMMARY: Final = "many tasks behind one held mutex, or behind a rate limit: the worker's CPU, and how late others begin"
MOST_CPU: Final = 0.1
"""Of one core."""
LATEST_SECONDS: Final = 1.0
"""Until the last of the other tasks has begun."""
TIMEOUT_SECONDS: Final = 120.0
HELD: Final = MutexLock(JOB, "crowd", ttl_ms=3_600_000)
"""Its owner never renews it, and its lease outlasts the measurement."""


@dataclass(frozen=True)
class Case:
    """The result for one lock."""

    lock: str
    cpu: float
    """Of one core."""
    late: float
    """In seconds, of the last of the other tasks."""


@dataclass(frozen=True)
class CrowdReport:
    """The results for all locks."""

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
        """A line for each promised bound that was missed."""
        return [
            *(f"{c.lock}: {c.cpu:.1%} of a core, {MOST_CPU:.0%} is promised" for c in self.cases if c.cpu > MOST_CPU),
            *(
                f"{c.lock}: {c.late:.2f} s late, {LATEST_SECONDS:g} s is promised"
                for c in self.cases
                if c.late > LATEST_SECONDS
            ),
        ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--tasks", type=int, default=10_000, metavar="N", help="how many in the crowd (10000)")
    parser.add_argument("--others", type=int, default=100, metavar="N", help="how many outside (100)")
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="how long the worker is watched (10)")


def run(options: argparse.Namespace) -> CrowdReport:
    """Measure all locks."""

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
        async with running("crowd_worker", server.url) as worker:
            if await worker.output.readline() != b"ready\n":
                raise SystemExit("error: the worker did not start")
            await _wait_until_all_are_naked(broker)
            before, started = _cpu_seconds(worker.process.pid), time.monotonic()
            await asyncio.sleep(seconds)
            cpu = (_cpu_seconds(worker.process.pid) - before) / (time.monotonic() - started)
            submitted = time.monotonic_ns()
            await broker.schedule_many([Free()] * others)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                begun = [int(await worker.output.readline()) for _ in range(others)]
    return Case(lock, cpu, (max(begun) - submitted) / 1e9)


async def _wait_until_all_are_naked(broker: JetStreamBroker) -> None:
    """Wait until every message has been delivered once, and a second longer for the last ones in flight."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            info = await broker.connection.api(f"CONSUMER.INFO.{broker.namespace.tasks_stream}.normal-small")
            if not info["num_pending"]:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
