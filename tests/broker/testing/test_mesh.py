"""The `Mesh` of `diracx.tasks.testing`, as an author of tasks uses it."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.depends import Depends
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import ResultIsMissingError, TaskFailedError
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, LockOwner, MutexLock, RateLimiter
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, RetryPolicyBase
from diracx.tasks.testing import (
    Dead,
    Discarded,
    Held,
    Interrupted,
    LeakError,
    LockBusy,
    Mesh,
    Retry,
    Succeeded,
    wait_until,
)


async def greeting() -> str:
    return "hello"


class Nobody: ...


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


@dataclasses.dataclass
class Again(BaseTask):
    """Submits itself, for ever or until its number is 0."""

    left: int
    size = Size.SMALL

    async def execute(self) -> None:
        if self.left:
            await Again(self.left - 1).schedule()


class RetriesAtOnce(RetryPolicyBase):
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime:
        return datetime.now(UTC)


@dataclasses.dataclass
class NeverGivesUp(BaseTask):
    retry_policy = RetriesAtOnce()

    async def execute(self) -> None:
        raise ValueError("not yet")


@dataclasses.dataclass
class Hangs(BaseTask):
    async def execute(self) -> None:
        await asyncio.Event().wait()


@dataclasses.dataclass
class Limited(BaseTask):
    @property
    def execution_locks(self) -> list[BaseLock]:
        return [RateLimiter(JOB, "limited", limit=1, window_seconds=3600)]

    async def execute(self) -> None: ...


@dataclasses.dataclass
class WaitsLong(Greets):
    def lock_retry_delay(self, refusals: int) -> timedelta:
        return timedelta(hours=1)


@dataclasses.dataclass
class NeedsNobody(BaseTask):
    async def execute(self, nobody: Nobody) -> None: ...


@pytest.fixture
async def our_mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[Mesh]:
    async with Mesh.on(server.url, namespace, _registry()) as mesh:
        yield mesh


TASKS = (Greets, Fails, Dies, Submits, Again, NeverGivesUp, Hangs, Limited, WaitsLong)


def _registry() -> TaskRegistry:
    registry = TaskRegistry()
    for task_class in TASKS:
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

    with pytest.raises(LeakError, match=r"1 messages .*:\n  test:Fails .* waits for its retry at .*: no such owner\."):
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


@asynccontextmanager
async def locked_elsewhere(mesh: Mesh, name: str) -> AsyncIterator[None]:
    """Somebody outside of the mesh holds the lock of `Greets(name)`."""
    acquired = await MutexLock(JOB, name).acquire(mesh.locks, LockOwner.new(task="other", id="1", worker="w"))
    yield
    await acquired.release()


async def test_work_returns_a_task_whose_lock_is_held_elsewhere_once_and_leaves_it(our_mesh: Mesh) -> None:
    waiting = await our_mesh.submit(Greets("alice"))
    await our_mesh.submit(Greets("bob"))
    async with locked_elsewhere(our_mesh, "alice"):
        for _ in range(2):
            delivered = {each.id: each.outcome for each in await our_mesh.work()}
            assert isinstance(delivered[waiting], LockBusy)
        assert await our_mesh.waiting() == 1
    (last,) = [each for each in await our_mesh.drain() if each.outcome == Succeeded("hello alice")]
    assert last.id == waiting


async def test_work_waits_for_a_lock_that_a_task_of_the_mesh_holds(our_mesh: Mesh) -> None:
    def refused() -> set[str]:
        return {each.id for each in our_mesh.outcomes if isinstance(each.outcome, LockBusy)}

    async def once_the_others_wait() -> str:
        await wait_until(lambda: len(refused()) == 2, description="the others wait for the lock")
        return "hello"

    submitted = {await our_mesh.submit(Greets("alice")) for _ in range(3)}
    delivered = await our_mesh.work(overrides={greeting: once_the_others_wait})
    assert all(isinstance(each.outcome, Succeeded) for each in delivered)
    assert {each.id for each in delivered} == submitted


async def test_work_leaves_what_waits_for_a_time(our_mesh: Mesh) -> None:
    our_mesh.leave_leftovers()
    await our_mesh.submit(Greets("later"), at_time=datetime.now(UTC) + timedelta(hours=1))
    first, second = await our_mesh.submit(Limited()), await our_mesh.submit(Limited())
    await our_mesh.submit(Fails())
    async with locked_elsewhere(our_mesh, "alice"):
        patient = await our_mesh.submit(WaitsLong("alice"))
        await our_mesh.submit(Greets("bob"))
        outcomes = {each.id: type(each.outcome) for each in await our_mesh.work()}
    assert sorted([outcomes.pop(first), outcomes.pop(second)], key=str) == [LockBusy, Succeeded]
    assert outcomes.pop(patient) is LockBusy
    assert sorted(outcomes.values(), key=str) == [Retry, Succeeded]


async def test_work_leaves_what_the_configuration_holds(our_mesh: Mesh) -> None:
    configuration = ConfigurationBucket(our_mesh.broker.connection, our_mesh.broker.namespace)
    await configuration.write("tasks:\n  test:Greets:\n    enabled: false\n")
    held = await our_mesh.submit(Greets("alice"))
    (delivered,) = await our_mesh.work()
    assert (delivered.id, delivered.outcome) == (held, Held("tasks.test:Greets.enabled"))
    await configuration.write("{}")
    assert (await our_mesh.drain())[-1].outcome == Succeeded("hello alice")


async def test_work_leaves_a_task_that_nobody_here_knows(our_mesh: Mesh) -> None:
    our_mesh.leave_leftovers()
    await our_mesh.broker.connection.request(
        our_mesh.broker.namespace.task_subject(Greets.priority, Size.SMALL), b"{}", headers={"Task-Name": "test:Gone"}
    )
    (delivered,) = await our_mesh.work()
    assert isinstance(delivered.outcome, Interrupted)
    assert "try 1 of 10: unknown task 'test:Gone'" in str(delivered.wait)


async def test_a_chain_of_tasks_that_ends_is_worked_off(our_mesh: Mesh) -> None:
    await our_mesh.submit(Again(20))
    assert len(await our_mesh.work()) == 21


@pytest.mark.parametrize("task", [Again(1_000_000), NeverGivesUp()], ids=["submits itself", "retries at once"])
async def test_tasks_that_go_on_for_ever_end_the_work_with_an_error(our_mesh: Mesh, task: BaseTask) -> None:
    await our_mesh.submit(task)
    expected = rf"executions have ended, .* the latest of test:{type(task).__name__}: does a task submit itself"
    with pytest.raises(AssertionError, match=expected):
        await our_mesh.work(limit=20)


async def test_a_task_that_does_not_end_is_named_when_the_time_is_over(our_mesh: Mesh) -> None:
    hangs = await our_mesh.submit(Hangs())
    with pytest.raises(
        AssertionError, match=rf"not ended within 0.5 s\n  test:Hangs {hangs} was given back: the worker"
    ):
        await our_mesh.work(timeout=0.5)


async def test_drain_says_at_once_what_a_later_retry_keeps(our_mesh: Mesh) -> None:
    task_id = await our_mesh.submit(Fails())
    with pytest.raises(
        AssertionError, match=rf"1 tasks are left, .* 900 s:\n  test:Fails {task_id} waits for its retry"
    ):
        await our_mesh.drain(timeout=900)


async def test_drain_names_the_lock_that_stays_held(our_mesh: Mesh) -> None:
    await our_mesh.submit(Greets("alice"))
    async with locked_elsewhere(our_mesh, "alice"):
        with pytest.raises(
            AssertionError, match=r"within 0\.1 s:\n  test:Greets .* waits for its lock: mutex\.job\.alice"
        ):
            await our_mesh.drain(timeout=0.1)


async def test_a_task_that_lacks_its_dependency_fails_alone_and_says_which(our_mesh: Mesh) -> None:
    our_mesh.registry.add("test:NeedsNobody", NeedsNobody)
    await our_mesh.submit(NeedsNobody())
    await our_mesh.submit(Greets("alice"))
    outcomes = {each.task: each.outcome for each in await our_mesh.work()}
    assert outcomes["test:Greets"] == Succeeded("hello alice")
    failed = outcomes["test:NeedsNobody"]
    assert isinstance(failed, Discarded)
    assert "nobody" in failed.reason


def test_a_mesh_refuses_another_event_loop_while_its_own_does_not_run(server: EmbeddedServer, namespace: str) -> None:
    async def submit_to(mesh: Mesh) -> None:
        await mesh.submit(Greets("alice"))

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        mesh = runner.run(stack.enter_async_context(Mesh.on(server.url, namespace, _registry())))
        for use in (mesh.work, mesh.held_locks, mesh.dead_letters, lambda: submit_to(mesh)):
            with pytest.raises(RuntimeError, match="opened on another event loop, which does not run"):
                asyncio.run(use())
        runner.run(stack.aclose())


async def test_a_submission_from_a_thread_that_blocks_the_loop_ends_with_an_error(
    our_mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = asyncio.create_task(asyncio.to_thread(asyncio.run, our_mesh.submit(Greets("alice"))))
    await wait_until(thread.done, description="a submission from another thread is stored")
    assert len(await our_mesh.work()) == 1

    monkeypatch.setattr("diracx.tasks.testing.submissions.BLOCKED_SECONDS", 0.3)
    blocking = threading.Thread(target=lambda: errors.append(outcome_of(our_mesh)))
    errors: list[BaseException | None] = []
    blocking.start()
    blocking.join()  # blocks the event loop of the mesh
    assert "the event loop of the mesh has been blocked for 0.3 s, e.g. by a TestClient" in str(errors[0])
    our_mesh.leave_leftovers()


def outcome_of(mesh: Mesh) -> BaseException | None:
    try:
        asyncio.run(mesh.submit(Greets("bob")))
    except RuntimeError as error:
        return error
    return None


async def test_a_kept_result_is_there_after_the_work(our_mesh: Mesh) -> None:
    kept = await our_mesh.submit(Greets("bob"), keep_result=True)
    dead = await our_mesh.submit(Dies(), keep_result=60)
    (many,) = await our_mesh.broker.submit_many([Greets("carol")], keep_result=60)
    with pytest.raises(ResultIsMissingError, match="nothing is there now"):
        await our_mesh.result(kept)
    await our_mesh.work()
    assert await our_mesh.result(kept) == "hello bob"
    assert await our_mesh.result(many) == "hello carol"
    with pytest.raises(TaskFailedError, match="ValueError: no such owner"):
        await our_mesh.result(dead)
