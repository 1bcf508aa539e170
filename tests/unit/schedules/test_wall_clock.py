"""Wall-clock times and instants where the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.schedules.wall_clock import first_instant, instants, load_zone, wall_time

ZURICH = load_zone("Europe/Zurich")


def wall(month: int, day: int, hour: int, minute: int = 30) -> datetime:
    return datetime(2026, month, day, hour, minute)  # noqa: DTZ001 - a wall-clock time


def utc(month: int, day: int, hour: int, minute: int = 30) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (wall(6, 1, 12), [utc(6, 1, 10)]),
        (wall(3, 29, 2), []),
        (wall(10, 25, 2), [utc(10, 25, 0), utc(10, 25, 1)]),
    ],
    ids=["one", "skipped", "repeated"],
)
def test_a_wall_clock_time_has_one_instant_or_none_or_two(time: datetime, expected: list[datetime]) -> None:
    assert list(instants(time, ZURICH)) == expected
    assert all(wall_time(instant, ZURICH) == time for instant in expected)


def test_a_skipped_time_has_the_first_instant_after_the_gap() -> None:
    assert first_instant(wall(3, 29, 2), ZURICH) == utc(3, 29, 1, 0)


def test_a_repeated_time_has_its_first_instant() -> None:
    assert first_instant(wall(10, 25, 2), ZURICH) == utc(10, 25, 0)


def test_a_zone_is_loaded_by_its_iana_name() -> None:
    assert load_zone("UTC") is UTC
    with pytest.raises(TaskDefinitionError, match="unknown time zone 'Europe/Geneva'; use an IANA name"):
        load_zone("Europe/Geneva")
