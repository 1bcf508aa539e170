"""The rows of `history`, from samples."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from diracx.tasks.cli.commands.history import rows_of
from diracx.tasks.plumbing.operations.sampling import QueueSample, Sample, WorkersSample
from diracx.tasks.plumbing.worker.snapshot import WAIT_BOUNDS_SECONDS

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SMALL, LARGE = "normal-small", "normal-large"


def a_sample(minute: float, **small: int) -> Sample:
    wait = [0] * (len(WAIT_BOUNDS_SECONDS) + 1)
    wait[2] = 10
    queues = {SMALL: QueueSample(wait=wait, **small), LARGE: QueueSample(submitted=1, waiting=2)}
    return Sample(NOON + minute * MINUTE, 60.0, queues, 3, 4, {"small": WorkersSample(2, 20, 5)}, leader=True)


def test_a_row_sums_what_happened_and_tells_the_state_at_its_end() -> None:
    samples = [a_sample(0.5, submitted=10, waiting=7), a_sample(1.5, submitted=20, succeeded=5, waiting=1)]
    (row,) = rows_of(samples, NOON, NOON + 2 * MINUTE - timedelta(seconds=1), 2 * MINUTE)
    assert (row.start, row.seconds) == (NOON, 120.0)
    assert (row.submitted, row.succeeded, row.waiting) == (32, 5, 3)
    assert (row.delayed, row.dead_letters, row.workers, row.slots, row.busy, row.leader) == (4, 3, 2, 20, 5, True)
    assert row.wait_p50 is not None
    assert WAIT_BOUNDS_SECONDS[1] <= row.wait_p50 <= WAIT_BOUNDS_SECONDS[2]


def test_rows_begin_at_multiples_of_their_step_and_gaps_are_left_out() -> None:
    samples = [a_sample(0.5), a_sample(7.5)]
    rows = rows_of(samples, NOON - timedelta(seconds=30), NOON + 8 * MINUTE, MINUTE)
    assert [row.start for row in rows] == [NOON, NOON + 7 * MINUTE]


def test_only_the_named_queues_count() -> None:
    (row,) = rows_of([a_sample(0.5, submitted=10)], NOON, NOON + timedelta(seconds=59), MINUTE, {LARGE})
    assert (row.submitted, row.waiting, row.wait_p50) == (1, 2, None)
