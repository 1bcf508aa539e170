"""Cron expressions compared with a clock that is watched minute by minute, in 13 zones and over 5 years each.

The years are those in which the clocks of the zone did what is hard. More cases with DIRACX_TASKS_ORACLE_CASES.
"""

from __future__ import annotations

import calendar
import os
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.schedules import CronSchedule

CASES = int(os.environ.get("DIRACX_TASKS_ORACLE_CASES", "150"))
MINUTE = timedelta(minutes=1)
YEARS = 5
FIRST_YEARS = {
    "UTC": 2026,
    "Europe/Zurich": 2024,
    "Europe/Dublin": 2024,  # summer is the standard time
    "America/New_York": 2024,
    "America/Havana": 2021,  # changes at midnight and at 01:00
    "America/Sao_Paulo": 2015,  # skipped midnight, until 2019
    "Asia/Beirut": 2021,  # skips midnight
    "Africa/Cairo": 2022,  # skips midnight, back at midnight
    "Africa/Casablanca": 2024,  # changes around Ramadan
    "Australia/Lord_Howe": 2024,  # half an hour
    "Asia/Kathmandu": 1984,  # 15 minutes forward in 1986
    "Pacific/Apia": 2009,  # skipped 30 December 2011
    "Pacific/Kwajalein": 1990,  # skipped 21 August 1993
}
NAMES = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


