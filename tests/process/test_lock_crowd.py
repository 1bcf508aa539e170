"""A crowd behind one lock costs its worker little, and keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import lock_tasks
import pytest
from lock_tasks import Crowded, Free, lines_of
from locking import holder

from diracx.tasks.plumbing.embedded import EmbeddedServer
from diracx.tasks.plumbing.execution.holding import LockKeeper
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import MutexLock
from diracx.tasks.testing import wait_until

WORKER = Path(lock_tasks.__file__).with_name("lock_worker.py")
CROWD = int(os.environ.get("LOCK_CROWD", "3000"))
OTHERS = 100
OBSERVED_SECONDS = 4


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.touch()
    return path


@asynccontextmanager
async def mesh(url: str, namespace: str) -> AsyncIterator[JetStreamBroker]:
    async with JetStreamBroker.connect(url, namespace=namespace, registry=lock_tasks.registry()) as broker:
        yield broker
        for stream in (await broker.connection.api("STREAM.NAMES"))["streams"]:
            if stream.removeprefix("KV_").lower().startswith(f"{namespace}_"):
                await broker.connection.api(f"STREAM.DELETE.{stream}")


@asynccontextmanager
async def worker(url: str, namespace: str, journal: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(WORKER), url, namespace, "100", "5",
        env=os.environ | {lock_tasks.JOURNAL_VARIABLE: str(journal)},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        await process.wait()


def begun(journal: Path, what: str) -> list[int]:
    """When the tasks of one kind began, in nanoseconds."""
    return [int(line.split()[0]) for line in lines_of(journal) if f" {what} " in line]


def cpu_seconds(process: asyncio.subprocess.Process) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def observe(broker: JetStreamBroker, url: str, journal: Path, kind: str) -> None:
    names = broker.namespace
    await broker.schedule_many([Crowded(kind, number) for number in range(CROWD)])

    async def all_wait() -> bool:
        info = await broker.connection.api(f"CONSUMER.INFO.{names.tasks_stream}.normal-small")
        return bool(info["num_pending"] == 0)

    async with worker(url, names.name, journal) as process:
        await wait_until(all_wait, description="each of the crowd was looked at once", timeout=60)
        # What was in hand is settled within a moment; then the crowd is at rest.
        await asyncio.sleep(1)
        before, started = cpu_seconds(process), time.monotonic()
        await asyncio.sleep(OBSERVED_SECONDS)
        busy = (cpu_seconds(process) - before) / (time.monotonic() - started)
        submitted = time.monotonic_ns()
        await broker.schedule_many([Free(number) for number in range(OTHERS)])
        await wait_until(lambda: len(begun(journal, "free")) == OTHERS, description="the others have begun", timeout=30)
        late = (max(begun(journal, "free")) - submitted) / 1e9
    assert busy < 0.1, f"the crowd costs {100 * busy:.0f} % of a core"
    assert late < 1, f"the last of the others began after {late:.1f} s"


async def test_a_crowd_behind_one_held_mutex(server: EmbeddedServer, namespace: str, journal: Path) -> None:
    async with mesh(server.url, namespace) as broker:
        keeper = LockKeeper(Bucket(broker.connection, broker.namespace.locks_bucket))
        watching = asyncio.create_task(keeper.run())
        async with keeper.holding([MutexLock(JOB, "crowd")], holder("another-process"), lambda: None):
            await observe(broker, server.url, journal, "mutex")
        watching.cancel()
        await asyncio.wait([watching])
    assert begun(journal, "crowded") == []


async def test_a_crowd_behind_a_rate_limit(server: EmbeddedServer, namespace: str, journal: Path) -> None:
    async with mesh(server.url, namespace) as broker:
        await observe(broker, server.url, journal, "rate")
    admitted = begun(journal, "crowded")
    # The first ten are admitted at once.
    rate = (len(admitted) - 10) / ((admitted[-1] - admitted[0]) / 1e9)
    assert 5 <= rate <= 10.5, f"{rate:.1f} a second"
