"""Four worker processes with many tasks and few locks, one of them killed half way."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.testing import wait_until
from support.lock_mesh import lock_mesh, worker_process
from support.lock_tasks import Inside, Visit, lines_of, overlaps, visits
from support.queues import set_ack_wait

WORKERS, SLOTS, KEYS = 4, 25, 20
TASKS = int(os.environ.get("LOCK_TASKS_COUNT", "600"))
ACK_WAIT_SECONDS = 4


@asynccontextmanager
async def impatient_mesh(url: str, namespace: str) -> AsyncIterator[JetStreamBroker]:
    """A mesh with a short `ack_wait`: messages return soon after a worker died."""
    async with lock_mesh(url, namespace) as broker:
        await set_ack_wait(broker.connection, broker.namespace, ACK_WAIT_SECONDS)
        yield broker


async def run_and_kill_one(broker: JetStreamBroker, url: str, journal: Path, tasks: list[BaseTask]) -> list[Visit]:
    """Run the tasks in four workers and kill one half way."""
    names = broker.namespace

    async def left() -> int:
        info = await broker.connection.api(f"STREAM.INFO.{names.tasks_stream}")
        return int(info["state"]["messages"])

    async def half_way() -> bool:
        return await left() <= len(tasks) // 2

    async def drained() -> bool:
        return await left() == 0

    async with AsyncExitStack() as workers:
        unlucky, *_ = [
            await workers.enter_async_context(
                worker_process(url, names.name, journal, slots=SLOTS, lock_retry_delay=0.2)
            )
            for _ in range(WORKERS)
        ]
        # Only now: on a slow machine the first worker would be done before the last one has started.
        await broker.schedule_many(tasks)
        await wait_until(half_way, description="half of the tasks are done", timeout=60)
        await unlucky.kill()
        killed = {str(unlucky.pid): time.monotonic_ns()}
        await wait_until(drained, description="all tasks are done", timeout=90)
    info = await broker.connection.api(f"STREAM.INFO.KV_{names.locks_bucket}")
    assert info["state"]["messages"] == 0, "locks are left"
    return visits(lines_of(journal), killed)


async def test_no_two_tasks_overlap_inside_a_mutex_and_all_succeed(
    server: EmbeddedServer, namespace: str, journal: Path
) -> None:
    tasks: list[BaseTask] = [Inside("mutex", number % KEYS, number) for number in range(TASKS)]
    async with impatient_mesh(server.url, namespace) as broker:
        stays = await run_and_kill_one(broker, server.url, journal, tasks)
    assert overlaps(stays) == []
    assert {visit.number for visit in stays} == {str(number) for number in range(TASKS)}
    assert len({visit.process for visit in stays}) > 1


async def test_no_writer_overlaps_others_and_readers_share(
    server: EmbeddedServer, namespace: str, journal: Path
) -> None:
    kinds = ["writer" if number // KEYS % 5 == 0 else "reader" for number in range(TASKS)]
    tasks: list[BaseTask] = [Inside(kind, number % KEYS, number) for number, kind in enumerate(kinds)]
    async with impatient_mesh(server.url, namespace) as broker:
        stays = await run_and_kill_one(broker, server.url, journal, tasks)
    met = overlaps(stays)
    assert not [pair for pair in met if "writer" in (pair[0].kind, pair[1].kind)]
    assert met, "readers never shared"
    assert {visit.number for visit in stays} == {str(number) for number in range(TASKS)}
