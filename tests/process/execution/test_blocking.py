"""Tasks that block: on a thread of their own they disturb no other, on the shared loop a warning names them."""

from __future__ import annotations

import re

import msgspec
import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.long_tasks import install, submit
from support.processes import worker_process
from support.queues import set_ack_wait

ACK_WAIT = 1.5
LOCK = "mutex.job.sleeper"


@pytest.fixture
async def long_tasks(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    install(bare)
    bare.environment["DIRACX_TASKS_NATS_URL"] = server.url
    await on_the_server.set_up()
    return bare


async def test_a_medium_task_that_sleeps_for_three_times_its_lease_runs_once_and_keeps_its_lock(
    long_tasks: CommandLine, on_the_server: OnTheServer
) -> None:
    await set_ack_wait(on_the_server.connection, on_the_server.names, ACK_WAIT, [Size.MEDIUM])
    await submit(on_the_server, "BlocksThread", Size.MEDIUM, b'{"seconds":%f}' % (3 * ACK_WAIT))
    bucket = Bucket(on_the_server.connection, on_the_server.names.locks_bucket)
    holders: set[str] = set()
    revisions: set[int] = set()
    gaps: list[int] = []

    async def settled() -> bool:
        begun = bool(long_tasks.journal())
        entry = await bucket.read(LOCK)
        if entry is not None:
            revisions.add(entry.revision)
            holders.add(str(msgspec.json.decode(entry.value)))
        elif begun and len(long_tasks.journal()) == 1:
            gaps.append(len(revisions))
        return await on_the_server.waiting() == 0

    with worker_process(long_tasks, Size.MEDIUM) as first, worker_process(long_tasks, Size.MEDIUM) as second:
        await wait_until(settled, description="it is done", timeout=60)
        (begin, end) = long_tasks.journal()
        assert (begin.split()[0], end.split()[0]) == ("begin", "end")
        assert begin.split()[1] == end.split()[1]
        assert not gaps, "its lock was free while it slept"
        assert len(holders) == 1, "it was taken once"
        assert len(revisions) > 2, "and renewed while the thread slept"
        assert await on_the_server.attempts() == 0
        assert (await first.stop(), await second.stop()) == (0, 0)


async def test_a_small_task_that_blocks_the_shared_loop_is_named_while_it_does(
    long_tasks: CommandLine, on_the_server: OnTheServer
) -> None:
    await submit(on_the_server, "BlocksLoop", Size.SMALL)
    with worker_process(long_tasks, Size.SMALL) as worker:
        await worker.logs("has held up the event loop")
        (long_tasks.folder / "free").touch()

        async def done() -> bool:
            return await on_the_server.waiting() == 0

        await wait_until(done, description="it is done", timeout=30)
        assert await worker.stop() == 0
    (warning,) = (line for line in worker.log.splitlines() if "has held up" in line)
    named = r"long:BlocksLoop an-id has held up the event loop for \d+\.\d s, at .*long_tasks/tasks\.py:\d+ in execute"
    assert " WARNING " in warning
    assert re.search(named, warning)
    assert "tasks that block belong in size MEDIUM or LARGE" in warning
