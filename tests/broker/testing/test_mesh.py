"""`diracx.tasks.testing`, as an author of tasks uses it."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.depends import Depends
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import MalformedTaskError, TaskDefinitionError, UnableToAcquireLockError
from diracx.tasks.plumbing.execution.job import Dead, Retry, Succeeded
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, LockOwner, MutexLock
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.testing import InMemoryLockStore, run_task
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
    """Of another size than what it submits, and later in the order of sizes."""

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


async def test_a_task_is_executed_once_with_what_it_needs() -> None:
    assert await run_task(Greets("alice")) == "hello alice"


async def test_overrides_stand_in_for_dependencies() -> None:
    assert await run_task(Greets("alice"), overrides={greeting: lambda: "hi"}) == "hi alice"


async def test_the_very_exception_comes_out() -> None:
    with pytest.raises(ValueError, match="no such owner"):
        await run_task(Fails())


async def test_fields_that_cannot_travel_are_noticed() -> None:
    with pytest.raises(MalformedTaskError, match=r"\$\.name"):
        await run_task(Greets(1))  # type: ignore[arg-type]


async def test_a_class_that_cannot_work_is_refused() -> None:
    class Takes(BaseTask):
        def __init__(self, name: str) -> None:
            self.name = name

        async def execute(self) -> None:
            return None

    with pytest.raises(TaskDefinitionError, match="dataclass"):
        await run_task(Takes("alice"))


async def test_a_lock_store_that_is_shared_shows_who_excludes_whom() -> None:
    store = InMemoryLockStore()
    other = LockOwner.new(task="other", id="1", worker="w")
    await MutexLock(JOB, "alice").acquire(store, other)
    with pytest.raises(UnableToAcquireLockError, match="other"):
        await run_task(Greets("alice"), lock_store=store)
    assert await run_task(Greets("bob"), lock_store=store) == "hello bob"
    assert await store.keys() == [MutexLock(JOB, "alice").key]


async def test_a_mesh_works_off_what_is_submitted_and_shows_what_became_of_it(our_mesh: Mesh) -> None:
    first = await our_mesh.submit(Greets("alice"))
    second = await Greets("bob").schedule()
    delivered = await our_mesh.work(overrides={greeting: lambda: "hi"})
    assert {(each.task, each.id, each.outcome) for each in delivered} == {
        ("test:Greets", first, Succeeded("hi alice")),
        ("test:Greets", second, Succeeded("hi bob")),
    }
    assert await our_mesh.work() == []


async def test_a_mesh_works_off_children_of_every_size(our_mesh: Mesh) -> None:
    await our_mesh.submit(Submits())
    assert [each.task for each in await our_mesh.work()] == ["test:Submits", "test:Greets"]


async def test_dead_letters_are_at_hand(our_mesh: Mesh) -> None:
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


async def test_what_a_test_means_to_leave_is_left(our_mesh: Mesh) -> None:
    await our_mesh.submit(Fails())
    await our_mesh.work()
    our_mesh.leave_leftovers()


async def test_a_lock_left_held_fails_the_test(server: EmbeddedServer, namespace: str) -> None:
    async def forgetful() -> None:
        async with Mesh.on(server.url, namespace, _registry()) as mesh:
            await MutexLock(JOB, "alice").acquire(mesh.locks, LockOwner.new(task="other", id="1", worker="w"))

    with pytest.raises(LeakError, match=r"mutex\.job\.alice"):
        await forgetful()
