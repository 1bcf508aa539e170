"""Executions under locks: order of events, refusals, losses and fencing tokens. The locks are in memory."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import (
    ServerUnavailableError,
    UnableToAcquireLockError,
)
from diracx.tasks.plumbing.execution import executor as executor_module
from diracx.tasks.plumbing.execution.cancellation import Cancellation, Cause
from diracx.tasks.plumbing.execution.execution import Execution
from diracx.tasks.plumbing.execution.executor import Executor
from diracx.tasks.plumbing.execution.job import Dead, Discarded, Interrupted, Job, LockBusy, Outcome, Retry, Succeeded
from diracx.tasks.plumbing.execution.last_resort import LastResort
from diracx.tasks.plumbing.execution.thread import TaskThreads
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    BaseLock,
    ConcurrencyLimiter,
    FencingToken,
    LockOwner,
    LockStore,
    MutexLock,
    RateLimiter,
)
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.worker.attempts import StaleAttemptError
from diracx.tasks.testing import wait_until
from support.clock import ManualClock
from support.jobs import LATER, WORKER, Policy, forever, job, nothing, raising
from support.lock_store import RecordingStore
from support.locking import new_owner


class BrokenLock(MutexLock):
    async def acquire(self, store: LockStore, owner: LockOwner) -> Any:
        raise RuntimeError("the lock is broken")


class CancelledLock(MutexLock):
    async def acquire(self, store: LockStore, owner: LockOwner) -> Any:
        raise asyncio.CancelledError


async def test_a_busy_lock_names_its_owner_and_nothing_is_executed(executor: Executor, store: RecordingStore) -> None:
    acquired = await MutexLock(JOB, 2).acquire(store, LockOwner.new(task="other:Task", id="9", worker="w"))
    outcome = await executor.execute(
        job(raising(AssertionError("executed")), locks=[MutexLock(JOB, 2), MutexLock(JOB, 1)]), on_start=_not_started
    )
    assert isinstance(outcome, LockBusy)
    assert outcome.error.key == "mutex.job.2"
    assert "other:Task 9 on w" in str(outcome.error)
    assert list(store.entries) == ["mutex.job.2"], "the lock taken before it was released"
    await acquired.release()


async def test_locks_are_held_while_a_task_runs_and_name_their_owner(executor: Executor, store: RecordingStore) -> None:
    async def body() -> list[str]:
        return [f"{key}: {entry.value.decode()}" for key, entry in store.entries.items()]

    outcome = await executor.execute(job(body, locks=[MutexLock(JOB, 2), MutexLock(JOB, 1)]))
    assert isinstance(outcome, Succeeded)
    assert [held.partition(":")[0] for held in outcome.value] == ["mutex.job.1", "mutex.job.2"]
    assert all('"task":"test:Called","id":"the-id","worker":"host-1-small"' in held for held in outcome.value)


async def test_a_failure_under_a_lock_is_a_failure_and_the_lock_is_free_again(
    executor: Executor, store: RecordingStore
) -> None:
    for error in (ValueError("no"), UnableToAcquireLockError("of its own"), ServerUnavailableError("of its own")):
        outcome = await executor.execute(job(raising(error), locks=[MutexLock(JOB, 1)], dlq_eligible=True))
        assert isinstance(outcome, Dead), "an error that the task itself raises is never contention"
        assert not store.entries


@pytest.mark.parametrize("fails", [False, True])
async def test_only_a_success_that_is_but_acked_does_not_wait_until_its_locks_are_released(
    executor: Executor, store: RecordingStore, fails: bool
) -> None:
    body = raising(ValueError("no")) if fails else nothing
    for only_acked in (False, True):
        gate = store.stalled["delete"] = asyncio.Event()
        store.requests.clear()
        execution = Execution()
        execution.only_acked = only_acked
        executing = asyncio.create_task(executor.execute(job(body, locks=[MutexLock(JOB, 1)]), execution))
        await wait_until(lambda: store.requested("delete"), description="it releases its lock")
        for _ in range(5):
            await asyncio.sleep(0)
        was_done = executing.done()
        gate.set()
        assert isinstance(await executing, Discarded if fails else Succeeded)
        assert was_done == (only_acked and not fails)
        await wait_until(lambda: not store.entries, description="the lock is free")


async def test_a_store_that_does_not_answer_interrupts_with_a_delay(executor: Executor, store: RecordingStore) -> None:
    store.failing.add("create")
    outcome = await executor.execute(job(nothing, locks=[MutexLock(JOB, 1)]))
    assert isinstance(outcome, Interrupted)
    assert outcome.reason == "its locks could not be taken: no answer to create of mutex.job.1"
    assert outcome.delay > timedelta(0)


@pytest.mark.parametrize(
    ("locks", "message"),
    [
        ([BrokenLock(JOB, 1)], "RuntimeError: the lock is broken"),
        (AttributeError("no such job"), "AttributeError: no such job"),
        (SystemExit("out"), "SystemExit: out"),
        ([CancelledLock(JOB, 1)], "CancelledError: "),
    ],
)
async def test_a_lock_that_raises_fails_like_the_rest_of_its_task(executor: Executor, locks: Any, message: str) -> None:
    outcome = await executor.execute(job(nothing, locks=locks, dlq_eligible=True), on_start=_not_started)
    assert isinstance(outcome, Dead)
    assert message in outcome.reason


async def test_without_limiters_only_structural_locks_are_taken(keeper: LockKeeper, store: RecordingStore) -> None:
    async def body() -> list[str]:
        return list(store.entries)

    executor = Executor(Injector(), keeper, WORKER, limiters=False)
    locks = [RateLimiter(JOB, 1), MutexLock(JOB, 1), ConcurrencyLimiter(JOB, 1)]
    assert await executor.execute(job(body, locks=locks)) == Succeeded(["mutex.job.1"])


async def test_an_execution_that_is_stopped_while_it_takes_its_locks_is_interrupted(
    executor: Executor, store: RecordingStore
) -> None:
    store.stalled["create"], execution = asyncio.Event(), Execution()
    policy, lock = Policy(LATER), MutexLock(JOB, 1)
    executing = asyncio.create_task(executor.execute(job(nothing, locks=[lock], retry_policy=policy), execution))
    await wait_until(lambda: store.requested("create"), description="the lock is being taken")
    execution.cancel(Cancellation(Cause.STOP, "the worker stops"))
    store.stalled["create"].set()
    assert await executing == Interrupted("the worker stops")
    assert not policy.asked


async def test_an_execution_that_left_a_thread_keeps_its_locks_until_that_has_ended(
    executor: Executor, store: RecordingStore
) -> None:
    released = threading.Event()
    asyncio.get_running_loop().set_default_executor(TaskThreads())

    async def body() -> None:
        await asyncio.to_thread(released.wait, 30)

    try:
        outcome = await executor.execute(job(body, locks=[MutexLock(JOB, 1)], timeout_seconds=0.05))
        assert isinstance(outcome, Discarded)
        assert "TimeoutError: ran longer than timeout_seconds=0.05" in outcome.reason
        assert executor.left_behind == 1
        assert list(store.entries) == ["mutex.job.1"]
    finally:
        released.set()
    await wait_until(lambda: not store.entries, description="its lock is released")
    assert executor.left_behind == 0


async def test_a_worker_that_tasks_left_too_many_threads_in_ends_in_order(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "MAX_LEFT", 2)
    asked: list[str] = []
    last_resort = LastResort(lambda: asked.append("end"))
    last_resort.on_retire = lambda: asked.append("retire")
    released = threading.Event()
    asyncio.get_running_loop().set_default_executor(TaskThreads())

    async def body() -> None:
        asyncio.get_running_loop().run_in_executor(None, released.wait, 30)

    try:
        for retires in ([], ["retire"]):
            assert await executor.execute(job(body), Execution(last_resort=last_resort)) == Succeeded(None)
            assert asked == retires
        assert last_resort.reason == "what 2 tasks left behind still runs"
    finally:
        released.set()


async def test_a_lock_that_is_lost_interrupts_its_task(executor: Executor, store: RecordingStore) -> None:
    lock = MutexLock(JOB, 1, ttl_ms=2_001)

    async def body() -> None:
        store.steal(lock.key)
        await forever()

    outcome = await executor.execute(job(body, locks=[lock], retry_policy=Policy(LATER)))
    assert isinstance(outcome, Interrupted)
    assert outcome.reason == "mutex.job.1 was lost: a thief"
    store.clear()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_lock_that_is_lost_while_locks_are_given_back_changes_no_outcome(
    executor: Executor, store: RecordingStore, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    first, last = (MutexLock(JOB, number, ttl_ms=2_001) for number in (1, 2))

    async def body() -> str:
        # The last lock is released first. Meanwhile the watchdog renews the first one.
        store.stalled["delete"] = asyncio.Event()
        store.steal(first.key)
        if fails:
            raise ValueError("no")
        return "done"

    executing = asyncio.create_task(executor.execute(job(body, locks=[first, last], retry_policy=Policy(LATER))))
    await wait_until(lambda: first.key in store.requested("replace"), description="the lost lock is renewed")
    await asyncio.sleep(0.01)
    store.stalled.pop("delete").set()
    outcome = await executing
    assert isinstance(outcome, Retry) if fails else outcome == Succeeded("done")
    assert "is cancelled" not in caplog.text
    assert list(store.entries) == [first.key], "the thief's key"
    store.clear()


async def test_a_loss_that_a_renewal_under_way_reports_after_the_end_changes_no_outcome(
    executor: Executor, store: RecordingStore
) -> None:
    lock = MutexLock(JOB, 1, ttl_ms=2_001)
    store.stalled["replace"] = asyncio.Event()

    async def body() -> str:
        await wait_until(lambda: store.requested("replace"), description="a renewal is under way")
        store.steal(lock.key)
        asyncio.get_running_loop().call_later(0.05, store.stalled["replace"].set)
        return "done"

    assert await executor.execute(job(body, locks=[lock])) == Succeeded("done")
    store.clear()


async def test_on_start_is_awaited_when_all_locks_are_held_and_before_the_task_runs(
    executor: Executor, store: RecordingStore
) -> None:
    events: list[Any] = []

    async def body() -> None:
        events.append("executed")

    async def on_start() -> None:
        events.append(sorted(store.entries))

    locks = [MutexLock(JOB, 1), MutexLock(JOB, 2)]
    assert isinstance(await executor.execute(job(body, locks=locks), on_start=on_start), Succeeded)
    assert isinstance(await executor.execute(job(body), on_start=on_start), Succeeded)
    assert events == [["mutex.job.1", "mutex.job.2"], "executed", [], "executed"]


@pytest.mark.parametrize("locks", [None, [MutexLock(JOB, 1)]])
@pytest.mark.parametrize("error", [StaleAttemptError("in other hands"), ServerUnavailableError("no answer")])
async def test_an_error_of_on_start_is_no_failure_of_the_task(executor: Executor, locks: Any, error: Exception) -> None:
    async def on_start() -> None:
        raise error

    policy = Policy(LATER)
    with pytest.raises(type(error)):
        await executor.execute(job(nothing, locks=locks, retry_policy=policy), on_start=on_start)
    assert not policy.asked


async def _not_started() -> None:
    raise AssertionError("nothing was to begin")


@dataclasses.dataclass
class Fenced(BaseTask):
    """Returns its fencing token."""

    name: str
    locked: bool = True

    during: ClassVar[Callable[[], Any]] = staticmethod(lambda: None)

    @property
    def execution_locks(self) -> list[BaseLock]:
        if not self.locked:
            return []
        return [
            MutexLock(JOB, self.name),
            ConcurrencyLimiter(JOB, self.name, limit=1),
            RateLimiter(JOB, self.name, limit=1, window_seconds=30),
        ]

    async def execute(self, fencing_token: FencingToken, **kwargs: Any) -> int:
        assert isinstance(fencing_token, FencingToken)
        type(self).during()
        return fencing_token


async def execute(store: RecordingStore, task: BaseTask, clock: Any = None, **options: Any) -> Outcome:
    registry = TaskRegistry()
    registered = registry.add("test:Fenced", Fenced)
    envelope = Envelope(name="test:Fenced", id="1", submitted=datetime.now(UTC))
    async with LockKeeper(store, clock or boottime) as keeper:
        return await Executor(Injector(), keeper, "w1", **options).execute(Job(registered, envelope, task))


async def test_the_token_rises_from_one_execution_to_the_next(store: RecordingStore) -> None:
    tokens = [await execute(store, Fenced("a"), limiters=False) for _ in range(3)]
    values = [outcome.value for outcome in tokens if isinstance(outcome, Succeeded)]
    assert len(values) == 3
    assert values == sorted(set(values))
    assert values[0] > 0


async def test_without_locks_the_token_is_zero_even_after_a_task_with_some(store: RecordingStore) -> None:
    await execute(store, Fenced("a"))
    assert await execute(store, Fenced("a", locked=False)) == Succeeded(0)


async def test_an_interactive_call_skips_limiters_and_takes_the_rest(store: RecordingStore) -> None:
    for _ in range(2):
        assert isinstance(await execute(store, Fenced("a")), Succeeded | LockBusy)
    assert isinstance(await execute(store, Fenced("a")), LockBusy), "the rate limiter admits no second execution"
    assert isinstance(await execute(store, Fenced("a"), limiters=False), Succeeded)
    await MutexLock(JOB, "a").acquire(store, new_owner())
    assert isinstance(await execute(store, Fenced("a"), limiters=False), LockBusy)


async def test_an_execution_whose_lock_lapsed_is_never_done(
    store: RecordingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(1_000.0)

    class Slow(Fenced):
        """Its process is stopped while it holds its lock."""

        @property
        def execution_locks(self) -> list[BaseLock]:
            return [MutexLock(JOB, self.name, clock=clock)]

    def stopped() -> None:
        clock.now += 29

    monkeypatch.setattr(Slow, "during", staticmethod(stopped))
    outcome = await execute(store, Slow("a"), clock)
    assert isinstance(outcome, Interrupted)
    assert "mutex.job.a was lost" in outcome.reason
