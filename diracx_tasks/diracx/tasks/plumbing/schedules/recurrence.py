"""The text of a recurrence rule (RFC 5545), parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from itertools import dropwhile, islice, product
from typing import Final

from diracx.tasks.plumbing.schedules.base import EPOCH
from diracx.tasks.plumbing.schedules.periods import Days, Periods, Weekday, chosen_places
from diracx.tasks.plumbing.schedules.wall_clock import load_zone

MAX_COUNT: Final = 10_000
"""The largest COUNT: a rule with one is walked through once, when it is loaded."""
_MAX_INTERVAL: Final = 1_000_000

_DTSTART = re.compile(r"DTSTART(?:;TZID=(?P<zone>[^:;]+))?:(?P<wall>\d{8}T\d{6})(?P<utc>Z?)", re.IGNORECASE | re.ASCII)
_UNTIL = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_TIME_FORMAT: Final = "%Y%m%dT%H%M%S"
_WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_WEEKDAY: Final = re.compile(
    rf"(?P<before>[+-]?\d+)?(?P<day>{'|'.join(_WEEKDAYS)})(?:\((?P<after>[+-]?\d+)\))?", re.ASCII
)
_UNIT_FIELDS: Final = {"DAILY": 0, "HOURLY": 1, "MINUTELY": 2, "SECONDLY": 3}
"""How many of hour, minute and second tell a unit from another one of its day."""
_FREQUENCIES: Final = ("YEARLY", "MONTHLY", "WEEKLY", *_UNIT_FIELDS)
_DAY_PARTS: Final = ("BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYEASTER", "BYDAY")
_RANGES: Final = {
    "BYSETPOS": (-366, 366),
    "BYMONTH": (1, 12),
    "BYMONTHDAY": (-31, 31),
    "BYYEARDAY": (-366, 366),
    "BYWEEKNO": (-53, 53),
    "BYEASTER": (-80, 250),
    "BYHOUR": (0, 23),
    "BYMINUTE": (0, 59),
    "BYSECOND": (0, 59),
}
_FROM_ZERO: Final = frozenset(("BYEASTER", "BYHOUR", "BYMINUTE", "BYSECOND"))


@dataclass(frozen=True, slots=True)
class Recurrence:
    """One rule. Naive times are wall-clock times of `zone`."""

    start: datetime
    """Naive. No occurrence is earlier."""
    zone: tzinfo
    periods: Periods
    last: datetime | None
    """Naive: the last occurrence by COUNT."""
    until: datetime | None
    """Aware; the occurrence at this time still counts."""

    def wall_times_after(self, wall: datetime) -> Iterator[datetime]:
        """Yield the wall-clock times after `wall`, in order, up to COUNT. The caller applies UNTIL."""
        times = dropwhile(lambda time: time <= wall or time < self.start, self.periods.since(max(wall, self.start)))
        for time in times:
            if self.last is not None and time > self.last:
                return
            yield time


@lru_cache(maxsize=4096)
def parse_recurrence(text: str) -> Recurrence:
    """Parse a rule, as `RRuleSchedule` describes it.

    Raises:
        ValueError: It does not parse, or uses an unsupported part.
        TaskDefinitionError: The time zone is unknown.
    """
    start = EPOCH.replace(tzinfo=None)
    zone: tzinfo = UTC
    *head, rule = text.split() or [""]
    if len(head) > 1 or not re.fullmatch(r"(RRULE:)?[^:]+", rule, re.IGNORECASE):
        raise ValueError("write one RRULE, and before it at most one DTSTART")
    if head:
        start, zone = _parse_start(head[0])
    parts = _parse_parts(rule.upper().removeprefix("RRULE:"))
    count = _positive(parts, "COUNT", MAX_COUNT)
    until = parts.pop("UNTIL", None)
    if count is not None and until is not None:
        raise ValueError("COUNT and UNTIL exclude each other")
    if count is not None and not head:
        raise ValueError("COUNT needs a DTSTART to count from")
    if until is not None and not _UNTIL.fullmatch(until):
        raise ValueError(f"UNTIL={until} must be a time in UTC, e.g. UNTIL=20261231T235959Z")
    periods = _periods(parts, start)
    return Recurrence(
        start=start,
        zone=zone,
        periods=periods,
        last=None if count is None else _last_of(count, periods, start),
        until=None if until is None else datetime.strptime(until[:-1], _TIME_FORMAT).replace(tzinfo=UTC),
    )


def _parse_start(line: str) -> tuple[datetime, tzinfo]:
    if (found := _DTSTART.fullmatch(line)) is None:
        raise ValueError(
            f"{line!r} must be like DTSTART:20260101T060000Z or DTSTART;TZID=Europe/Zurich:20260101T060000"
        )
    if bool(found["zone"]) == bool(found["utc"]):
        raise ValueError(
            f"{line!r} needs one time zone: end it in Z, or write DTSTART;TZID=Europe/Zurich:{found['wall']}"
        )
    start = datetime.strptime(found["wall"].upper(), _TIME_FORMAT)  # noqa: DTZ007 - a wall-clock time
    return start, load_zone(found["zone"] or "UTC")


def _parse_parts(rule: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part in rule.split(";"):
        name, equals, value = part.partition("=")
        name = "BYDAY" if name == "BYWEEKDAY" else name
        if not equals or name in parts:
            raise ValueError(f"{part!r} is given twice" if name in parts else f"{part!r} is not NAME=VALUE")
        parts[name] = value
    if parts.get("FREQ") not in _FREQUENCIES:
        raise ValueError(f"FREQ must be one of {', '.join(_FREQUENCIES)}")
    known = {"FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", "BYDAY", *_RANGES}
    for name in parts.keys() - known:
        raise ValueError(f"{name} is no part of a rule; these are: {', '.join(sorted(known))}")
    return parts


def _periods(parts: dict[str, str], start: datetime) -> Periods:
    frequency = parts["FREQ"]
    interval = _positive(parts, "INTERVAL", _MAX_INTERVAL) or 1
    days = _days(parts, start)
    in_unit = _UNIT_FIELDS.get(frequency, 0)
    # A part that is not given is that of DTSTART, or any that tells one unit from another.
    clock = tuple(
        _numbers(parts, name) or (tuple(range(size)) if place < in_unit else (given,))
        for place, (name, size, given) in enumerate(
            (("BYHOUR", 24, start.hour), ("BYMINUTE", 60, start.minute), ("BYSECOND", 60, start.second))
        )
    )
    positions = frozenset(_numbers(parts, "BYSETPOS"))
    within = ((0,),) * in_unit + clock[in_unit:]
    times = tuple(hour * 3600 + minute * 60 + second for hour, minute, second in product(*within))
    if positions and frequency in _UNIT_FIELDS:
        if not (places := chosen_places(positions, len(times))):
            raise ValueError(f"BYSETPOS={parts['BYSETPOS']}: FREQ={frequency} has {len(times)} times in each period")
        times, positions = tuple(times[place] for place in places), frozenset()
    weekly = frequency == "WEEKLY" and days.byweekno
    return Periods(
        start=start,
        frequency=frequency,
        interval=interval,
        days=replace(days, byweekno=()) if weekly else days,
        weeks=Days(byweekno=days.byweekno, wkst=days.wkst) if weekly else None,
        units=clock[:in_unit] + ((0,),) * (3 - in_unit),
        times=times,
        positions=positions,
    )


def _days(parts: dict[str, str], start: datetime) -> Days:
    frequency = parts["FREQ"]
    months, month_days = _numbers(parts, "BYMONTH"), _numbers(parts, "BYMONTHDAY")
    weekdays = _weekdays(parts)
    if not parts.keys() & set(_DAY_PARTS):
        if frequency == "YEARLY":
            months = months or (start.month,)
        if frequency in ("YEARLY", "MONTHLY"):
            month_days = (start.day,)
        if frequency == "WEEKLY":
            weekdays = ((start.weekday(), None),)
    if (first := parts.get("WKST", "MO")) not in _WEEKDAYS:
        raise ValueError(f"WKST={first} must be one of {', '.join(_WEEKDAYS)}")
    return Days(
        # dateutil counts a numbered weekday in the months, if they are named, else in the year.
        bymonth=months or (tuple(range(1, 13)) if frequency == "MONTHLY" else ()),
        bymonthday=month_days,
        byyearday=_numbers(parts, "BYYEARDAY"),
        byweekno=_numbers(parts, "BYWEEKNO"),
        byeaster=_numbers(parts, "BYEASTER") or None,
        byweekday=weekdays or Days.byweekday,
        wkst=_WEEKDAYS.index(first),
    )


def _weekdays(parts: dict[str, str]) -> tuple[Weekday, ...]:
    if (text := parts.get("BYDAY")) is None:
        return ()
    named: list[Weekday] = []
    most = 53 if parts["FREQ"] == "YEARLY" and "BYMONTH" not in parts else 5
    for item in text.split(","):
        if (found := _WEEKDAY.fullmatch(item)) is None or (found["before"] and found["after"]):
            raise ValueError(f"BYDAY={text}: {item!r} must be like MO, 2TU or -1FR")
        number = found["before"] or found["after"]
        if number is not None and not 1 <= abs(int(number)) <= most:
            raise ValueError(f"BYDAY={text}: the number of {item!r} must be 1 to {most}, or -{most} to -1")
        named.append((_WEEKDAYS.index(found["day"]), int(number) if number else None))
    numbered = [number is not None for _, number in named]
    if any(numbered) and parts["FREQ"] not in ("YEARLY", "MONTHLY"):
        raise ValueError(f"BYDAY={text}: a number goes with FREQ=MONTHLY or YEARLY; leave it out")
    if any(numbered) and not all(numbered):
        raise ValueError(f"BYDAY={text} mixes weekdays with and without a number; write two schedules, or BYSETPOS")
    return tuple(named)


def _last_of(count: int, periods: Periods, start: datetime) -> datetime | None:
    times = (time for time in periods.since(start) if time >= start)
    return next(islice(times, count - 1, None), None)


def _numbers(parts: dict[str, str], name: str) -> tuple[int, ...]:
    if (text := parts.get(name)) is None:
        return ()
    least, most = _RANGES[name]
    numbers = set()
    for item in text.split(","):
        number = int(item) if re.fullmatch(r"[+-]?[0-9]{1,9}", item) else None
        if number is None or not least <= number <= most or (number == 0 and name not in _FROM_ZERO):
            allowed = f"1 to {most}, or {least} to -1" if least < 0 and name not in _FROM_ZERO else f"{least} to {most}"
            raise ValueError(f"{name}={text}: {item!r} must be a number from {allowed}")
        numbers.add(number)
    return tuple(sorted(numbers))


def _positive(parts: dict[str, str], name: str, largest: int) -> int | None:
    if (text := parts.pop(name, None)) is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= largest:
        raise ValueError(f"{name}={text} must be a number from 1 to {largest}")
    return int(text)
