"""The time line of one task."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.dashboard.pages.task import Event, style_of, time_line
from diracx.tasks.plumbing.operations.locks import LockHolder
from diracx.tasks.plumbing.operations.task_document import (
    BusyLock,
    DeadTask,
    Running,
    State,
    TaskDocument,
)
from diracx.tasks.plumbing.wire.failure import Failure
from support.task_lookups import past_delivery

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def failure(minute: int) -> Failure:
    return Failure(type="ValueError", message=f"at {minute}", traceback="lines", worker="w", at=NOON + minute * MINUTE)


def test_what_happened_is_in_order_and_what_is_to_come_follows() -> None:
    holders = [LockHolder("a:B", str(number), "w", NOON - MINUTE) for number in range(7)]
    task = TaskDocument(
        id="0192",
        state=State.PARKED,
        why=[],
        submitted=NOON,
        parent="parent",
        attempts=3,
        errors=[failure(1), failure(2)],
        locks=[BusyLock(key="conc.job.7", kind="conc", holders=holders, limit=7, expires_in=None)],
        until=NOON + 5 * MINUTE,
    )
    submitted, second, third, lock, later = time_line(task)
    assert submitted == Event(NOON, "submitted by parent")
    assert second == Event(NOON + MINUTE, "attempt 2 failed on w: ValueError: at 1", "bad", "lines")
    assert third.text.startswith("attempt 3 failed")
    assert (lock.at, lock.kind) == (None, "now"), "the task has not waited since its holder has it"
    assert lock.text.startswith("waits for the lock conc.job.7, held by a:B 0 since 2026-12-01T11:59:00Z, a:B 1")
    assert lock.text.endswith("a:B 4 since 2026-12-01T11:59:00Z and 2 more")
    assert later == Event(NOON + 5 * MINUTE, "runs at the earliest", "later")


def test_what_the_workers_remember_stands_among_what_is_stored() -> None:
    locked = past_delivery(NOON + MINUTE, "lock_busy", "mutex.job.7 is held by c:D 9 on v")
    told = past_delivery(NOON + 2 * MINUTE, "retry", "at 2", error="ValueError")
    task = TaskDocument(
        id="0192",
        state=State.PARKED,
        why=[],
        submitted=NOON,
        attempts=2,
        errors=[failure(2), failure(3)],
        past=[locked, told],
    )
    _, waited, first, second = time_line(task)
    assert waited == Event(NOON + MINUTE, "given back by w: mutex.job.7 is held by c:D 9 on v")
    assert (first.text, second.text) == (
        "attempt 1 failed on w: ValueError: at 2",
        "attempt 2 failed on w: ValueError: at 3",
    )


def test_a_running_and_a_dead_task_tell_so() -> None:
    running = Running(
        worker="w",
        since=NOON,
        attempt=1,
        state="executing",
        cancelled_since=NOON,
        cancelled_for="a stop",
        blocked_at=None,
    )
    (event,) = time_line(TaskDocument(id="1", state=State.RUNNING, why=[], running=[running]))
    assert event == Event(NOON, "attempt 1, executing on w; it was told to end: a stop", "now")
    dead = TaskDocument(id="1", state=State.DEAD, why=[], dead_letter=DeadTask(seq=4, reason="poison", died=NOON))
    assert time_line(dead) == [Event(NOON, "became dead letter 4: poison", "bad")]


def test_the_submission_comes_first_also_if_the_worker_s_clock_is_behind() -> None:
    task = TaskDocument(
        id="0192", state=State.PARKED, why=[], submitted=NOON + MINUTE, attempts=1, errors=[failure(0)], parent=None
    )
    assert [event.text.partition(" on ")[0] for event in time_line(task)] == ["submitted", "attempt 1 failed"]


@pytest.mark.parametrize(
    ("status", "style"),
    [(None, "good"), ("succeeded", "good"), ("failed", "bad"), ("expired", "warning"), ("cancelled", "warning")],
)
def test_the_colour_of_a_task_that_is_done_is_that_of_its_result(status: str | None, style: str) -> None:
    assert style_of(TaskDocument(id="1", state=State.DONE, why=[], status=status)) == style
