"""Schedules as values: strictly after, in phase, and also when the clocks change."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.exceptions import ScheduleEndedError
from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds, RRuleSchedule, TaskScheduleBase
from diracx.tasks.plumbing.schedules.base import answers_from_now
from support.occurrences import (
    moments,
    near_turns,
    schedules,
)


@settings(deadline=None)
@given(schedule=schedules, after=moments | near_turns)
def test_an_occurrence_is_strictly_after_in_utc_and_always_the_same(
    schedule: TaskScheduleBase, after: datetime
) -> None:
    following = schedule.next_occurrence(after)
    assert following > after
    assert following.tzinfo is UTC
    assert following == schedule.next_occurrence(after)
    assert following == type(schedule)(*dataclasses.astuple(schedule)).next_occurrence(after)  # type: ignore[call-overload]


@settings(deadline=None)
@given(schedule=schedules, after=moments | near_turns, part=st.floats(0, 1))
def test_no_occurrence_is_skipped_for_any_time_before_it(
    schedule: TaskScheduleBase, after: datetime, part: float
) -> None:
    following = schedule.next_occurrence(after)
    between = after + (following - after) * part
    assume(between < following)
    assert schedule.next_occurrence(between) == following
    assert schedule.next_occurrence(following - timedelta(microseconds=1)) == following


@settings(deadline=None)
@given(schedule=schedules, one=near_turns, other=near_turns)
def test_a_later_time_never_gives_an_earlier_occurrence(
    schedule: TaskScheduleBase, one: datetime, other: datetime
) -> None:
    first, second = sorted((one, other))
    assert schedule.next_occurrence(first) <= schedule.next_occurrence(second)


@settings(deadline=None)
@given(schedule=schedules, after=moments, hours=st.integers(-14, 14))
def test_the_zone_of_the_given_time_does_not_matter(schedule: TaskScheduleBase, after: datetime, hours: int) -> None:
    elsewhere = after.astimezone(timezone(timedelta(hours=hours)))
    assert schedule.next_occurrence(elsewhere) == schedule.next_occurrence(after)


@pytest.mark.parametrize(
    "schedule", [IntervalSeconds(60), CronSchedule("* * * * *"), RRuleSchedule("FREQ=MINUTELY")], ids=str
)
def test_no_time_means_now(schedule: TaskScheduleBase) -> None:
    earliest = schedule.next_occurrence(datetime.now(UTC))
    found = schedule.next_occurrence()
    assert earliest <= found <= schedule.next_occurrence(datetime.now(UTC))


@pytest.mark.parametrize(
    "schedule", [IntervalSeconds(60), CronSchedule("* * * * *"), RRuleSchedule("FREQ=MINUTELY")], ids=str
)
def test_a_naive_time_is_refused(schedule: TaskScheduleBase) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        schedule.next_occurrence(datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="out of range: years go from 1 to 9999"):
        schedule.next_occurrence(datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))))


@pytest.mark.parametrize("name", ["seconds", "expression", "rule"])
def test_a_schedule_is_a_frozen_value(name: str) -> None:
    made = {
        "seconds": (IntervalSeconds(60), IntervalSeconds(60)),
        "expression": (CronSchedule("@daily"), CronSchedule("@daily")),
        "rule": (RRuleSchedule("FREQ=DAILY"), RRuleSchedule("FREQ=DAILY")),
    }[name]
    assert made[0] == made[1]
    assert len(set(made)) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made[0], name, 1)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (IntervalSeconds(3600), "every 3600 s"),
        (IntervalSeconds(0.5), "every 0.5 s"),
        (IntervalSeconds(1_000_000), "every 1000000 s"),
        (CronSchedule("0 6 * * *", "Europe/Zurich"), "cron 0 6 * * * (Europe/Zurich)"),
        (CronSchedule(" 0  6 * * *"), "cron 0 6 * * * (UTC)"),
        (RRuleSchedule("FREQ=DAILY"), "rrule FREQ=DAILY"),
        (
            RRuleSchedule("DTSTART:20260101T060000Z\nRRULE:FREQ=DAILY"),
            "rrule DTSTART:20260101T060000Z RRULE:FREQ=DAILY",
        ),
    ],
)
def test_a_schedule_has_a_text_for_people(schedule: TaskScheduleBase, words: str) -> None:
    assert str(schedule) == words


def test_a_schedule_ends_with_the_calendar() -> None:
    for schedule in (IntervalSeconds(60), CronSchedule("@daily"), RRuleSchedule("FREQ=DAILY")):
        with pytest.raises(ScheduleEndedError):
            schedule.next_occurrence(datetime.max.replace(tzinfo=UTC))


class Every(TaskScheduleBase):
    """As DiracX has them: without a text of its own."""

    def __init__(self, hours: int) -> None:
        self.hours = hours
        self.zone = object()
        self._cache = datetime.now(UTC)

    def next_occurrence(self) -> datetime:  # type: ignore[override]
        return datetime.now(UTC) + timedelta(hours=self.hours)


@dataclasses.dataclass(frozen=True)
class Daily(TaskScheduleBase):
    hour: int

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        raise NotImplementedError


def test_the_text_of_a_schedule_of_an_author_is_the_same_in_each_process() -> None:
    assert str(Every(2)) == str(Every(2)) == "Every(hours=2, zone=<object object>)"
    assert str(Daily(6)) == "Daily(hour=6)"


def test_a_schedule_answers_from_now_if_it_takes_no_time() -> None:
    assert answers_from_now(Every(2))
    assert not answers_from_now(Daily(6))
    assert not answers_from_now(IntervalSeconds(60))
