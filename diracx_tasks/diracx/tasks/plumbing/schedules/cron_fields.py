"""The five fields of a cron expression, and the days, hours and minutes that they name.

The grammar is that of Vixie cron with the additions of Quartz that have one reading only:

* `*`, `5`, `1-5`, `*/2`, `1-5/2`, `5/2` (from 5 to the end of the field), and lists of these with commas;
* a range may wrap: `22-2` is 22, 23, 0, 1, 2, and a step counts on through the wrap;
* names of months and weekdays, `jan` to `dec` and `sun` to `sat`; Sunday is 0 and 7;
* day of month: `L` (the last day), `15W` (the weekday, Monday to Friday, nearest to the 15th in its month), `LW` (the
  last weekday of the month);
* weekday: `fri#2` (the second Friday of the month), `mon-fri#1`, `L5` and `5L` (the last Friday of the month);
* `?` in a day field is `*`.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, date
from functools import lru_cache
from typing import Final

_DayRule = Callable[[int, int, int, int], bool]
"""Whether a day counts; takes its number, its weekday (0 is Sunday), the last day of its month, the weekday of that."""

_MONTH_NAMES: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY_NAMES: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NICKNAMES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_ITEM: Final = re.compile(r"(?:\*|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>\d+))?", re.ASCII)
_NEAREST: Final = re.compile(r"(?P<after>\d+|l)w|w(?P<before>\d+)", re.ASCII)
_LAST_OF_MONTH: Final = re.compile(r"l(?P<after>[0-7]|[a-z]{3})|(?P<before>[0-7]|[a-z]{3})l", re.ASCII)
_MAX_NEAREST: Final = 28
_SATURDAY: Final = 6


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.high - self.low + 1


_MINUTE: Final = _Field("minute", 0, 59)
_HOUR: Final = _Field("hour", 0, 23)
_DAY: Final = _Field("day of month", 1, 31)
_MONTH: Final = _Field("month", 1, 12, _MONTH_NAMES)
_WEEKDAY: Final = _Field("weekday", 0, 6, _DAY_NAMES)


@dataclass(frozen=True, slots=True)
class CronFields:
    """A parsed expression."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: frozenset[int]
    of_month: tuple[_DayRule, ...] | None
    """None: any day of the month."""
    of_week: tuple[_DayRule, ...] | None
    """None: any weekday."""

    @property
    def every_hour(self) -> bool:
        """Whether it runs in each hour of its days."""
        return len(self.hours) == _HOUR.size

    def days_from(self, first: date, years: int) -> Iterator[date]:
        """Yield the matching days from `first` on, in order.

        It ends after December of the year that is `years` later than that of `first` or of the latest match, or at the
        end of the calendar.
        """
        year, latest = first.year, first.year
        while year <= min(latest + years, MAXYEAR):
            for month in sorted(self.months):
                for day in self._days_of(year, month):
                    if (found := date(year, month, day)) >= first:
                        latest = year
                        yield found
            year += 1

    def _days_of(self, year: int, month: int) -> Iterator[int]:
        weekday_of_first, last = monthrange(year, month)  # 0 is Monday
        weekday_of_last = (weekday_of_first + last) % 7
        for day in range(1, last + 1):
            if self._counts(day, (weekday_of_first + day) % 7, last, weekday_of_last):
                yield day

    def _counts(self, *day: int) -> bool:
        if self.of_month is None:
            return self.of_week is None or any(rule(*day) for rule in self.of_week)
        return any(rule(*day) for rule in (*self.of_month, *(self.of_week or ())))


@lru_cache(maxsize=1024)
def parse_cron(expression: str) -> CronFields:
    """Parse an expression of five fields, or a nickname.

    Raises:
        ValueError: It does not parse; the text names the field and what to write.
    """
    text = " ".join(expression.lower().split())
    fields = _NICKNAMES.get(text, text).split()
    if len(fields) != 5:
        raise ValueError(
            f"has {len(fields)} fields instead of: minute hour day month weekday"
            + (f" (or one of {', '.join(_NICKNAMES)})" if text.startswith("@") else "")
        )
    if any(re.search(r"(?:^|,)[hr](?:$|[,(/])", field) for field in fields):
        raise ValueError("H and R are not supported; write the number")
    minute, hour, day, month, weekday = fields
    return CronFields(
        minutes=tuple(sorted(_numbers(minute, _MINUTE))),
        hours=tuple(sorted(_numbers(hour, _HOUR))),
        months=frozenset(_numbers(month, _MONTH)),
        of_month=None if _any_day(day) else tuple(_of_month(item) for item in day.split(",")),
        of_week=None if _any_day(weekday) else tuple(_of_week(item) for item in weekday.split(",")),
    )


