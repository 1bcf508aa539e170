"""The grammar of cron expressions, rewritten to what croniter reads in the same way in each version.

The grammar is that of Vixie cron with the additions of Quartz that have one reading only:

* `*`, `5`, `1-5`, `*/2`, `1-5/2`, `5/2` (from 5 to the end of the field), and lists of these with commas;
* a range may wrap: `22-2` is 22, 23, 0, 1, 2, and a step counts on through the wrap;
* names of months and weekdays, `jan` to `dec` and `sun` to `sat`; Sunday is 0 and 7;
* day of month: `L` (the last day), `15W` (the weekday, Monday to Friday, nearest to the 15th in its month), `LW` (the
  last weekday of the month);
* weekday: `fri#2` (the second Friday of the month), `mon-fri#1`, `L5` and `5L` (the last Friday of the month);
* `?` in a day field is `*`.

croniter takes `5-5` for the whole field, loses count where a step goes through a wrap, reads `*/90` as `0`, and lets a
day match both day fields if one of them has `#` or `W`. So it gets plain numbers, and one item of a day field at a
time.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_MONTH_NAMES: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY_NAMES: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NICKNAMES: Final = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
_ITEM: Final = re.compile(r"(?:\*|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>\d+))?", re.ASCII)
_NEAREST: Final = re.compile(r"(?P<after>\d+|l)w|w(?P<before>\d+)", re.ASCII)
_LAST_OF_MONTH: Final = re.compile(r"l(?P<after>[0-7]|[a-z]{3})|(?P<before>[0-7]|[a-z]{3})l", re.ASCII)
_MAX_NEAREST: Final = 28


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

    every_hour: bool
    """Whether it runs in each hour of its days."""
    alternatives: tuple[str, ...]
    """Expressions for croniter. A time that matches one of them matches."""


@lru_cache(maxsize=1024)
def parse_cron(expression: str) -> CronFields:
    """Parse an expression of five fields, or a nickname.

    Raises:
        ValueError: It does not parse; the text names the field and what to write.
    """
    text = " ".join(expression.lower().split())
    if text in _NICKNAMES:
        return CronFields(text == "@hourly", (text,))
    fields = text.split()
    if len(fields) != 5:
        raise ValueError(
            f"has {len(fields)} fields instead of: minute hour day month weekday"
            + (f" (or one of {', '.join(_NICKNAMES)})" if text.startswith("@") else "")
        )
    if any(re.search(r"(?:^|,)[hr](?:$|[,(/])", field) for field in fields):
        raise ValueError("H and R are not supported; write the number")
    minute, hour, day, month, weekday = fields
    minutes, hours = _numbers(minute, _MINUTE), _numbers(hour, _HOUR)
    times = f"{_joined(minutes, _MINUTE)} {_joined(hours, _HOUR)}"
    months = _joined(_numbers(month, _MONTH), _MONTH)
    days = [f"{times} {_of_month(item)} {months} *" for item in _day_items(day)]
    days += [f"{times} * {months} {_of_week(item)}" for item in _day_items(weekday)]
    return CronFields(len(hours) == _HOUR.size, tuple(days) or (f"{times} * {months} *",))


def _day_items(field: str) -> list[str]:
    """The items of a day field; none if any day counts."""
    items = field.split(",")
    return [] if field == "?" or "*" in items else items


def _joined(numbers: Collection[int], kind: _Field) -> str:
    return "*" if len(numbers) == kind.size else ",".join(map(str, numbers))


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


def _of_month(item: str) -> str:
    if item == "l":
        return item
    if (found := _NEAREST.fullmatch(item)) is None:
        return _joined(_item(item, _DAY), _DAY)
    if (target := found["after"] or found["before"]) == "l":
        return "31w"  # croniter takes the last day of a month that has no 31st
    if not 1 <= int(target) <= _MAX_NEAREST:
        raise ValueError(
            f"cannot be read: {item!r} must be 1W to {_MAX_NEAREST}W, since not every month has the others; "
            "LW is the last weekday of the month"
        )
    return f"{int(target)}w"


def _of_week(item: str) -> str:
    if (found := _LAST_OF_MONTH.fullmatch(item)) is not None:
        return f"l{_number(found['after'] or found['before'], _WEEKDAY) % 7}"
    which, hash_, place = item.partition("#")
    weekdays = {number % 7 for number in _item(which, _WEEKDAY)}
    if not hash_:
        return _joined(weekdays, _WEEKDAY)
    if place not in ("1", "2", "3", "4", "5") or re.search(r"[*/]", which):
        raise ValueError(f"cannot be read: {item!r} must be a weekday and its number in the month, fri#1 to fri#5")
    return ",".join(f"{weekday}#{place}" for weekday in weekdays)
