"""A crowd behind one lock asks the server for it once in a while, and keeps nobody else waiting. The wait of one task
grows, also from one worker to the next.

What a crowd costs is measured by `scripts/bench crowd`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import MutexLock
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.testing import wait_until
from support.lock_mesh import lock_mesh, worker_process
from support.lock_tasks import Crowded, Free, Patient, lines_of
from support.locking import new_owner
from support.processes import LoggedProcess

CROWD = 2_000
OTHERS = 100


def begun(journal: Path, what: str) -> list[int]:
    """When the tasks of one kind began, in nanoseconds."""
    return [int(line.split()[0]) for line in lines_of(journal) if f" {what} " in line]


@asynccontextmanager
async def lock_requests(broker: JetStreamBroker) -> AsyncIterator[list[str]]:
    """The subjects of all that is asked of the bucket of locks meanwhile."""
    bucket, asked = broker.namespace.locks_bucket, list[str]()

    async def note(message: Any) -> None:
        asked.append(message.subject)

    client = broker.connection.client
    subjects = (f"$KV.{bucket}.>", f"$JS.API.STREAM.MSG.*.KV_{bucket}", f"$JS.API.STREAM.INFO.KV_{bucket}")
    subscriptions = [await client.subscribe(subject, cb=note) for subject in subjects]
    await client.flush()
    yield asked
    for subscription in subscriptions:
        await subscription.unsubscribe()


@asynccontextmanager
async def crowded_worker(broker: JetStreamBroker, url: str, journal: Path, kind: str) -> AsyncIterator[None]:
    """A worker that has seen each of a crowd, and runs what wants no lock."""
    names = broker.namespace
    await broker.schedule_many([Crowded(kind, number) for number in range(CROWD)])

    async def all_looked_at() -> bool:
        info = await broker.connection.api(f"CONSUMER.INFO.{names.tasks_stream}.normal-small")
        return bool(info["num_pending"] == 0)

    async with lock_requests(broker) as asked, worker_process(url, names.name, journal, slots=100, lock_retry_delay=5):
        await wait_until(all_looked_at, description="each of the crowd was looked at", timeout=60)
        # Those that a rate limit lets in meanwhile ask, too, and the slower the machine is the more are let in.
        most = CROWD / 5 + 3 * len(begun(journal, "crowded"))
        assert 0 < len(asked) < most, "a key known to be busy is answered from memory"
        await broker.schedule_many([Free(number) for number in range(OTHERS)])
        await wait_until(lambda: len(begun(journal, "free")) == OTHERS, description="the others have begun", timeout=30)
        yield


async def test_a_crowd_behind_one_held_mutex(server: EmbeddedServer, namespace: str, journal: Path) -> None:
    async with (
        lock_mesh(server.url, namespace) as broker,
        LockKeeper(Bucket(broker.connection, broker.namespace.locks_bucket)) as keeper,
        keeper.hold([MutexLock(JOB, "crowd")], new_owner("another-process"), lambda: None),
        crowded_worker(broker, server.url, journal, "mutex"),
    ):
        assert begun(journal, "crowded") == []


async def test_a_crowd_behind_a_rate_limit(server: EmbeddedServer, namespace: str, journal: Path) -> None:
    async with lock_mesh(server.url, namespace) as broker, crowded_worker(broker, server.url, journal, "rate"):
        await wait_until(lambda: len(begun(journal, "crowded")) > 10, description="the window moves on")


def waits(worker: LoggedProcess, vo: str) -> list[float]:
    """The waits of the task of one VO, in seconds, as its worker logged them."""
    return [float(seconds) for seconds in re.findall(rf"waits ([\d.]+) s: mutex\.job\.{vo} ", worker.log)]


def _waits_longer(worker: LoggedProcess, vo: str, seconds: float) -> bool:
    return max(waits(worker, vo), default=0.0) > seconds


async def test_the_wait_of_a_task_grows_through_a_restart_of_its_worker_and_another_has_its_own_say(
    server: EmbeddedServer, namespace: str, journal: Path
) -> None:
    async with (
        lock_mesh(server.url, namespace) as broker,
        LockKeeper(Bucket(broker.connection, broker.namespace.locks_bucket)) as keeper,
    ):
        async with keeper.hold([MutexLock(JOB, vo) for vo in ("atlas", "lhcb")], new_owner("elsewhere"), lambda: None):
            await broker.submit_many([Patient("atlas"), Patient("lhcb", keen=True)])
            for base in (0.2, 1.6):
                async with worker_process(
                    server.url, namespace, journal, slots=4, lock_retry_delay=0.2, log_level="debug"
                ) as worker:
                    waits_long = partial(_waits_longer, worker, "atlas", 1.6)
                    await wait_until(waits_long, description="atlas waits for long", timeout=30)
                    assert 0.7 * base < waits(worker, "atlas")[0]
                    assert set(waits(worker, "lhcb")) == {0.1}
            assert lines_of(journal) == []
        async with worker_process(server.url, namespace, journal, slots=4, lock_retry_delay=0.2):
            await wait_until(lambda: len(lines_of(journal)) == 2, description="both run", timeout=30)
