"""The counters of a worker, on a fake clock, and which of its tasks in flight are asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from diracx.tasks.plumbing.clock import ServerClock
from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.execution.job import (
    Cancelled,
    Dead,
    Discarded,
    Held,
    Interrupted,
    LockBusy,
    Outcome,
    Retry,
    Succeeded,
    WrongQueue,
)
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.envelope import TASK_GROUP, TASK_ID, TASK_NAME, TASK_PART
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.worker.attempts import Attempts
from diracx.tasks.plumbing.worker.leases import Lease
from diracx.tasks.plumbing.worker.snapshot import (
    MAX_ENDED,
    WAIT_BOUNDS_SECONDS,
    Counters,
    EndedQuery,
    InFlightQuery,
    QueueTotals,
)
from support.clock import ManualClock
from support.deliveries import fake_delivery

AT = datetime(2026, 12, 1, 6, tzinfo=UTC)
FAILURE = Failure.of(ValueError("first"), "a-worker")
LOCKED = LockBusy(UnableToAcquireLockError("mutex.job.7"))


def a_lease(sequence: int = 7, *, attempts: Attempts | None = None, **delivery: Any) -> Lease:
    """The lease of a message that was taken at 100 s on a clock that stands there."""
    headers = {TASK_NAME: "test:Note", TASK_ID: str(sequence)}
    lease = Lease(fake_delivery(None, sequence, headers=headers, **delivery), 100.0, 130.0, ManualClock(100.0))
    lease.attempts = attempts
    return lease


def server_clock() -> ServerClock:
    """Says that it is `AT` at 100 s."""
    clock = ServerClock(clock=ManualClock(100.0))
    clock.note(AT, 100.0)
    return clock


def recorded(counters: Counters, *outcomes: Outcome, **delivery: Any) -> None:
    """Record the outcomes of deliveries 1, 2, ..."""
    for sequence, outcome in enumerate(outcomes, 1):
        counters.record(a_lease(sequence, **delivery), outcome, server_clock())


def test_a_failure_is_counted_and_the_last_one_is_kept_with_its_task() -> None:
    counters = Counters()
    dead, stopped = Dead("malformed: the body is empty"), Interrupted("the worker stops")
    recorded(counters, Succeeded(), Retry(AT, FAILURE), dead, stopped)
    assert (counters.deliveries, counters.failures) == (4, 2)
    assert counters.last_error == "test:Note 3: malformed: the body is empty"


@pytest.mark.parametrize(
    ("outcome", "counter"),
    [
        (Succeeded(), "succeeded"),
        (Retry(AT, FAILURE), "retried"),
        (Dead("poison"), "dead"),
        (Discarded("expired"), "dropped"),
        (Cancelled("by an operator"), "cancelled"),
        (LOCKED, "lock_busy"),
        (Held("tasks.test:Note.enabled"), "held"),
        (Interrupted("the worker stops"), "interrupted"),
        (WrongQueue("diracx.tasks.normal.large"), "moved"),
    ],
)
def test_each_outcome_has_a_counter_of_its_queue(outcome: Outcome, counter: str) -> None:
    counters = Counters()
    recorded(counters, outcome, outcome)
    recorded(counters, outcome, subject="diracx.tasks.realtime.small")
    assert list(counters.queues) == ["normal-small", "realtime-small"]
    totals = counters.queues["normal-small"]
    assert {name for name in type(totals).__struct_fields__ if getattr(totals, name) == 2} == {counter}
    assert (totals.deliveries, counters.deliveries) == (2, 3)
    assert getattr(counters.queues["realtime-small"], counter) == 1


def test_the_bounds_of_the_queue_wait_are_those_of_other_versions() -> None:
    assert (
        *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
        *(10.0, 30.0, 120.0, 600.0, 3600.0, 14_400.0, 86_400.0),
    ) == WAIT_BOUNDS_SECONDS
    assert msgspec.json.encode(QueueTotals(1, wait=[1])) == (
        b'{"succeeded":1,"retried":0,"dead":0,"dropped":0,"cancelled":0,"lock_busy":0,"held":0,"interrupted":0,'
        b'"moved":0,"wait":[1]}'
    )


@pytest.mark.parametrize(
    ("waited", "bucket"),
    [(-1.0, 0), (0.001, 0), (0.006, 1), (0.8, 7), (60.0, 11), (80_000.0, 15), (90_000.0, 16), (1e9, 16)],
)
def test_the_wait_of_a_first_delivery_is_counted_in_its_bucket(waited: float, bucket: int) -> None:
    counters, stored_ns = Counters(), int((AT.timestamp() - waited) * 1e9)
    counters.begin(a_lease(stored_ns=stored_ns), server_clock(), None)
    counters.begin(a_lease(stored_ns=stored_ns, delivered=2), server_clock(), None)
    wait = counters.queues["normal-small"].wait
    assert ([at for at, count in enumerate(wait) if count], sum(wait)) == ([bucket], 1)


def test_a_task_that_fell_due_before_it_was_stored_has_waited_since_then() -> None:
    counters, stored_ns = Counters(), int(AT.timestamp() * 1e9)
    counters.begin(a_lease(stored_ns=stored_ns), server_clock(), AT - timedelta(seconds=60))
    counters.begin(a_lease(stored_ns=stored_ns), server_clock(), AT + timedelta(seconds=60))
    assert [at for at, count in enumerate(counters.queues["normal-small"].wait) if count] == [0, 11]


def test_what_did_not_succeed_is_told_the_newest_first_and_what_was_given_back_only_on_demand() -> None:
    counters = Counters()
    long = Failure.of(ValueError("x" * 1_000), "a-worker")
    recorded(counters, Succeeded(), Retry(AT, long), LOCKED, Discarded("expired"))
    assert [each.id for each in counters.ended(EndedQuery())] == ["4", "2"]
    assert [each.id for each in counters.ended(EndedQuery(2, given_back=True))] == ["3", "4"]
    assert counters.ended(EndedQuery(-1)) == []
    dropped, failed = counters.ended(EndedQuery())
    assert (failed.task, failed.queue, failed.outcome, failed.error) == (
        "test:Note",
        "normal-small",
        "retry",
        "ValueError",
    )
    assert (failed.message, failed.attempt, failed.at, failed.seconds) == ("x" * 300, 1, AT, 0.0)
    assert (dropped.outcome, dropped.error, dropped.message) == ("discarded", "", "expired")
    assert [each.id for each in counters.ended(EndedQuery(given_back=True, ids=("3", "2", "9")))] == ["3", "2"]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Retry(AT, FAILURE), None),
        (LOCKED, None),
        (Dead("poison"), "failed"),
        (Discarded("no retry is left"), "failed"),
        (Discarded("too late", FAILURE, expired=True), "expired"),
        (Cancelled("an operator"), "cancelled"),
    ],
)
def test_what_ended_the_task_says_how(outcome: Outcome, status: str | None) -> None:
    counters = Counters()
    recorded(counters, outcome)
    (ended,) = counters.ended(EndedQuery(given_back=True))
    assert ended.status == status


def test_busy_locks_push_out_no_failure_and_the_memory_is_bounded() -> None:
    counters = Counters()
    recorded(counters, Retry(AT, FAILURE))
    recorded(counters, *[LOCKED] * 500)
    assert [each.id for each in counters.ended(EndedQuery())] == ["1"]
    assert len(counters.ended(EndedQuery(1_000, given_back=True))) == 1 + MAX_ENDED


def test_the_number_of_an_attempt_does_not_rise_by_its_own_failure_in_the_record() -> None:
    counters = Counters()
    for failed, written in ((1, True), (1, False), (0, False)):
        attempts = Attempts(7, AttemptRecord(1, failed=failed), failure_written=written)
        counters.record(a_lease(attempts=attempts), Retry(AT, FAILURE), server_clock())
    assert [each.attempt for each in counters.ended(EndedQuery())] == [1, 2, 1]


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    clock = ManualClock(1_000.0)
    counters = Counters(clock)
    assert counters.per_second == 0.0, "without a sample"
    counters.sample()
    assert counters.per_second == 0.0, "in the moment of the first sample"
    for second in range(1, 31):
        recorded(counters, *[Succeeded()] * (10 if second <= 15 else 2))
        clock.now += 1
        counters.sample()
        if second == 5:
            assert counters.per_second == 10.0, "since the first sample"
    assert counters.per_second == 2.0


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        (InFlightQuery(), ["child", "part", "7"]),
        (InFlightQuery(group="parent-0"), ["child", "part"]),
        (InFlightQuery(group="parent"), []),
        (InFlightQuery(("7", "child")), ["child", "7"]),
        (InFlightQuery(("child",), "a:ByHand"), ["child", "7"]),
        (InFlightQuery(task="a:Child"), ["child"]),
    ],
)
def test_a_query_fits_the_tasks_with_an_id_a_name_or_a_group(query: InFlightQuery, fits: list[str]) -> None:
    messages: dict[str, dict[str, str]] = {
        "child": {TASK_ID: "child", TASK_NAME: "a:Child", TASK_GROUP: "parent-0:7"},
        "part": {TASK_ID: "part", TASK_NAME: "diracx:StoreChildren", TASK_PART: "parent-0:0"},
        "7": {TASK_NAME: "a:ByHand"},
    }
    assert [each for each, headers in messages.items() if query.fits(headers, 7)] == fits