def _span(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    return st.one_of(
        number.map(str),
        st.tuples(number, number).map(lambda two: "{}-{}".format(*sorted(two))),
        st.builds("*/{}".format, st.integers(1, high - low)),
        st.builds("{}/{}".format, number, st.integers(1, high - low)),
    )


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    return st.just("*") | st.lists(_span(low, high), min_size=1, max_size=3).map(",".join)


# Most clocks change between 23:00 and 03:00.
hours_of_changes = st.sampled_from(["0", "1", "2", "23", "0-3", "0,2,23", "*/2", "22-2", "*", "0-23"])
hours = _field(0, 23) | hours_of_changes
days = _field(1, 31) | st.sampled_from(["*", "*", "?", "L", "LW", "15W", "1W", "28W", "1,L", "29", "30", "31"])
weekdays = (
    _field(0, 6)
    | st.sampled_from(["*", "*", "?", "mon", "SUN", "7", "fri-mon", "5-7", "L5", "5L", "mon-fri#1", "0,3#5"])
    | st.builds("{}#{}".format, st.sampled_from(NAMES) | st.integers(0, 7), st.integers(1, 5))
)
every_day = st.builds("{} {} * * *".format, _span(0, 59), hours_of_changes)
some_days = st.tuples(_field(0, 59), hours, days, st.just("*") | _field(1, 12), weekdays).map(" ".join)


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone, and a time of its years: any, or near a change of its clocks."""
    near_a_change: bool = draw(st.booleans())
    zone = draw(st.sampled_from(list(FIRST_YEARS)))
    begin = datetime(FIRST_YEARS[zone], 1, 1, tzinfo=UTC)
    changes = clock_changes(zone)
    if changes and near_a_change:
        minutes = draw(st.integers(-100, 5) | st.integers(-2000, 1600))
        return zone, draw(st.sampled_from(changes)) + timedelta(minutes=minutes)
    return zone, begin + timedelta(seconds=draw(st.integers(0, 86_400 * 365 * YEARS)))


@lru_cache
def clock_changes(zone: str) -> list[datetime]:
    """The first minute after each change of the clocks."""
    info, at = ZoneInfo(zone), datetime(FIRST_YEARS[zone], 1, 1, tzinfo=UTC)
    found = []
    for _ in range(365 * YEARS):
        if (at + timedelta(days=1)).astimezone(info).utcoffset() != at.astimezone(info).utcoffset():
            turn = at
            while turn.astimezone(info).utcoffset() == at.astimezone(info).utcoffset():
                turn += MINUTE
            found.append(turn)
        at += timedelta(days=1)
    return found


class Watch:
    """Reads an expression anew, and looks at the clock each minute."""

    def __init__(self, expression: str, zone: str) -> None:
        self.minute, self.hour, self.day, self.month, self.weekday = expression.lower().split()
        self.zone = ZoneInfo(zone)
        self.each_hour = all(self.number(self.hour, hour, 0, 23) for hour in range(24))
        self.matches_day = lru_cache(self._matches_day)

    def number(self, field: str, value: int, low: int, high: int) -> bool:
        for item in field.split(","):
            span, _, step = item.partition("/")
            first, _, last = span.partition("-")
            if span == "*":
                first, last = str(low), str(high)
            elif not last:
                last = str(high) if step else first
            values = list(range(int(first), high + 1)) + list(range(low, int(first)))
            values = values[: values.index(int(last)) + 1]
            if value in values[:: int(step or 1)]:
                return True
        return False

    def _matches_day(self, on: date) -> bool:
        if not self.number(self.month, on.month, 1, 12):
            return False
        any_day = self.day == "?" or "*" in self.day.split(",")
        any_weekday = self.weekday == "?" or "*" in self.weekday.split(",")
        of_month = not any_day and any(self.in_month(item, on) for item in self.day.split(","))
        of_week = not any_weekday and any(self.in_week(item, on) for item in self.weekday.split(","))
        return of_month or of_week or (any_day and any_weekday)

    def in_month(self, item: str, on: date) -> bool:
        last = calendar.monthrange(on.year, on.month)[1]
        working = [day for day in range(1, last + 1) if on.replace(day=day).weekday() < 5]
        if item == "l":
            return on.day == last
        if item == "lw":
            return on.day == working[-1]
        if item.endswith("w"):
            return on.day == min(working, key=lambda day: abs(day - int(item[:-1])))
        return self.number(item, on.day, 1, 31)

    def in_week(self, item: str, on: date) -> bool:
        weekday = on.isoweekday() % 7
        if item in ("l5", "5l"):
            return weekday == 5 and (on + timedelta(days=7)).month != on.month
        item, _, place = item.partition("#")
        if place and sum(1 for day in range(1, on.day + 1) if on.replace(day=day).weekday() == on.weekday()) != int(
            place
        ):
            return False
        for number, name in enumerate(NAMES):
            item = item.replace(name, str(number))
        if item == "5-7":
            return weekday in (5, 6, 0)
        return self.number(item.replace("7", "0") if "/" not in item else item, weekday, 0, 6)

    def matches(self, wall: datetime) -> bool:
        return (
            self.matches_day(wall.date())
            and self.number(self.hour, wall.hour, 0, 23)
            and self.number(self.minute, wall.minute, 0, 59)
        )

    def is_due(self, at: datetime) -> bool:
        """Whether it runs at this minute, by the rules in `schedules.base`."""
        local = at.astimezone(self.zone)
        shown = local.replace(tzinfo=None, fold=0)
        if self.each_hour:
            return self.matches(shown)
        if not local.fold and self.matches(shown):
            return True
        skipped = (at - MINUTE).astimezone(self.zone).replace(tzinfo=None, fold=0) + MINUTE
        while skipped < shown:
            if self.matches(skipped):
                return True
            skipped += MINUTE
        return False

    def next_after(self, after: datetime, end: datetime) -> datetime | None:
        at = after.replace(second=0, microsecond=0) + MINUTE
        while at < end:
            if self.is_due(at):
                return at
            today = at.astimezone(self.zone).date()
            if not any(self.matches_day(today + timedelta(days=days)) for days in (-2, -1, 0, 1, 2)):
                at += timedelta(hours=18)
            at += MINUTE
        return None


def loaded(expression: str, zone: str) -> CronSchedule | None:
    """None: it never comes true."""
    try:
        return CronSchedule(expression, zone)
    except TaskDefinitionError as error:
        if "never comes true" in str(error):
            return None
        raise


@settings(max_examples=CASES, deadline=None, derandomize=True, phases=[Phase.generate])
@given(expression=every_day | some_days, moment=moments())
def test_cron_runs_as_a_watched_clock_says(expression: str, moment: tuple[str, datetime]) -> None:
    zone, after = moment
    watch = Watch(expression, zone)
    end = after + timedelta(days=365 * YEARS)
    expected = watch.next_after(after, end)
    schedule = loaded(expression, zone)
    if schedule is None:
        assert expected is None
        return
    found = schedule.next_occurrence(after)
    if expected is None:
        assert found >= end
        return
    assert found == expected
    if expected - after < timedelta(days=3):
        assert schedule.next_occurrence(found) == watch.next_after(found, end)


@pytest.mark.parametrize("expression", ["10,30 0-3,23 * * *", "*/20 * * * *"])
@pytest.mark.parametrize("zone", FIRST_YEARS)
def test_cron_runs_as_a_watched_clock_says_around_each_change_of_the_clocks(zone: str, expression: str) -> None:
    watch, schedule = Watch(expression, zone), CronSchedule(expression, zone)
    for change in clock_changes(zone):
        begin, end = change - timedelta(hours=3), change + timedelta(hours=3)
        expected = [at for minutes in range(1, 361) if watch.is_due(at := begin + minutes * MINUTE)]
        found, at = [], begin
        while (at := schedule.next_occurrence(at)) <= end:
            found.append(at)
        assert found == expected
