"""What DiracX documents of `spawn_with_callback`, held against this project through its public names."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import nats
import pytest

from diracx.tasks.depends import CallbackSpawner, GroupOutcomes
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.callbacks import spawn_with_callback
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, LockOwner, MutexLock
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.testing import Discarded, Mesh, Succeeded, wait_until


@dataclasses.dataclass
class Doubles(BaseTask):
    """Returns twice its number, once it has the lock of that."""

    n: int
    result_ttl_seconds = 600

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.n)]

    async def execute(self) -> int:
        if self.n < 0:
            raise ValueError(f"{self.n} is below 0")
        return 2 * self.n


@dataclasses.dataclass
class Collects(BaseTask):
    """The callback: returns what it was told of each child."""

    async def execute(self, outcomes: GroupOutcomes) -> list[tuple[str, int | None]]:
        return [(each.status, each.value) async for each in outcomes]


@dataclasses.dataclass
class Parent(BaseTask):
    numbers: list[int]

    async def execute(self, spawn_with_callback: CallbackSpawner) -> str:
        return await spawn_with_callback([Doubles(n) for n in self.numbers], Collects(), ttl_seconds=3_600)


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[Mesh]:
    registry = TaskRegistry()
    for task_class in (Doubles, Collects, Parent):
        registry.add(f"test:{task_class.__name__}", task_class)
    async with Mesh.on(server.url, namespace, registry) as mesh:
        yield mesh


def callbacks(mesh: Mesh) -> list[object]:
    """The outcome of each time that a callback was executed."""
    return [each.outcome for each in mesh.outcomes if each.task == "test:Collects"]


async def test_all_children_are_scheduled_and_the_id_of_the_group_is_returned(mesh: Mesh) -> None:
    parent = await Parent([1, 2, 3]).schedule()
    delivered = {each.id: each.outcome for each in await mesh.work()}
    group = mesh.submitted(Doubles)[0].id.removesuffix("-0")
    assert delivered[parent] == Succeeded(group)
    assert [each.task.n for each in mesh.submitted(Doubles)] == [1, 2, 3]
    assert {each.parent for each in mesh.submitted(Doubles)} == {parent}
    assert [delivered[each.id] for each in mesh.submitted(Doubles)] == [Succeeded(2), Succeeded(4), Succeeded(6)]


async def test_the_callback_runs_after_the_last_child_and_not_earlier(mesh: Mesh) -> None:
    busy = await MutexLock(JOB, 2).acquire(mesh.locks, LockOwner.new(task="other", id="1", worker="elsewhere"))
    await spawn_with_callback([Doubles(1), Doubles(2)], Collects())
    await mesh.work()
    assert callbacks(mesh) == []
    await busy.release()
    await mesh.work()
    assert callbacks(mesh) == [Succeeded([("succeeded", 2), ("succeeded", 4)])]


async def test_a_child_that_completes_again_counts_once(mesh: Mesh, server: EmbeddedServer, namespace: str) -> None:
    busy = await MutexLock(JOB, 2).acquire(mesh.locks, LockOwner.new(task="other", id="1", worker="elsewhere"))
    group = await spawn_with_callback([Doubles(1), Doubles(2)], Collects())
    await mesh.work()
    again = {"Task-Name": "test:Doubles", "Task-Id": f"{group}-0", "Task-Group": f"{group}:0"}
    async with await nats.connect(server.url) as client:
        await client.jetstream().publish(f"{namespace}.tasks.normal.medium", b'{"n":-1}', headers=again)
    await mesh.work()
    assert [each.id for each in mesh.outcomes if isinstance(each.outcome, Discarded)] == [f"{group}-0"]
    assert callbacks(mesh) == []
    await busy.release()
    await mesh.work()
    assert callbacks(mesh) == [Succeeded([("succeeded", 2), ("succeeded", 4)])]


async def test_a_child_that_fails_for_good_has_completed(mesh: Mesh) -> None:
    await spawn_with_callback([Doubles(-1), Doubles(4)], Collects())
    await mesh.work()
    assert callbacks(mesh) == [Succeeded([("failed", None), ("succeeded", 8)])]


async def test_a_group_expires_after_its_time_to_live(mesh: Mesh) -> None:
    busy = await MutexLock(JOB, 2).acquire(mesh.locks, LockOwner.new(task="other", id="1", worker="elsewhere"))
    await spawn_with_callback([Doubles(1), Doubles(2)], Collects(), ttl_seconds=1)

    async def callback_ran() -> bool:
        await mesh.work()
        return bool(callbacks(mesh))

    await wait_until(callback_ran, description="the callback ran without the second child", timeout=20)
    # On a slow machine the time may be over before the first child has ended, too.
    (found,) = callbacks(mesh)
    assert found in (
        Succeeded([("succeeded", 2), ("missing", None)]),
        Succeeded([("missing", None), ("missing", None)]),
    )
    await busy.release()
    await mesh.work()
    assert len(callbacks(mesh)) == 1
