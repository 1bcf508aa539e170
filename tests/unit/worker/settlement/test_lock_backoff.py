"""How long tasks wait that are behind one busy lock."""

from __future__ import annotations

from datetime import timedelta

import pytest

from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.worker.settlement.lock_backoff import Crowds
from support.clock import ManualClock

FIVE = timedelta(seconds=5)


def busy(key: str = "mutex.job.7", **facts: timedelta) -> UnableToAcquireLockError:
    """A refusal."""
    return UnableToAcquireLockError(key, **facts)  # type: ignore[arg-type]


def test_one_task_waits_the_delay_give_or_take_a_quarter() -> None:
    waits = {Crowds(FIVE, ManualClock(1_000.0)).delay(busy()).total_seconds() for _ in range(200)}
    assert all(3.75 <= seconds <= 6.25 for seconds in waits)
    assert len(waits) > 100, "they all come back together"


def test_a_lock_that_knows_better_is_believed() -> None:
    assert Crowds(FIVE, ManualClock(1_000.0)).delay(busy(retry_after=timedelta(seconds=0.25))) == timedelta(
        seconds=0.25
    )


def test_of_a_crowd_20_a_second_come_back() -> None:
    crowds = Crowds(FIVE, ManualClock(1_000.0))
    waits = sorted(crowds.delay(busy()).total_seconds() for _ in range(10_000))
    assert waits[-1] == pytest.approx(505, abs=2)
    for second in range(int(waits[-1])):
        assert sum(second <= wait < second + 1 for wait in waits) <= 21


def test_behind_a_rate_limiter_they_come_back_a_little_faster_than_it_admits() -> None:
    crowds = Crowds(FIVE, ManualClock(1_000.0))
    refusal = busy("rate.job.7", retry_after=timedelta(seconds=0.1), pace=timedelta(seconds=0.1))
    waits = [crowds.delay(refusal).total_seconds() for _ in range(1_000)]
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(67, abs=1)


def test_one_crowd_does_not_delay_who_waits_for_another_lock() -> None:
    crowds = Crowds(FIVE, ManualClock(1_000.0))
    for _ in range(10_000):
        crowds.delay(busy("mutex.job.7"))
    assert crowds.delay(busy("mutex.job.8")) <= timedelta(seconds=6.25)


def test_a_crowd_that_has_gone_is_forgotten() -> None:
    clock = ManualClock(1_000.0)
    crowds = Crowds(FIVE, clock)
    for _ in range(10_000):
        crowds.delay(busy())
    clock.now += 600
    assert crowds.delay(busy()) <= timedelta(seconds=6.25)


def test_a_crowd_is_told_of_once_a_second() -> None:
    clock = ManualClock(1_000.0)
    crowds = Crowds(FIVE, clock)
    assert [crowds.worth_a_line() for _ in range(3)] == [True, False, False]
    clock.now += 1
    assert crowds.worth_a_line()
