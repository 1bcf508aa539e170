"""Executions under locks, in a store in memory: nothing begins before all are held."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.exceptions import (
    ServerUnavailableError,
    UnableToAcquireLockError,
)
from diracx.tasks.plumbing.execution.executor import Executor
from diracx.tasks.plumbing.execution.outcomes import Dead, Interrupted, LockBusy, Succeeded
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    ConcurrencyLimiter,
    Holder,
    LockStore,
    MutexLock,
    RateLimiter,
)
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.worker.attempts import StaleAttemptError
from support.calling import LATER, WORKER, Policy, forever, job, nothing, raising
from support.lock_store import MemoryStore


class BrokenLock(MutexLock):
    async def acquire(self, store: LockStore, holder: Holder) -> Any:
        raise RuntimeError("the lock is broken")


async def test_a_busy_lock_is_told_with_its_holder_and_nothing_is_executed(
    executor: Executor, store: MemoryStore
) -> None:
    hold = await MutexLock(JOB, 2).acquire(store, Holder.new(task="other:Task", id="9", worker="w"))
    outcome = await executor.execute(
        job(raising(AssertionError("executed")), locks=[MutexLock(JOB, 2), MutexLock(JOB, 1)]), on_start=_not_started
    )
    assert isinstance(outcome, LockBusy)
    assert outcome.error.key == "mutex.job.2"
    assert "other:Task 9 on w" in str(outcome.error)
    assert list(store.entries) == ["mutex.job.2"], "what was taken before it was given back"
    await hold.release()


async def test_locks_are_held_while_the_task_runs_and_say_by_whom(executor: Executor, store: MemoryStore) -> None:
    async def body() -> list[str]:
        return [f"{key}: {entry.value.decode()}" for key, entry in store.entries.items()]

    outcome = await executor.execute(job(body, locks=[MutexLock(JOB, 2), MutexLock(JOB, 1)]))
    assert isinstance(outcome, Succeeded)
    assert [held.partition(":")[0] for held in outcome.value] == ["mutex.job.1", "mutex.job.2"]
    assert all('"task":"test:Called","id":"the-id","worker":"host-1-small"' in held for held in outcome.value)


async def test_a_failure_under_a_lock_is_a_failure_and_the_lock_is_free_again(
    executor: Executor, store: MemoryStore
) -> None:
    for error in (ValueError("no"), UnableToAcquireLockError("of its own"), ServerUnavailableError("of its own")):
        outcome = await executor.execute(job(raising(error), locks=[MutexLock(JOB, 1)], dlq_eligible=True))
        assert isinstance(outcome, Dead), "what the task itself raises is never contention"
        assert not store.entries


async def test_a_store_that_is_away_interrupts_and_asks_for_patience(executor: Executor, store: MemoryStore) -> None:
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
    ],
)
async def test_a_lock_that_raises_fails_like_the_rest_of_its_task(executor: Executor, locks: Any, message: str) -> None:
    outcome = await executor.execute(job(nothing, locks=locks, dlq_eligible=True), on_start=_not_started)
    assert isinstance(outcome, Dead)
    assert message in outcome.reason


async def test_without_limiters_only_structural_locks_are_taken(keeper: LockKeeper, store: MemoryStore) -> None:
    async def body() -> list[str]:
        return list(store.entries)

    executor = Executor(Injector(), keeper, WORKER, limiters=False)
    locks = [RateLimiter(JOB, 1), MutexLock(JOB, 1), ConcurrencyLimiter(JOB, 1)]
    assert await executor.execute(job(body, locks=locks)) == Succeeded(["mutex.job.1"])


async def test_a_lock_that_is_lost_interrupts_its_task(executor: Executor, store: MemoryStore) -> None:
    lock = MutexLock(JOB, 1, ttl_ms=2_001)

    async def body() -> None:
        store.steal(lock.key)
        await forever()

    outcome = await executor.execute(job(body, locks=[lock], retry_policy=Policy(LATER)))
    assert isinstance(outcome, Interrupted)
    assert outcome.reason == "mutex.job.1 was lost: a thief"
    store.entries.clear()


async def test_the_start_is_told_once_all_locks_are_held_and_before_the_task_runs(
    executor: Executor, store: MemoryStore
) -> None:
    events: list[Any] = []

    async def body() -> None:
        events.append("executed")

    async def on_start() -> None:
        events.append(sorted(store.entries))

    locks = [MutexLock(JOB, 1), MutexLock(JOB, 2)]
    assert isinstance(await executor.execute(job(body, locks=locks), on_start), Succeeded)
    assert isinstance(await executor.execute(job(body), on_start), Succeeded)
    assert events == [["mutex.job.1", "mutex.job.2"], "executed", [], "executed"]


@pytest.mark.parametrize("locks", [None, [MutexLock(JOB, 1)]])
@pytest.mark.parametrize("error", [StaleAttemptError("in other hands"), ServerUnavailableError("no answer")])
async def test_a_start_that_cannot_be_told_is_no_failure_of_the_task(
    executor: Executor, locks: Any, error: Exception
) -> None:
    async def on_start() -> None:
        raise error

    policy = Policy(LATER)
    with pytest.raises(type(error)):
        await executor.execute(job(nothing, locks=locks, retry_policy=policy), on_start)
    assert not policy.asked


async def _not_started() -> None:
    raise AssertionError("nothing was to begin")
