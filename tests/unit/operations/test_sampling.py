"""What follows from samples: sums, percentiles, rates, and the time until a queue is empty."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diracx.tasks.plumbing.operations.sampling import (
    QueueSample,
    Sample,
    WorkersSample,
    added,
    merged,
    percentile,
    rate_in,
    rate_out,
    seconds_to_empty,
)
from diracx.tasks.plumbing.worker.snapshot import WAIT_BOUNDS_SECONDS

AT = datetime(2026, 12, 1, 6, tzinfo=UTC)
BUCKETS = len(WAIT_BOUNDS_SECONDS) + 1
QUEUE = "normal-small"

counts = st.integers(0, 10_000)
waits = st.one_of(st.just(list[int]()), st.lists(counts, min_size=BUCKETS, max_size=BUCKETS))
queues = st.builds(
    QueueSample,
    **dict.fromkeys(("waiting", "in_flight", "parked", "submitted", "succeeded", "retried", "dead"), counts),
    oldest_seconds=st.none() | st.floats(0, 1e6),
    wait=waits,
)


def a_sample(number: int = 0, seconds: float = 10.0, **queue: Any) -> Sample:
    at = AT + timedelta(seconds=10 * number)
    workers = {"small": WorkersSample(1, 10, number)}
    return Sample(at, seconds, {QUEUE: QueueSample(**queue)}, number, 0, workers, leader=True)


samples = st.builds(
    Sample,
    at=st.integers(0, 10**9).map(lambda milliseconds: AT + timedelta(milliseconds=milliseconds)),
    seconds=st.floats(0, 100),
    queues=st.fixed_dictionaries({QUEUE: queues}),
    dead_letters=counts,
    delayed=counts,
    workers=st.just({"small": WorkersSample(2, 20, 5)}),
    leader=st.booleans(),
)


def test_the_stored_form_of_a_sample_is_that_of_other_versions() -> None:
    """What an earlier leader stored has to be read for two days."""
    sample = a_sample(1, waiting=3, submitted=4, succeeded=5, retried=6, dead=7, dropped=8, cancelled=9)
    assert msgspec.json.encode(sample) == (
        b'{"at":"2026-12-01T06:00:10Z","seconds":10.0,"queues":{"normal-small":{"waiting":3,"submitted":4,'
        b'"succeeded":5,"retried":6,"dead":7,"dropped":8,"cancelled":9}},"dead_letters":1,"delayed":0,'
        b'"workers":{"small":{"workers":1,"slots":10,"busy":1}},"leader":true}'
    )


@given(samples)
def test_a_sample_is_read_as_it_was_stored(sample: Sample) -> None:
    assert msgspec.json.decode(msgspec.json.encode(sample), type=Sample) == sample


def test_merged_samples_have_the_last_state_and_all_that_happened() -> None:
    whole = merged([a_sample(0, waiting=9, succeeded=2, submitted=1), a_sample(1, waiting=4, succeeded=3, retried=1)])
    assert (whole.at, whole.seconds, whole.dead_letters) == (AT + timedelta(seconds=10), 20.0, 1)
    assert whole.queues == {QUEUE: QueueSample(waiting=4, succeeded=5, submitted=1, retried=1)}
    assert whole.workers == {"small": WorkersSample(1, 10, 1)}
    with pytest.raises(ValueError, match="no sample"):
        merged([])


@given(st.lists(samples, min_size=1, max_size=6), st.data())
def test_it_does_not_matter_in_how_many_steps_samples_are_merged(some: list[Sample], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(some)))
    at_once, in_steps = merged(some), merged([merged(some[:cut]), *some[cut:]])
    assert in_steps.queues == at_once.queues
    assert in_steps.seconds == pytest.approx(at_once.seconds, abs=0.01)
    assert merged([at_once]) == at_once


@given(st.lists(waits, max_size=5))
def test_histograms_together_have_the_counts_of_all(some: list[list[int]]) -> None:
    assert sum(added(some)) == sum(map(sum, some))


def test_a_histogram_of_another_version_may_be_longer() -> None:
    assert added([[1, 2], [1, 1, 1]]) == [2, 3, 1]


@given(waits, st.floats(0, 1), st.floats(0, 1))
def test_a_percentile_rises_with_its_share_within_the_bounds(wait: list[int], one: float, other: float) -> None:
    lower, upper = percentile(wait, min(one, other)), percentile(wait, max(one, other))
    if not any(wait):
        assert (lower, upper) == (None, None)
        return
    assert lower is not None
    assert upper is not None
    assert 0 <= lower <= upper <= WAIT_BOUNDS_SECONDS[-1]


@given(st.lists(st.floats(0, 86_000), min_size=1, max_size=50), st.floats(0, 1))
def test_a_percentile_lies_in_the_bucket_of_the_wait_that_it_stands_for(seconds: list[float], share: float) -> None:
    wait = [0] * BUCKETS
    bucket_of = [sum(bound < each for bound in WAIT_BOUNDS_SECONDS) for each in sorted(seconds)]
    for bucket in bucket_of:
        wait[bucket] += 1
    found = percentile(wait, share)
    assert found is not None
    bounds = (0.0, *WAIT_BOUNDS_SECONDS)
    at = min(len(seconds) - 1, max(0, int(share * len(seconds) - 1e-9)))
    candidates = {bucket_of[at], bucket_of[max(0, at - 1)], bucket_of[min(len(seconds) - 1, at + 1)]}
    assert any(bounds[bucket] <= found <= bounds[bucket + 1] for bucket in candidates)


def test_percentiles_of_known_waits() -> None:
    wait = [0] * BUCKETS
    wait[4], wait[6] = 98, 2  # 0.05 to 0.1 s, and 0.25 to 0.5 s
    assert percentile(wait, 0.5) == pytest.approx(0.05 + 0.05 * 50 / 98)
    assert percentile(wait, 0.99) == pytest.approx(0.375)
    assert percentile([*[0] * (BUCKETS - 1), 7], 0.5) == 86_400.0, "longer than the last bound"


@given(queues, st.just(0.0) | st.floats(0.001, 100))
def test_the_time_to_empty_is_known_only_for_a_queue_that_gets_shorter(queue: QueueSample, seconds: float) -> None:
    shrinks = rate_out(queue, seconds) - rate_in(queue, seconds)
    found = seconds_to_empty(queue, seconds)
    if not queue.depth:
        assert found == 0.0
    elif shrinks <= 0:
        assert found is None
    else:
        assert found == pytest.approx(queue.depth / shrinks)


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        (QueueSample(waiting=60, parked=40, submitted=100, succeeded=180, dead=10, dropped=5, cancelled=5), 10.0),
        (QueueSample(waiting=60, submitted=200, succeeded=100), None),
        (QueueSample(waiting=60), None),
        (QueueSample(submitted=200, succeeded=200), 0.0),
    ],
)
def test_times_to_empty(queue: QueueSample, expected: float | None) -> None:
    assert seconds_to_empty(queue, 10.0) == expected


def test_the_first_sample_has_no_rates() -> None:
    queue = QueueSample(waiting=3, submitted=1, succeeded=1)
    assert (rate_in(queue, 0.0), rate_out(queue, 0.0), seconds_to_empty(queue, 0.0)) == (0.0, 0.0, None)
