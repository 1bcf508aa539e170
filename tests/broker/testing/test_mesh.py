"""The `Mesh` of `diracx.tasks.testing`, as an author of tasks uses it."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.depends import Depends
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.execution.job import Dead, Retry, Succeeded
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, LockOwner, MutexLock
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.testing.mesh import LeakError, Mesh


async def greeting() -> str:
    return "hello"


@dataclasses.dataclass
class Greets(BaseTask):
    name: str
    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.name)]

    async def execute(self, word: Annotated[str, Depends(greeting)], **kwargs: Any) -> str:
        return f"{word} {self.name}"


@dataclasses.dataclass
class Fails(BaseTask):
    retry_policy = ExponentialBackoff(base_delay_seconds=3600, max_retries=1)

    async def execute(self) -> None:
        raise ValueError("no such owner")


@dataclasses.dataclass
class Dies(BaseTask):
    dlq_eligible = True

    async def execute(self) -> None:
        raise ValueError("no such owner")


@dataclasses.dataclass
class Submits(BaseTask):
    """Submits a task of another size, which comes earlier in the order of sizes."""

    size = Size.LARGE

    async def execute(self) -> None:
        await Greets("child").schedule()


@pytest.fixture
async def our_mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[Mesh]:
    async with Mesh.on(server.url, namespace, _registry()) as mesh:
        yield mesh


def _registry() -> TaskRegistry:
    registry = TaskRegistry()
    for task_class in (Greets, Fails, Dies, Submits):
        registry.add(f"test:{task_class.__name__}", task_class)
    return registry


async def test_a_mesh_executes_submitted_tasks_and_returns_their_outcomes(our_mesh: Mesh) -> None:
    first = await our_mesh.submit(Greets("alice"))
    second = await Greets("bob").schedule()
    delivered = await our_mesh.work(overrides={greeting: lambda: "hi"})
    assert {(each.task, each.id, each.outcome) for each in delivered} == {
        ("test:Greets", first, Succeeded("hi alice")),
        ("test:Greets", second, Succeeded("hi bob")),
    }
    assert await our_mesh.work() == []


async def test_a_mesh_executes_children_of_every_size(our_mesh: Mesh) -> None:
    await our_mesh.submit(Submits())
    assert [each.task for each in await our_mesh.work()] == ["test:Submits", "test:Greets"]


async def test_a_mesh_returns_its_dead_letters(our_mesh: Mesh) -> None:
    task_id = await our_mesh.submit(Dies())
    (delivered,) = await our_mesh.work()
    assert isinstance(delivered.outcome, Dead)
    (letter,) = await our_mesh.dead_letters()
    assert (letter.id, letter.task) == (task_id, "test:Dies")


async def test_a_message_left_unsettled_fails_the_test(server: EmbeddedServer, namespace: str) -> None:
    async def forgetful() -> None:
        async with Mesh.on(server.url, namespace, _registry()) as mesh:
            await mesh.submit(Fails())
            (delivered,) = await mesh.work()
            assert isinstance(delivered.outcome, Retry)

    with pytest.raises(LeakError, match="1 messages"):
        await forgetful()


async def test_a_test_may_allow_its_leftovers(our_mesh: Mesh) -> None:
    await our_mesh.submit(Fails())
    await our_mesh.work()
    our_mesh.leave_leftovers()


async def test_a_lock_left_held_fails_the_test(server: EmbeddedServer, namespace: str) -> None:
    async def forgetful() -> None:
        async with Mesh.on(server.url, namespace, _registry()) as mesh:
            await MutexLock(JOB, "alice").acquire(mesh.locks, LockOwner.new(task="other", id="1", worker="w"))

    with pytest.raises(LeakError, match=r"mutex\.job\.alice"):
        await forgetful()
