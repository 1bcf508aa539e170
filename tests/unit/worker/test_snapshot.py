"""The counters of a worker, on a fake clock, and which of its tasks in flight are asked for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from diracx.tasks.plumbing.execution.job import Dead, Interrupted, Retry, Succeeded
from diracx.tasks.plumbing.wire.envelope import TASK_GROUP, TASK_ID, TASK_NAME, TASK_PART
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.worker.snapshot import Counters, InFlightQuery
from support.clock import ManualClock

AT = datetime(2026, 12, 1, 6, tzinfo=UTC)


def test_a_failure_is_counted_and_the_last_one_is_kept_with_its_task() -> None:
    counters = Counters()
    counters.record("test:Note", "1", Succeeded())
    counters.record("test:Note", "2", Retry(AT, Failure.of(ValueError("first"), "a-worker")))
    counters.record("test:Note", "3", Dead("malformed: the body is empty"))
    counters.record("test:Note", "4", Interrupted("the worker stops"))
    assert (counters.deliveries, counters.failures) == (4, 2)
    assert counters.last_error == "test:Note 3: malformed: the body is empty"


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    clock = ManualClock(1_000.0)
    counters = Counters(clock)
    assert counters.per_second == 0.0, "without a sample"
    counters.sample()
    assert counters.per_second == 0.0, "in the moment of the first sample"
    for second in range(1, 31):
        for number in range(10 if second <= 15 else 2):
            counters.record("test:Note", str(number), Succeeded())
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
