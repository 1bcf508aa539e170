"""The times of a recurrence rule from any time on, without a walk from DTSTART.

dateutil's rrule names the days of one year (BYMONTH, BYMONTHDAY, BYYEARDAY, BYWEEKNO, BYEASTER, BYDAY). It is not asked
for more: it reaches a late time, or finds that a rule never comes true, only step by step until the year 9999. What
FREQ and INTERVAL count is arithmetic:

* A year, month, week or day counts if its distance to that of DTSTART is a multiple of INTERVAL. BYSETPOS chooses among
  the times of its days.
* The hours, minutes or seconds of a day that count follow from the first one of them. A first one without a wanted time
  is remembered, so that all days together take a step for each second of one day at the most.

So an answer takes a bounded number of steps: it looks at each year up to `LATEST_TIME` once.

Times are naive, on the wall clock of the rule.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, date, datetime, time, timedelta
from functools import lru_cache
from itertools import groupby
from typing import Final

from diracx.tasks.plumbing.clock import LATEST_TIME

UNITS_A_DAY: Final = {"HOURLY": 24, "MINUTELY": 1_440, "SECONDLY": 86_400}
_DAY_SECONDS: Final = 86_400


Weekday = tuple[int, int | None]
"""0 for Monday, and its number in the month or year; None means each one."""


@dataclass(frozen=True, kw_only=True)
class Days:
    """The days that the parts of a rule name; an empty part, or None, names each day."""

    bymonth: tuple[int, ...] = ()
    bymonthday: tuple[int, ...] = ()
    byyearday: tuple[int, ...] = ()
    byweekno: tuple[int, ...] = ()
    byeaster: tuple[int, ...] | None = None
    byweekday: tuple[Weekday, ...] = tuple((day, None) for day in range(7))
    wkst: int = 0

    def of(self, year: int) -> Iterator[date]:
        """Yield the days of a year, in order."""
        # Only now: a process without such a schedule does not load dateutil.
        from dateutil.rrule import YEARLY, rrule, weekday

        parts = {**vars(self), "byweekday": [weekday(*day) for day in self.byweekday]}
        # With this interval dateutil ends after one year.
        days = rrule(YEARLY, datetime(year, 1, 1), MAXYEAR, **parts)  # noqa: DTZ001 - a wall-clock time
        return (day.date() for day in days)

    def since(self, first: date) -> Iterator[date]:
        """Yield the days from one on, in order, up to the last year that the server can hold."""
        for year in range(first.year, LATEST_TIME.year + 1):
            yield from (day for day in self.of(year) if day >= first)


@dataclass(frozen=True, kw_only=True)
class Periods:
    """The times of a rule, without its end.

    Args:
        start: DTSTART.
        weeks: With FREQ=WEEKLY, the weeks that BYWEEKNO names, by their first day; it is not in `days`.
        units: The hours, minutes and seconds at which a wanted hour, minute or second begins; unused for longer ones.
        times: The times in each day, or in each hour, minute or second, in seconds from its beginning, in order.
        positions: BYSETPOS; empty means all. It is already applied to the times in an hour, minute or second.
    """

    start: datetime
    frequency: str
    interval: int
    days: Days
    weeks: Days | None
    units: tuple[tuple[int, ...], ...]
    times: tuple[int, ...]
    positions: frozenset[int]

    def since(self, earliest: datetime) -> Iterator[datetime]:
        """Yield the times in order, from one on or from shortly before it; the caller leaves out what is too early.

        Args:
            earliest: Not before DTSTART.
        """
        return self._in_units(earliest) if self.frequency in UNITS_A_DAY else self._in_days(earliest)

    def _in_days(self, earliest: datetime) -> Iterator[datetime]:
        origin = self._number(self.start.date())
        for number, days in groupby(self.days.since(self._first_day(earliest.date())), self._number):
            if (number - origin) % self.interval == 0:
                yield from self._chosen(list(days), earliest)

    def _chosen(self, days: list[date], earliest: datetime) -> Iterator[datetime]:
        first = self._first_day(days[0])
        if self.weeks is not None and first not in _days_of(self.weeks, first.year):
            return
        size = len(self.times)
        places: Iterable[int] = range(bisect_left(days, earliest.date()) * size, len(days) * size)
        if self.positions:
            places = chosen_places(self.positions, len(days) * size)
        for place in places:
            yield _at(days[place // size], self.times[place % size])

    def _number(self, day: date) -> int:
        """The number of the year, month, week or day that a day is in."""
        if self.frequency == "WEEKLY":
            return (day.toordinal() - 1 - self.days.wkst) // 7  # day 1 is a Monday
        if self.frequency == "DAILY":
            return day.toordinal()
        return day.year if self.frequency == "YEARLY" else day.year * 12 + day.month

    def _first_day(self, day: date) -> date:
        if self.frequency == "WEEKLY":
            # As in dateutil, the first week begins with DTSTART.
            first = self._number(day) * 7 + 1 + self.days.wkst
            return max(date.fromordinal(max(first, 1)), self.start.date())
        if self.frequency == "DAILY":
            return day
        return day.replace(month=1 if self.frequency == "YEARLY" else day.month, day=1)

    def _in_units(self, earliest: datetime) -> Iterator[datetime]:
        a_day = UNITS_A_DAY[self.frequency]
        origin = self.start.toordinal() * a_day + _unit_of(self.start, a_day)
        without: set[int] = set()
        for day in self.days.since(earliest.date()):
            first = (origin - day.toordinal() * a_day) % self.interval
            if first >= a_day or first in without:
                continue
            since = _unit_of(earliest, a_day) if day == earliest.date() else 0
            found = False
            for unit in self._wanted_units(first, since, a_day):
                found = True
                for seconds in self.times:
                    yield _at(day, unit + seconds)
            if not found and not since:
                without.add(first)

    def _wanted_units(self, first: int, since: int, a_day: int) -> Iterator[int]:
        """Yield the wanted units of a day, in order, as seconds from midnight."""
        for hour in self.units[0]:
            begin, end = max(since, hour * a_day // 24), (hour + 1) * a_day // 24
            for unit in range(begin + (first - begin) % self.interval, end, self.interval):
                if self._is_wanted(seconds := unit * _DAY_SECONDS // a_day):
                    yield seconds

    def _is_wanted(self, seconds: int) -> bool:
        _, minutes, seconds_of_minute = self.units
        return seconds // 60 % 60 in minutes and seconds % 60 in seconds_of_minute


@lru_cache(maxsize=16)
def _days_of(days: Days, year: int) -> frozenset[date]:
    return frozenset(days.of(year))


def chosen_places(positions: Iterable[int], count: int) -> list[int]:
    """The places, from 0, that BYSETPOS names among `count` times, in order; negative positions count from the end."""
    places = {position - 1 if position > 0 else count + position for position in positions}
    return sorted(place for place in places if 0 <= place < count)


def _unit_of(moment: datetime, a_day: int) -> int:
    return (moment.hour * 3600 + moment.minute * 60 + moment.second) * a_day // _DAY_SECONDS


def _at(day: date, seconds: int) -> datetime:
    return datetime.combine(day, time()) + timedelta(seconds=seconds)
