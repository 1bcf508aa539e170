"""Recurrence rules compared with dateutil, which walks from DTSTART; more cases with DIRACX_TASKS_ORACLE_CASES."""

from __future__ import annotations

import datetime as datetime_module
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from types import SimpleNamespace
from unittest.mock import patch
from zoneinfo import ZoneInfo

import dateutil.rrule
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.exceptions import ScheduleEndedError, TaskDefinitionError
from diracx.tasks.plumbing.schedules import RRuleSchedule

CASES = int(os.environ.get("DIRACX_TASKS_ORACLE_CASES", "80"))
# dateutil walks to the end of its calendar, so each frequency gets one that ends after a bearable number of steps.
YEARS = {"YEARLY": 120, "MONTHLY": 40, "WEEKLY": 20, "DAILY": 9, "HOURLY": 1, "MINUTELY": 0, "SECONDLY": 0}
WEEKDAYS = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"]
ZONES = [
    "UTC",
    "Europe/Zurich",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Asia/Beirut",
    "Africa/Casablanca",
    "Europe/Dublin",
    "Pacific/Apia",
]


def _numbers(least: int, most: int, *, up_to: int = 4) -> st.SearchStrategy[str]:
    numbers = st.integers(least, most).filter(bool) if least < 0 else st.integers(least, most)
    return st.lists(numbers, min_size=1, max_size=up_to, unique=True).map(lambda found: ",".join(map(str, found)))


@st.composite
def _weekdays(draw: st.DrawFn, frequency: str, *, in_months: bool) -> str:
    day = st.sampled_from(WEEKDAYS)
    numbers = {"YEARLY": [-53, -20, -1, 1, 2, 52], "MONTHLY": [-5, -1, 1, 2, 3, 5]}.get(frequency, [])
    if in_months:
        numbers = [number for number in numbers if abs(number) <= 5]
    numbered: bool = draw(st.booleans())
    if numbers and numbered:
        day = st.builds("{}{}".format, st.sampled_from(numbers), day)
    return ",".join(draw(st.lists(day, min_size=1, max_size=5, unique=True)))


@st.composite
def rules(draw: st.DrawFn) -> tuple[str, datetime, str]:
    """A rule, its start on the wall, and its zone."""
    frequency = draw(st.sampled_from(list(YEARS)))
    start = draw(st.datetimes(datetime(1972, 1, 1), datetime(2036, 12, 31))).replace(microsecond=0)  # noqa: DTZ001
    if draw(st.booleans()):
        start = start.replace(hour=draw(st.sampled_from([0, 1, 2, 3, 23])), minute=draw(st.sampled_from([0, 30])))
    if frequency == "SECONDLY":
        start = start.replace(month=12, day=draw(st.integers(29, 31)))
    if frequency == "MINUTELY":
        start = start.replace(month=12, day=draw(st.integers(1, 30)))
    interval = draw(st.integers(1, 4) | st.integers(1, 100) | st.sampled_from([7, 61, 1000, 1441, 86399]))
    parts = [f"FREQ={frequency}", f"INTERVAL={interval}"]
    choices = {
        "BYMONTH": _numbers(1, 12),
        "BYMONTHDAY": _numbers(-31, 31),
        "BYYEARDAY": _numbers(-366, 366, up_to=40),
        "BYWEEKNO": _numbers(-53, 53, up_to=12),
        # In a week that begins in the year before, dateutil looks for the days of that year's Easter.
        "BYEASTER": st.integers(-73 if frequency == "WEEKLY" else -80, 250).map(str),
        "BYHOUR": _numbers(0, 23),
        "BYMINUTE": _numbers(0, 59),
        "BYSECOND": _numbers(0, 59),
        "WKST": st.sampled_from(WEEKDAYS),
        "BYSETPOS": _numbers(-6, 6),
    }
    for name in draw(st.lists(st.sampled_from(list(choices)), max_size=4, unique=True)):
        parts.append(f"{name}={draw(choices[name])}")
    by_day: bool = draw(st.booleans())
    if by_day:
        parts.append(f"BYDAY={draw(_weekdays(frequency, in_months=any('BYMONTH=' in part for part in parts)))}")
    end = draw(st.sampled_from(["", "", "COUNT"]))
    if end:
        parts.append(f"COUNT={draw(st.integers(1, 50))}")
    return ";".join(parts), start, draw(st.sampled_from(ZONES))


def walked(rule: str, start: datetime, most: int) -> Iterator[datetime]:
    """The wall-clock times by dateutil, from DTSTART to the end of the calendar."""
    shortened = SimpleNamespace(**{**vars(datetime_module), "MAXYEAR": last_year(rule, start)})
    with patch.object(dateutil.rrule, "datetime", shortened):
        try:
            yield from islice(dateutil.rrule.rrulestr(rule, dtstart=start), most)
        except ValueError as error:
            # How dateutil says that a rule never comes true.
            if "empty" not in str(error):
                raise


def last_year(rule: str, start: datetime) -> int:
    frequency = rule.partition(";")[0].removeprefix("FREQ=")
    return start.year + YEARS[frequency]


def instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first instant at which the clock shows a time, else the first one after it."""
    found = wall.replace(tzinfo=zone).astimezone(UTC)
    if found.astimezone(zone).replace(tzinfo=None, fold=0) == wall:
        return found
    found = found.replace(second=0) - timedelta(hours=26)
    while found.astimezone(zone).replace(tzinfo=None, fold=0) < wall:
        found += timedelta(minutes=1)
    return found


def loaded(rule: str) -> RRuleSchedule | None:
    """None: it does not come true, or not before 2262."""
    try:
        return RRuleSchedule(rule)
    except TaskDefinitionError as error:
        if re.search("never comes true|times in each period", str(error)):
            return None
        raise


@settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
@given(case=rules(), data=st.data())
def test_a_rule_has_the_times_of_a_walk_from_its_start(case: tuple[str, datetime, str], data: st.DataObject) -> None:
    rule, start, zone = case
    most = 60
    walls = list(walked(rule, start, most))
    times = sorted({instant(wall, ZoneInfo(zone)) for wall in walls})
    end = datetime(last_year(rule, start), 12, 30, tzinfo=UTC)
    if len(walls) == most:
        end = times[-1]
    head = f"DTSTART:{start:%Y%m%dT%H%M%S}Z" if zone == "UTC" else f"DTSTART;TZID={zone}:{start:%Y%m%dT%H%M%S}"
    schedule = loaded(f"{head} RRULE:{rule}")
    if schedule is None:
        assert not times
        return
    after = data.draw(st.sampled_from([start.replace(tzinfo=UTC) - timedelta(days=2), *times]))
    for _ in range(12):
        place = bisect_right(times, after)
        try:
            found = schedule.next_occurrence(after)
        except ScheduleEndedError:
            found = datetime.max.replace(tzinfo=UTC)
        if place == len(times):
            assert found > end
            return
        assert found == times[place]
        after = data.draw(st.sampled_from([found, found, found + timedelta(microseconds=1)]))
