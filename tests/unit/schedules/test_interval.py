"""Intervals keep their phase since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.schedules import IntervalSeconds
from support.occurrences import (
    EPOCH,
    moments,
    occurrences,
)


@settings(deadline=None)
@given(seconds=st.integers(1, 10**7), after=moments)
def test_an_interval_keeps_its_phase_since_the_epoch(seconds: int, after: datetime) -> None:
    first, second = occurrences(IntervalSeconds(seconds), after, 2)
    assert (first - EPOCH) % timedelta(seconds=seconds) == timedelta(0)
    assert second - first == timedelta(seconds=seconds)
    assert first - after <= timedelta(seconds=seconds)


def test_an_hourly_interval_runs_on_the_hour() -> None:
    after = datetime(2026, 5, 4, 10, 0, 0, 1, tzinfo=UTC)
    assert IntervalSeconds(3600).next_occurrence(after) == datetime(2026, 5, 4, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    "seconds", [0, -1, float("nan"), float("inf"), 1e-9, 1e10, 1e300, timedelta.max, "60", None], ids=repr
)
def test_an_interval_that_is_no_positive_number_is_refused(seconds: float) -> None:
    with pytest.raises(TaskDefinitionError, match="positive number of seconds, 292 years at the most"):
        IntervalSeconds(seconds)
