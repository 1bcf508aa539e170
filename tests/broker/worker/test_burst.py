"""Bursts on a real server: when nothing is left that is due, and what tasks submit meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase
from diracx.tasks.plumbing.submitter import current_task_id
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.recording_tasks import Record, Wait, ran, running


@pytest.fixture(autouse=True)
async def fresh() -> None:
    recording_tasks.reset()


@dataclasses.dataclass
class Child(BaseTask):
    n: int
    size = Size.SMALL

    async def execute(self) -> None:
        ran.append(("child", self.n, current_task_id.get()))


@dataclasses.dataclass
class Parent(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
        ids = [await Child(n).schedule() for n in range(3)]
        ran.append(("parent", current_task_id.get(), ids))


async def test_the_children_that_a_task_submits_name_it_as_their_parent(mesh: TaskMesh) -> None:
    class LaterChild(Child):
        size = Size.LARGE

    class Grandparent(Parent):
        async def execute(self) -> None:
            await LaterChild(1).schedule()

    mesh.register(LaterChild, Grandparent)
    parent = await Grandparent().schedule()
    await mesh.burst()
    (child,) = await mesh.stored(mesh.namespace.tasks_stream)
    assert child.headers["Task-Name"] == "test:LaterChild"
    assert child.headers["Task-Parent"] == parent
    await mesh.burst(size=Size.LARGE)


async def test_a_burst_runs_the_children_of_what_it_runs(mesh: TaskMesh) -> None:
    mesh.register(Parent, Child)
    await mesh.broker.schedule_many(Parent() for _ in range(20))
    worker = await mesh.burst(slots=3)
    parents = [seen for seen in ran if seen[0] == "parent"]
    children = [seen for seen in ran if seen[0] == "child"]
    assert len(parents) == 20
    assert sorted(task_id for _, _, task_id in children) == sorted(task_id for _, _, ids in parents for task_id in ids)
    assert worker.processed == 80


async def test_a_burst_waits_for_what_a_running_task_may_still_submit(mesh: TaskMesh) -> None:
    class SlowParent(Wait):
        async def execute(self) -> None:
            await super().execute()
            await Child(self.n).schedule()

    mesh.register(SlowParent, Child)
    await SlowParent(1).schedule()
    burst = asyncio.create_task(mesh.burst())
    await wait_until(lambda: running, description="the parent runs")
    # As many round trips as the burst needs to see that the queues are empty.
    for _ in range(10):
        await mesh.waiting()
    recording_tasks.go.set()
    await burst
    assert [seen[:2] for seen in ran if isinstance(seen, tuple)] == [("child", 1)]


async def test_a_burst_on_empty_queues_ends(mesh: TaskMesh) -> None:
    mesh.register(Record)
    assert (await mesh.burst()).processed == 0


async def test_a_burst_does_not_wait_for_a_retry_that_is_not_due(mesh: TaskMesh) -> None:
    class InAnHour(RetryPolicyBase):
        def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
            return datetime.now(UTC) + timedelta(hours=1)

    class Later(Record):
        retry_policy = InAnHour()

        async def execute(self) -> None:
            await super().execute()
            raise ValueError("no")

    mesh.register(Later, Record)
    mesh.allows_residue = True
    await Later(1).schedule()
    await Record(2).schedule()
    await mesh.burst(slots=1)
    assert ran == [1, 2]
    assert await mesh.residue() == {"tasks": 1, "in flight": 1, "attempt records": 1}
