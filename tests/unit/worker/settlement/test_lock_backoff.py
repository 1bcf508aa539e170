"""How long tasks wait behind one busy lock."""

from __future__ import annotations

from datetime import timedelta

import pytest

from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.worker.settlement.lock_backoff import LockBackoff
from support.clock import ManualClock

FIVE = timedelta(seconds=5)


def busy(key: str = "mutex.job.7", **facts: timedelta) -> UnableToAcquireLockError:
    """A refusal."""
    return UnableToAcquireLockError(key, **facts)  # type: ignore[arg-type]


def test_one_task_waits_the_delay_give_or_take_a_quarter() -> None:
    waits = {LockBackoff(FIVE, ManualClock(1_000.0)).delay(busy()).total_seconds() for _ in range(200)}
    assert all(3.75 <= seconds <= 6.25 for seconds in waits)
    assert len(waits) > 100, "they all come back together"


def test_a_lock_that_knows_better_is_believed() -> None:
    assert LockBackoff(FIVE, ManualClock(1_000.0)).delay(busy(retry_after=timedelta(seconds=0.25))) == timedelta(
        seconds=0.25
    )


def test_of_many_tasks_behind_one_lock_20_a_second_come_back() -> None:
    backoff = LockBackoff(FIVE, ManualClock(1_000.0))
    waits = sorted(backoff.delay(busy()).total_seconds() for _ in range(10_000))
    assert waits[-1] == pytest.approx(505, abs=2)
    for second in range(int(waits[-1])):
        assert sum(second <= wait < second + 1 for wait in waits) <= 21


def test_behind_a_rate_limiter_they_come_back_a_little_faster_than_it_admits() -> None:
    backoff = LockBackoff(FIVE, ManualClock(1_000.0))
    refusal = busy("rate.job.7", retry_after=timedelta(seconds=0.1), pace=timedelta(seconds=0.1))
    waits = [backoff.delay(refusal).total_seconds() for _ in range(1_000)]
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(67, abs=1)


def test_many_tasks_behind_one_lock_do_not_delay_a_task_behind_another() -> None:
    backoff = LockBackoff(FIVE, ManualClock(1_000.0))
    for _ in range(10_000):
        backoff.delay(busy("mutex.job.7"))
    assert backoff.delay(busy("mutex.job.8")) <= timedelta(seconds=6.25)


def test_tasks_that_came_back_long_ago_delay_no_other() -> None:
    clock = ManualClock(1_000.0)
    backoff = LockBackoff(FIVE, clock)
    for _ in range(10_000):
        backoff.delay(busy())
    clock.now += 600
    assert backoff.delay(busy()) <= timedelta(seconds=6.25)


def test_waits_are_logged_once_a_second() -> None:
    clock = ManualClock(1_000.0)
    backoff = LockBackoff(FIVE, clock)
    assert [backoff.should_log() for _ in range(3)] == [True, False, False]
    clock.now += 1
    assert backoff.should_log()
