"""The latest failures of all workers: the newest first, and bounded."""

from __future__ import annotations

import dataclasses
from contextlib import AsyncExitStack

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream.micro import ask_all, serving
from diracx.tasks.plumbing.operations.recent_failures import recent_failures
from diracx.tasks.plumbing.operations.worker_service import ENDED, advertised, worker_service
from diracx.tasks.plumbing.worker.snapshot import Counters
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.answering import earlier_worker
from support.mesh import TaskMesh
from support.recording_tasks import Record

HOSTILE = "\x1b[31m<script>\n"


@dataclasses.dataclass
class Breaks(BaseTask):
    n: int
    size = Size.SMALL

    async def execute(self) -> None:
        raise ValueError(f"{HOSTILE}{self.n}")


@dataclasses.dataclass
class Dies(Breaks):
    """Becomes a dead letter by its first failure."""

    dlq_eligible = True


async def test_the_failures_of_a_worker_are_told_the_newest_first_and_successes_are_not(mesh: TaskMesh) -> None:
    recording_tasks.reset()
    mesh.register(Record, Breaks)
    counters = Counters()
    async with (
        mesh.working(slots=1, counters=counters) as worker,
        advertised(worker, counters, mesh.connection, mesh.namespace),
    ):
        ids = [await Breaks(n).schedule() for n in range(3)]
        await Record(0).schedule()
        await wait_until(lambda: counters.deliveries == 4, description="all have ended")
        found = await recent_failures(mesh.connection, mesh.namespace)
        latest = await recent_failures(mesh.connection, mesh.namespace, limit=1)
    assert [each.ended.id for each in found] == ids[::-1]
    assert latest == found[:1]
    assert (found[0].worker, found[0].size) == (worker.id, Size.SMALL)
    ended = found[0].ended
    assert (ended.task, ended.queue, ended.outcome) == ("test:Breaks", "normal-small", "discarded")
    assert found[0].outcome == "dropped", "as logs and counts call it"
    assert (ended.error, ended.message, ended.attempt) == ("ValueError", f"{HOSTILE}2", 1)
    assert 0 <= ended.seconds < 60


async def test_a_task_that_dies_at_its_first_attempt_says_so(mesh: TaskMesh) -> None:
    mesh.register(Dies)
    counters = Counters()
    async with (
        mesh.working(counters=counters) as worker,
        advertised(worker, counters, mesh.connection, mesh.namespace),
    ):
        await Dies(1).schedule()
        await wait_until(lambda: counters.deliveries == 1, description="it has ended")
        (failure,) = await recent_failures(mesh.connection, mesh.namespace)
    assert (failure.ended.outcome, failure.ended.attempt) == ("dead", 1)


async def test_a_worker_of_an_earlier_version_has_no_failures_to_tell(mesh: TaskMesh) -> None:
    earlier = earlier_worker(mesh.namespace)
    async with serving(mesh.connection, earlier):
        assert await recent_failures(mesh.connection, mesh.namespace) == []


async def test_a_question_that_cannot_be_read_is_not_answered(mesh: TaskMesh) -> None:
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(mesh.working())
        await stack.enter_async_context(advertised(worker, Counters(), mesh.connection, mesh.namespace))
        assert await ask_all(mesh.connection, worker_service(mesh.namespace), ENDED, b'{"limit":"all"}') == []
