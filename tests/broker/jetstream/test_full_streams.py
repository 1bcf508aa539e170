"""A full queue refuses publishers, while tasks in flight, their locks and their settlement go on."""

from __future__ import annotations

import asyncio
import dataclasses
import re

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.dead_letters.dead_tasks import dead_tasks
from diracx.tasks.plumbing.dead_letters.replay import Replayer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import SendTaskError
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.testing import wait_until
from support.failing_tasks import Dies
from support.mesh import TaskMesh

running: list[int] = []
ended: list[int] = []
gate: list[asyncio.Event] = []


@dataclasses.dataclass
class Holds(BaseTask):
    """Holds a lock, which is renewed while it runs."""

    key: int
    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.key, ttl_ms=2001)]

    async def execute(self) -> None:
        running.append(self.key)
        await gate[0].wait()
        ended.append(self.key)


async def test_a_full_queue_refuses_publishers_while_locks_and_settlements_go_on(mesh: TaskMesh) -> None:
    running.clear()
    ended.clear()
    gate[:] = [asyncio.Event()]
    mesh.register(Holds)
    stream = mesh.namespace.tasks_stream
    for key in range(4):
        await Holds(key).schedule()
    async with mesh.working(slots=2):
        await wait_until(lambda: len(running) == 2, description="two are running")
        await mesh.edit_stream(stream, max_bytes=(await mesh.state())["bytes"])
        with pytest.raises(SendTaskError, match=f"the stream {stream} is full"):
            await Holds(9).schedule()
        keys = [f"mutex.job.{key}" for key in running]
        before = [entry.revision for key in keys if (entry := await mesh.locks.read(key)) is not None]
        assert len(before) == 2

        async def renewed() -> bool:
            entries = [await mesh.locks.read(key) for key in keys]
            return all(entry is not None and entry.revision > old for entry, old in zip(entries, before, strict=True))

        await wait_until(renewed, description="their locks are renewed")
        gate[0].set()
        await wait_until(lambda: sorted(ended) == [0, 1, 2, 3], description="all are done, the waiting ones too")
    assert await mesh.waiting() == 0
    await Holds(9).schedule()
    await mesh.burst()
    assert ended[-1] == 9


async def test_a_limit_of_messages_is_raised_by_the_option_that_is_named(mesh: TaskMesh) -> None:
    mesh.register(Holds, Dies)
    await Dies().schedule()
    await mesh.burst()
    (letter,) = [each async for each in dead_tasks(mesh.connection, mesh.namespace, lambda _: True, last=2)]
    stream = mesh.namespace.tasks_stream
    await Holds(1).schedule()
    await mesh.edit_stream(stream, max_msgs=1)
    mends = f"`nats stream edit {stream} --max-msgs=...`"
    with pytest.raises(SendTaskError, match=re.escape(mends)):
        await Holds(2).schedule()
    with pytest.raises(SendTaskError, match=re.escape(mends)):
        await Replayer(mesh.connection, mesh.namespace).replay(letter)
    mesh.allows_residue = True
