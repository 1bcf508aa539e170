"""The periods of a recurrence rule that count, and the times in each: the search for the next time, without a walk.

A rule of FREQ and INTERVAL counts the period of DTSTART (a day, week, month or year, or an hour, minute or second) and
each INTERVAL-th one after it. Within one period BYSETPOS chooses among the times. So a search may begin at any period:

* The phase is arithmetic: the distance to the period of DTSTART is a multiple of INTERVAL.
* Days that no part names are skipped by `YearDays`, a year at a time where a year has none.
* The pattern repeats after 400 years, times the part of INTERVAL that is foreign to them. A search ends there, so a
  rule that never comes true is known after some hundred thousand steps.

Times are naive, on the wall clock of the rule. Days are ordinals, as `date.toordinal` gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, date, datetime, time, timedelta
from functools import cached_property
from itertools import product
from math import gcd, lcm
from typing import Final, Protocol

from diracx.tasks.plumbing.schedules.year_days import LAST_DAY, YearDays

UNITS_A_DAY: Final = {"DAILY": 1, "HOURLY": 24, "MINUTELY": 1_440, "SECONDLY": 86_400}
PERIODS_IN_400_YEARS: Final = {"YEARLY": 400, "MONTHLY": 4_800, "WEEKLY": 20_871}
_DAYS_IN_400_YEARS: Final = 146_097
_DAY_SECONDS: Final = 86_400
_RADIX: Final = 60


class Periods(Protocol):
    """The times of a rule, without its end."""

    def times_from(self, earliest: datetime) -> Iterator[datetime]:
        """Yield the times in order, from one on or from shortly before it; the caller leaves out what is too early."""


@dataclass(frozen=True)
class LongPeriods:
    """Years, months or weeks.

    Args:
        start: DTSTART.
        frequency: A key of `PERIODS_IN_400_YEARS`.
        times: The times of each day, in seconds from midnight, in order.
        positions: BYSETPOS; empty means all.
    """

    start: datetime
    frequency: str
    interval: int
    days: YearDays
    times: tuple[int, ...]
    positions: frozenset[int]

    def times_from(self, earliest: datetime) -> Iterator[datetime]:
        """As `Periods` says."""
        origin = self._period(self.start.toordinal())
        period = self._period(earliest.toordinal())
        repeats = lcm(PERIODS_IN_400_YEARS[self.frequency], self.interval)
        limit = period + repeats
        cursor = self._first_day(period)
        while (day := self.days.on_or_after(cursor)) is not None:
            period = self._period(day)
            if period > limit and self.days.repeats:
                return
            if past := (period - origin) % self.interval:
                period += self.interval - past
            else:
                for moment in self._times_of(period, earliest):
                    limit = period + repeats
                    yield moment
                period += 1
            cursor = self._first_day(period)

    def _times_of(self, period: int, earliest: datetime) -> Iterator[datetime]:
        first, end = self._first_day(period), self._first_day(period + 1)
        if self.frequency == "WEEKLY":
            # As in dateutil, positions in the first week are counted from DTSTART, not from the start of the week.
            first = max(first, self.start.toordinal())
            day = date.fromordinal(first)
            if not self.days.week_matches(day.year, first - date(day.year, 1, 1).toordinal()):
                return
        if not self.positions:
            for matching in self.days.between(max(first, earliest.toordinal()), end):
                yield from (_at(matching, seconds) for seconds in self.times)
            return
        days = list(self.days.between(first, end))
        for place in chosen_places(self.positions, len(days) * len(self.times)):
            in_days, in_times = divmod(place, len(self.times))
            yield _at(days[in_days], self.times[in_times])

    def _period(self, day: int) -> int:
        if self.frequency == "WEEKLY":
            return (day - 1 - self.days.parts.week_start) // 7  # day 1 is a Monday
        of_day = date.fromordinal(day)
        return of_day.year if self.frequency == "YEARLY" else of_day.year * 12 + of_day.month - 1

    def _first_day(self, period: int) -> int:
        if self.frequency == "WEEKLY":
            return max(1, period * 7 + 1 + self.days.parts.week_start)
        year, month = (period, 0) if self.frequency == "YEARLY" else divmod(period, 12)
        return date(year, month + 1, 1).toordinal() if year <= MAXYEAR else LAST_DAY + 1


@dataclass(frozen=True)
class DayUnits:
    """Days, or units of a day: hours, minutes or seconds.

    Args:
        start: DTSTART.
        frequency: A key of `UNITS_A_DAY`.
        wanted: The hours, minutes and seconds of the wanted units, as far as the unit has them: none for a day, the
            hours for an hour, hours and minutes for a minute.
        times: The times in each unit, in seconds from its beginning, in order; BYSETPOS is applied.
    """

    start: datetime
    frequency: str
    interval: int
    days: YearDays
    wanted: tuple[tuple[int, ...], ...]
    times: tuple[int, ...]

    @property
    def _units(self) -> int:
        return UNITS_A_DAY[self.frequency]

    def times_from(self, earliest: datetime) -> Iterator[datetime]:
        """As `Periods` says."""
        first_day = cursor = earliest.toordinal()
        repeats = lcm(_DAYS_IN_400_YEARS, self._modulus)
        limit = cursor + repeats
        while (day := self.days.on_or_after(cursor)) is not None:
            if day > limit and self.days.repeats:
                return
            cursor = day + self._distance(day) // self._units
            if cursor > day:
                continue
            cursor = day + 1
            if day % self._modulus not in self._residues:
                continue
            for unit in self._units_of(day, self._unit_of(earliest) if day == first_day else 0):
                limit = day + repeats
                for seconds in self.times:
                    yield _at(day, unit * (_DAY_SECONDS // self._units) + seconds)

    def _unit_of(self, moment: datetime) -> int:
        return (moment.hour * 3600 + moment.minute * 60 + moment.second) * self._units // _DAY_SECONDS

    @cached_property
    def _origin(self) -> int:
        return self.start.toordinal() * self._units + self._unit_of(self.start)

    def _distance(self, day: int) -> int:
        """The number of units from the start of a day to the next unit in phase."""
        return (self._origin - day * self._units) % self.interval

    @cached_property
    def _modulus(self) -> int:
        """Which units of a day are in phase depends on the day modulo this."""
        return self.interval // gcd(self.interval, self._units)

    @cached_property
    def _residues(self) -> frozenset[int] | range:
        """The days, modulo `_modulus`, that have a unit which is wanted and in phase."""
        if self._wanted_count == self._units:
            return range(self._modulus)
        # A unit u of a day d is in phase if d * units + u = origin, modulo the interval.
        common = gcd(self.interval, self._units)
        inverse = pow(self._units // common, -1, self._modulus)
        apart = (self._origin - unit for unit in self._wanted_units(0))
        return frozenset(units // common * inverse % self._modulus for units in apart if units % common == 0)

    @cached_property
    def _wanted_count(self) -> int:
        count = 1
        for field in self.wanted:
            count *= len(field)
        return count

    def _wanted_units(self, since: int) -> Iterator[int]:
        """Yield the wanted units of a day, in order, from the hour of a unit on."""
        hour = since * 24 // self._units
        hours = (tuple(each for each in field if each >= hour) for field in self.wanted[:1])
        for chosen in product(*hours, *self.wanted[1:]):
            unit = 0
            for number in chosen:
                unit = unit * _RADIX + number
            yield unit

    def _is_wanted(self, unit: int) -> bool:
        for field in reversed(self._fields):
            unit, number = divmod(unit, _RADIX)
            if number not in field:
                return False
        return True

    @cached_property
    def _fields(self) -> tuple[frozenset[int], ...]:
        return tuple(frozenset(field) for field in self.wanted)

    def _units_of(self, day: int, since: int) -> Iterable[int]:
        """The units of a day that are wanted and in phase, in order, from a unit on."""
        distance = self._distance(day)
        if self._units // self.interval > self._wanted_count:
            wanted = self._wanted_units(since)
            return (unit for unit in wanted if unit >= since and (unit - distance) % self.interval == 0)
        in_phase = range(max(distance, since + (distance - since) % self.interval), self._units, self.interval)
        return in_phase if self._wanted_count == self._units else filter(self._is_wanted, in_phase)


def chosen_places(positions: Iterable[int], count: int) -> list[int]:
    """The places, from 0, that BYSETPOS names among `count` times, in order; negative positions count from the end."""
    places = {position - 1 if position > 0 else count + position for position in positions}
    return sorted(place for place in places if 0 <= place < count)


def _at(day: int, seconds: int) -> datetime:
    return datetime.combine(date.fromordinal(day), time()) + timedelta(seconds=seconds)
