"""How long tasks wait behind one busy lock."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.execution.job import Held, LockBusy
from diracx.tasks.plumbing.worker.settlement.lock_backoff import MAX_KEYS, LockBackoff
from support.clock import ManualClock

FIVE = timedelta(seconds=5)


def busy(
    key: str = "mutex.job.7",
    holder: str | None = None,
    *,
    refusals: int = 1,
    wanted: timedelta | None = None,
    retry_after: timedelta | None = None,
    pace: timedelta | None = None,
) -> LockBusy:
    """A refusal."""
    return LockBusy(UnableToAcquireLockError(key, holder, retry_after, pace=pace), refusals, wanted)


def within_a_quarter(wait: timedelta, seconds: float) -> bool:
    return 0.75 * seconds <= wait.total_seconds() <= 1.25 * seconds


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
    assert waits[800] == pytest.approx(53, abs=1)


def test_behind_a_slow_rate_limiter_all_ask_after_a_minute_since_its_limit_may_be_raised() -> None:
    backoff = LockBackoff(FIVE, ManualClock(1_000.0))
    refusal = busy("rate.job.7", retry_after=timedelta(hours=1), pace=timedelta(hours=1))
    assert [backoff.delay(refusal).total_seconds() for _ in range(3)] == pytest.approx([60, 60.05, 60.1])
    refusal = busy("rate.job.8", retry_after=timedelta(seconds=9), pace=timedelta(seconds=9))
    waits = [backoff.delay(refusal).total_seconds() for _ in range(15)]
    assert waits[:9] == pytest.approx([9 + 6 * number for number in range(9)])
    assert waits[9:] == pytest.approx([60 + 0.05 * number for number in range(6)])


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


def test_the_wait_grows_with_the_refusals_of_one_task_up_to_a_minute() -> None:
    for refusals, seconds in ((1, 5), (2, 5), (3, 10), (4, 20), (5, 40), (6, 48), (7, 48), (100_000, 48)):
        wait = LockBackoff(FIVE, ManualClock(1_000.0)).delay(busy(refusals=refusals))
        assert within_a_quarter(wait, seconds), f"refusal {refusals}"
        assert wait <= timedelta(minutes=1)


def test_a_delay_of_more_than_a_minute_is_kept() -> None:
    backoff = LockBackoff(timedelta(minutes=5), ManualClock(1_000.0))
    assert within_a_quarter(backoff.delay(busy(refusals=9)), 300)


def test_behind_a_lock_that_changes_hands_nobody_waits_long() -> None:
    clock = ManualClock(1_000.0)
    backoff = LockBackoff(FIVE, clock)
    assert within_a_quarter(backoff.delay(busy(holder="alice", refusals=9)), 48), "nothing tells since when she has it"
    clock.now += 60
    assert within_a_quarter(backoff.delay(busy(holder="bob", refusals=10)), 5), "bob has just got it"
    clock.now += 20
    assert within_a_quarter(backoff.delay(busy(holder="bob", refusals=11)), 20), "bob has had it for 20 s"
    clock.now += 20
    assert within_a_quarter(backoff.delay(busy(refusals=12)), 40), "no owner is named: nothing new is known"
    clock.now += 60
    assert within_a_quarter(backoff.delay(busy(holder="bob", refusals=3)), 10), "the refusals of this task are few"
    clock.now += 3_600
    assert within_a_quarter(backoff.delay(busy(holder="bob", refusals=13)), 48)


def test_of_a_hundred_tasks_that_wait_long_somebody_comes_back_every_second() -> None:
    backoff = LockBackoff(FIVE, ManualClock(1_000.0))
    waits = sorted(backoff.delay(busy(refusals=20)).total_seconds() for _ in range(100))
    assert waits[-1] < 65
    assert min(later - earlier for earlier, later in itertools.pairwise(waits)) >= 0.05 - 1e-6


def test_a_task_has_its_own_say_and_a_lock_that_knows_better_is_believed_all_the_same() -> None:
    wanted = timedelta(minutes=10)
    assert LockBackoff(FIVE, ManualClock(1_000.0)).delay(busy(refusals=1, wanted=wanted)) == wanted
    soon = timedelta(seconds=0.25)
    assert LockBackoff(FIVE, ManualClock(1_000.0)).delay(busy(wanted=wanted, retry_after=soon)) == soon
    assert LockBackoff(FIVE, ManualClock(1_000.0)).delay(busy(wanted=timedelta.max)) == timedelta(days=365)


def test_held_tasks_come_back_in_batches_and_wait_no_longer_the_more_often_they_are_held() -> None:
    backoff = LockBackoff(FIVE, ManualClock(1_000.0))
    waits = [backoff.delay(Held("tasks.a:B.enabled")).total_seconds() for _ in range(10_000)]
    assert 3.75 <= min(waits) <= 6.25
    assert max(waits) == pytest.approx(56, abs=2)
    batches = Counter(waits[100:])
    assert all(wait == round(wait) for wait in batches)
    assert max(batches.values()) <= 201
    assert within_a_quarter(backoff.delay(Held("tasks.a:C.enabled")), 5), "another setting"


def test_keys_that_nobody_waits_for_any_more_are_forgotten() -> None:
    clock = ManualClock(1_000.0)
    backoff = LockBackoff(FIVE, clock)
    backoff.delay(busy("mutex.job.1", holder="alice"))
    clock.now += 60
    for number in range(MAX_KEYS):
        backoff.delay(busy(f"mutex.job.{number + 2}"))
    assert within_a_quarter(backoff.delay(busy("mutex.job.1", holder="bob", refusals=9)), 48), "alice is forgotten"
