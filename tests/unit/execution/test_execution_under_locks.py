"""What an execution does with its task's locks."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.execution.executor import Executor
from diracx.tasks.plumbing.execution.job import Job
from diracx.tasks.plumbing.execution.outcomes import Interrupted, LockBusy, Outcome, Succeeded
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, ConcurrencyLimiter, FencingToken, MutexLock, RateLimiter
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.testing.lock_store import InMemoryLockStore
from support.clock import ManualClock
from support.locking import holder


@dataclasses.dataclass
class Fenced(BaseTask):
    """Tells its token."""

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


@pytest.fixture
def store() -> InMemoryLockStore:
    return InMemoryLockStore()


async def execute(store: InMemoryLockStore, task: BaseTask, clock: Any = None, **options: Any) -> Outcome:
    registry = TaskRegistry()
    registered = registry.add("test:Fenced", Fenced)
    keeper = LockKeeper(store, clock) if clock else LockKeeper(store)
    watching = asyncio.create_task(keeper.run())
    envelope = Envelope(name="test:Fenced", id="1", submitted=datetime.now(UTC))
    outcome = await Executor(Injector(), keeper, "w1", **options).execute(Job(registered, envelope, task))
    await asyncio.sleep(0)
    watching.cancel()
    await asyncio.wait([watching])
    return outcome


async def test_the_token_rises_from_one_execution_to_the_next(store: InMemoryLockStore) -> None:
    tokens = [await execute(store, Fenced("a"), limiters=False) for _ in range(3)]
    values = [outcome.value for outcome in tokens if isinstance(outcome, Succeeded)]
    assert len(values) == 3
    assert values == sorted(set(values))
    assert values[0] > 0


async def test_without_locks_the_token_is_zero_even_after_a_task_with_some(store: InMemoryLockStore) -> None:
    await execute(store, Fenced("a"))
    assert await execute(store, Fenced("a", locked=False)) == Succeeded(0)


async def test_an_interactive_call_skips_limiters_and_takes_the_rest(store: InMemoryLockStore) -> None:
    for _ in range(2):
        assert isinstance(await execute(store, Fenced("a")), Succeeded | LockBusy)
    assert isinstance(await execute(store, Fenced("a")), LockBusy), "the rate limiter lets no second one pass"
    assert isinstance(await execute(store, Fenced("a"), limiters=False), Succeeded)
    await MutexLock(JOB, "a").acquire(store, holder())
    assert isinstance(await execute(store, Fenced("a"), limiters=False), LockBusy)


async def test_a_configuration_may_lift_a_limit(store: InMemoryLockStore) -> None:
    asked = []

    def limits(job: Job, limiter: Any) -> Any:
        asked.append((job.envelope.name, limiter.kind))
        return limiter.limited(None)

    for _ in range(3):
        assert isinstance(await execute(store, Fenced("a"), limits=limits), Succeeded)
    assert asked[:2] == [("test:Fenced", "conc"), ("test:Fenced", "rate")]


async def test_an_execution_whose_lock_lapsed_is_never_done(
    store: InMemoryLockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(1_000.0)

    class Slow(Fenced):
        """Is stopped while it holds its lock."""

        @property
        def execution_locks(self) -> list[BaseLock]:
            return [MutexLock(JOB, self.name, clock=clock)]

    def stopped() -> None:
        clock.now += 29

    monkeypatch.setattr(Slow, "during", staticmethod(stopped))
    outcome = await execute(store, Slow("a"), clock)
    assert isinstance(outcome, Interrupted)
    assert "mutex.job.a was lost" in outcome.reason