def _any_day(field: str) -> bool:
    return field == "?" or "*" in field.split(",")


def _numbers(field: str, kind: _Field) -> set[int]:
    return {number for item in field.split(",") for number in _item(item, kind)}


def _item(text: str, kind: _Field) -> list[int]:
    found = _ITEM.fullmatch(text)
    if found is None:
        raise ValueError(f"cannot be read: {text!r} is no {kind.name}, write e.g. {kind.low + 1}, 1-5, */2 or *")
    step = int(found["step"] or 1)
    if not 1 <= step <= kind.size:
        raise ValueError(f"cannot be read: the step of {text!r} must be 1 to {kind.size} in the field {kind.name}")
    if found["low"] is None:
        return list(range(kind.low, kind.high + 1, step))
    low = _number(found["low"], kind)
    if found["high"] is not None:
        # `5-0` and `sat-sun` wrap, and so do `6-7` and `0-7` once 7 is Sunday: the length of the range decides.
        high = kind.high if kind is _DAY and found["high"] == "l" else _number(found["high"], kind)
        length = high - low
        length = length + 7 if kind is _WEEKDAY and length < 0 else length % kind.size if length < 0 else length
    elif found["step"] is not None:
        low = low % 7 if kind is _WEEKDAY else low
        length = kind.high - low
    else:
        length = 0
    return [(low - kind.low + passed) % kind.size + kind.low for passed in range(0, length + 1, step)]


def _number(text: str, kind: _Field) -> int:
    if text in kind.names:
        return kind.names.index(text) + kind.low
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"cannot be read: {text!r} is no {kind.name}")
    if not kind.low <= int(text) <= (7 if kind is _WEEKDAY else kind.high):
        raise ValueError(f"cannot be read: {text} is out of range for the field {kind.name}, {kind.low} to {kind.high}")
    return int(text)


def _of_month(item: str) -> _DayRule:
    if item == "l":
        return lambda day, weekday, last, last_weekday: day == last
    if (found := _NEAREST.fullmatch(item)) is not None:
        target = found["after"] or found["before"]
        if target == "l":
            return lambda day, weekday, last, last_weekday: day == last - _days_past_friday(last_weekday)
        if not 1 <= int(target) <= _MAX_NEAREST:
            raise ValueError(
                f"cannot be read: {item!r} must be 1W to {_MAX_NEAREST}W, since not every month has the others; "
                "LW is the last weekday of the month"
            )
        return _nearest_weekday(int(target))
    days = set(_item(item, _DAY))
    return lambda day, weekday, last, last_weekday: day in days


def _days_past_friday(weekday: int) -> int:
    return {_SATURDAY: 1, 0: 2}.get(weekday, 0)


def _nearest_weekday(target: int) -> _DayRule:
    def counts(day: int, weekday: int, last: int, last_weekday: int) -> bool:
        if weekday in (0, _SATURDAY):
            return False
        of_target = (weekday + target - day) % 7
        if of_target == _SATURDAY:
            return day == (target - 1 if target > 1 else target + 2)
        if of_target == 0:
            return day == (target + 1 if target < last else target - 2)
        return day == target

    return counts


def _of_week(item: str) -> _DayRule:
    if (found := _LAST_OF_MONTH.fullmatch(item)) is not None:
        wanted = _number(found["after"] or found["before"], _WEEKDAY) % 7
        return lambda day, weekday, last, last_weekday: weekday == wanted and day > last - 7
    which, hash_, place = item.partition("#")
    weekdays = {number % 7 for number in _item(which, _WEEKDAY)}
    if not hash_:
        return lambda day, weekday, last, last_weekday: weekday in weekdays
    if place not in ("1", "2", "3", "4", "5") or re.search(r"[*/]", which):
        raise ValueError(f"cannot be read: {item!r} must be a weekday and its number in the month, fri#1 to fri#5")
    return lambda day, weekday, last, last_weekday: weekday in weekdays and (day - 1) // 7 == int(place) - 1
