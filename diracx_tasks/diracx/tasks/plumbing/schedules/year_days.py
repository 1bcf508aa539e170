"""The days of a year that the parts of a recurrence rule name, such as BYMONTH, BYDAY and BYWEEKNO."""

from __future__ import annotations

from bisect import bisect_left
from calendar import isleap, monthrange
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Final

MIN_EASTER_OFFSET: Final = -80
MAX_EASTER_OFFSET: Final = 250
"""Within these, the day is in the year of its Easter Sunday."""
LAST_DAY: Final = date.max.toordinal()


@dataclass(frozen=True, slots=True)
class DayParts:
    """What a day must match; an empty part matches every day. Negative numbers count from the end."""

    months: frozenset[int] = frozenset()
    month_days: frozenset[int] = frozenset()
    year_days: frozenset[int] = frozenset()
    week_numbers: frozenset[int] = frozenset()
    easter_offsets: frozenset[int] = frozenset()
    """Days after Easter Sunday, from `MIN_EASTER_OFFSET` to `MAX_EASTER_OFFSET`."""
    weekdays: frozenset[int] = frozenset()
    """0 is Monday."""
    numbered_weekdays: frozenset[tuple[int, int]] = frozenset()
    """`(4, -1)` is the last Friday of the month, or of the year: see `numbered_in_year`."""
    numbered_in_year: bool = False
    week_start: int = 0


@dataclass(frozen=True, slots=True)
class YearDays:
    """The matching days of each year. Years with the same calendar share one answer."""

    parts: DayParts
    by_week: bool = True
    """False: the caller asks `week_matches` for whole weeks."""
    _by_calendar: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)

    @property
    def repeats(self) -> bool:
        """Whether the days come again after 400 years. Easter does not."""
        return not self.parts.easter_offsets

    def of(self, year: int) -> tuple[int, ...]:
        """The matching days, in order, counted from 0 for 1 January."""
        first = date(year, 1, 1).weekday()
        # The neighbours matter to the numbers of the weeks at both ends.
        calendar: tuple[int, ...] = (first, isleap(year - 1), isleap(year), isleap(year + 1))
        if self.parts.easter_offsets:
            calendar = (*calendar, easter_day(year))
        if calendar not in self._by_calendar:
            self._by_calendar[calendar] = self._matching(year, first)
        return self._by_calendar[calendar]

    def on_or_after(self, day: int) -> int | None:
        """The first matching day from a day on, as ordinals; None: the calendar ends before one."""
        while day <= LAST_DAY:
            year = date.fromordinal(day).year
            first = date(year, 1, 1).toordinal()
            matching = self.of(year)
            if (place := bisect_left(matching, day - first)) < len(matching):
                return first + matching[place]
            day = first + 365 + isleap(year)
        return None

    def between(self, day: int, end: int) -> Iterator[int]:
        """Yield the matching days from a day on and before another, as ordinals."""
        while (found := self.on_or_after(day)) is not None and found < end:
            yield found
            day = found + 1

    def _matching(self, year: int, first: int) -> tuple[int, ...]:
        length = 365 + isleap(year)
        easter = easter_day(year) if self.parts.easter_offsets else 0
        found = []
        start = 0
        for month in range(1, 13):
            days = monthrange(year, month)[1]
            for day in range(days):
                weekday = (first + start + day) % 7
                in_year = self.parts.numbered_in_year
                place = (start + day, length) if in_year else (day, days)
                if (
                    self._month_matches(month, day, days)
                    and self._year_day_matches(start + day, length, easter)
                    and self._weekday_matches(weekday, *place)
                    and (not self.by_week or self.week_matches(year, start + day))
                ):
                    found.append(start + day)
            start += days
        return tuple(found)

    def _month_matches(self, month: int, day: int, days: int) -> bool:
        wanted = self.parts.month_days
        return (not self.parts.months or month in self.parts.months) and (
            not wanted or day + 1 in wanted or day - days in wanted
        )

    def _year_day_matches(self, day: int, length: int, easter: int) -> bool:
        wanted, offsets = self.parts.year_days, self.parts.easter_offsets
        return (not wanted or day + 1 in wanted or day - length in wanted) and (not offsets or day - easter in offsets)

    def _weekday_matches(self, weekday: int, day: int, days: int) -> bool:
        wanted, numbered = self.parts.weekdays, self.parts.numbered_weekdays
        return (not wanted or weekday in wanted) and (
            not numbered or (weekday, day // 7 + 1) in numbered or (weekday, -((days - 1 - day) // 7) - 1) in numbered
        )

    def week_matches(self, year: int, day: int) -> bool:
        """Whether the number of a day's week is wanted. A week belongs to the year that has four of its days or more.

        This is dateutil's reading of BYWEEKNO (4.0 and 2.9), which differs from RFC 5545 where a week lies in two
        years: 52, 53, -52 and -53 are not always the weeks that a calendar shows.

        Args:
            day: From 0 for 1 January.
        """
        if not (wanted := self.parts.week_numbers):
            return True
        first, length = date(year, 1, 1).weekday(), 365 + isleap(year)
        begin = _first_week(first, self.parts.week_start)
        end = length + _first_week((first + length) % 7, self.parts.week_start)
        if day < begin:
            return -1 in wanted or self._weeks_of_year_before(year, first, begin) in wanted
        if day >= end:
            return 1 in wanted
        number, weeks = (day - begin) // 7 + 1, (end - begin) // 7
        return number in wanted or number - weeks - 1 in wanted

    def _weeks_of_year_before(self, year: int, first: int, begin: int) -> int:
        length = 365 + isleap(year - 1)
        passed = ((first - length) % 7 - self.parts.week_start) % 7
        if passed <= 3:
            return 52 + (length + passed) % 7 // 4
        # dateutil takes the lengths of this year, not of the year before.
        return 52 + (365 + isleap(year) - begin) % 7 // 4


def _first_week(first: int, week_start: int) -> int:
    """The day on which week 1 begins, from -3 to 3; 0 is 1 January."""
    passed = (first - week_start) % 7
    return -passed if passed <= 3 else 7 - passed


def easter_day(year: int) -> int:
    """Easter Sunday of the Gregorian calendar, counted from 0 for 1 January (Meeus/Jones/Butcher)."""
    golden, century = year % 19, year // 100
    skipped, in_century = century // 4, year % 100
    epact = (19 * golden + century - skipped - (century - (century + 8) // 25 + 1) // 3 + 15) % 30
    weekday = (32 + 2 * (century % 4) + 2 * (in_century // 4) - epact - in_century % 4) % 7
    late = (golden + 11 * epact + 22 * weekday) // 451
    month, day = divmod(epact + weekday - 7 * late + 114, 31)
    return date(year, month, day + 1).timetuple().tm_yday - 1
