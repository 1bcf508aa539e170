"""Limits from outside the code of a task, and what a task says to a busy lock. The locks are in memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.execution.executor import Executor
from diracx.tasks.plumbing.execution.job import Discarded, Job, LockBusy, Succeeded
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    BaseLock,
    ConcurrencyLimiter,
    CountingLimiter,
    FencingToken,
    MutexLock,
    RateLimiter,
)
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.testing import wait_until
from support.jobs import LATER, WORKER, Policy, job, nothing
from support.lock_store import RecordingStore
from support.locking import new_owner


class Lockless(BaseTask):
    """Returns whether it has a fencing token, which only locks give."""

    async def execute(self, fencing_token: FencingToken, **kwargs: Any) -> bool:
        return fencing_token > 0


def job_without_locks() -> Job:
    registered = TaskRegistry().add("test:Lockless", Lockless)
    return Job(registered, Envelope(name="test:Lockless", id="1", submitted=datetime.now(UTC)), Lockless())


class OneAtATime:
    """Limits: each job takes a concurrency limiter besides, and its own are without a limit."""

    def __init__(self, *, active: bool = True) -> None:
        self.active = active
        self.asked: list[list[str]] = []

    def applied(self, job: Job, locks: Sequence[BaseLock]) -> Sequence[BaseLock]:
        self.asked.append([lock.kind for lock in locks])
        kept = [lock.limited(None) if isinstance(lock, CountingLimiter) else lock for lock in locks]
        return [*kept, ConcurrencyLimiter(JOB, "one", limit=1)]


async def test_limits_change_limiters_and_add_them_also_to_a_task_without_locks(
    keeper: LockKeeper, store: RecordingStore
) -> None:
    limits = OneAtATime()
    executor = Executor(Injector(), keeper, WORKER, limits=limits)

    async def body() -> list[str]:
        return sorted(store.entries)

    locks = [RateLimiter(JOB, 1, limit=1, window_seconds=30), MutexLock(JOB, 1)]
    assert await executor.execute(job(body, locks=locks)) == Succeeded(["conc.job.one./slots.0", "mutex.job.1"])
    assert await executor.execute(job(body)) == Succeeded(["conc.job.one./slots.0"])
    assert await executor.execute(job_without_locks()) == Succeeded(True), "it has a fencing token"
    assert limits.asked == [["rate", "mutex"], [], []]


@pytest.mark.parametrize("limits", [None, OneAtATime()], ids=["no limits", "limits"])
async def test_locks_that_a_generator_yields_are_taken(
    keeper: LockKeeper, store: RecordingStore, limits: OneAtATime | None
) -> None:
    async def body() -> list[str]:
        return sorted(store.entries)

    locks = property(lambda _: (MutexLock(JOB, number) for number in (1, 2)))
    outcome = await Executor(Injector(), keeper, WORKER, limits=limits).execute(job(body, execution_locks=locks))
    assert isinstance(outcome, Succeeded)
    assert [key for key in outcome.value if key.startswith("mutex")] == ["mutex.job.1", "mutex.job.2"]


async def test_limits_that_are_not_active_are_not_asked_and_neither_are_those_of_a_call(keeper: LockKeeper) -> None:
    inactive, active = OneAtATime(active=False), OneAtATime()
    for executor in (
        Executor(Injector(), keeper, WORKER, limits=inactive),
        Executor(Injector(), keeper, WORKER, limits=active, limiters=False),
    ):
        assert await executor.execute(job(nothing, locks=[MutexLock(JOB, 1)])) == Succeeded("done")
        assert await executor.execute(job_without_locks()) == Succeeded(False)
    assert not inactive.asked + active.asked


async def test_what_is_no_lock_fails_the_task_with_the_mend(executor: Executor) -> None:
    for given, shown in ((["mutex"], "'mutex'"), (MutexLock(JOB, 1), "MutexLock(mutex.job.1)")):
        outcome = await executor.execute(job(nothing, locks=given))
        assert isinstance(outcome, Discarded)
        assert f"Called.execution_locks gives {shown}" in outcome.reason
        assert "; make it a property that gives a list of locks" in outcome.reason


async def test_a_task_with_more_items_than_a_lowered_limit_waits_until_it_is_raised(
    executor: Executor, store: RecordingStore
) -> None:
    limiter = RateLimiter(JOB, 1, n_items=5, limit=9)
    lowered = limiter.limited(3)
    lowered.written_at = "limits.Job.1"
    outcome = await executor.execute(job(nothing, locks=[lowered], retry_policy=Policy(LATER)))
    assert isinstance(outcome, LockBusy)
    assert str(outcome.error) == "rate.job.1 admits 3 (limits.Job.1), and the task stands for 5: raise the limit"

    async def runs() -> bool:
        return await executor.execute(job(nothing, locks=[limiter.limited(5)])) == Succeeded("done")

    await wait_until(runs, description="it runs, once its process has forgotten the refusal")
    store.clear()


class NoTextError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


def raise_without_text(task: BaseTask, refusals: int) -> timedelta | None:
    raise NoTextError


async def test_a_busy_lock_asks_the_task_for_its_say(executor: Executor, store: RecordingStore) -> None:
    acquired = await MutexLock(JOB, 1).acquire(store, new_owner())
    asked: list[int] = []

    def says(task: BaseTask, refusals: int) -> timedelta | None:
        asked.append(refusals)
        return timedelta(seconds=2) if refusals > 1 else None

    refused = job(nothing, locks=[MutexLock(JOB, 1)], lock_retry_delay=says)
    for refusals, wanted in ((1, None), (2, timedelta(seconds=2))):
        outcome = await executor.execute(replace(refused, refusals=refusals - 1))
        assert isinstance(outcome, LockBusy)
        assert (outcome.refusals, outcome.wanted_delay) == (refusals, wanted)
    assert asked == [1, 2]
    await acquired.release()


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        (lambda task, refusals: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda task, refusals: sys.exit("out"), "SystemExit: out"),
        (raise_without_text, f"{__name__}.NoTextError: <str() of it raised ZeroDivisionError>"),
        (lambda task, refusals: 5, "ValueError: it returned 5, neither None nor a timedelta of more than 0"),
        (lambda task, refusals: timedelta(0), "ValueError: it returned datetime.timedelta(0), neither None nor"),
        (timedelta(seconds=5), "TypeError: 'datetime.timedelta' object is not callable"),
    ],
)
async def test_a_say_that_fails_is_logged_once_and_the_delay_of_the_worker_holds(
    executor: Executor, store: RecordingStore, caplog: pytest.LogCaptureFixture, says: Any, problem: str
) -> None:
    acquired = await MutexLock(JOB, 1).acquire(store, new_owner())
    policy = Policy(LATER)
    refused = job(nothing, locks=[MutexLock(JOB, 1)], lock_retry_delay=says, retry_policy=policy)
    for _ in range(2):
        outcome = await executor.execute(refused)
        assert isinstance(outcome, LockBusy)
        assert outcome.wanted_delay is None
    assert not policy.asked
    (line,) = [record.getMessage() for record in caplog.records if "lock_retry_delay" in record.getMessage()]
    assert line.startswith(f"Called.lock_retry_delay(1) failed, and the delay of the worker holds: {problem}")
    await acquired.release()
