"""A parsed recurrence rule (RFC 5545), which finds the next time without a walk from its start."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import dropwhile, islice
from typing import Final, cast

from dateutil.rrule import rrule, rrulestr

from diracx.tasks.plumbing.schedules.base import EPOCH
from diracx.tasks.plumbing.schedules.wall_clock import load_zone

MAX_COUNT: Final = 10_000
"""The largest COUNT: each answer of a rule with a COUNT walks from its start."""

_DTSTART = re.compile(r"DTSTART(?:;TZID=(?P<zone>[^:;]+))?:(?P<wall>\d{8}T\d{6})(?P<utc>Z?)", re.IGNORECASE)
_UNTIL = re.compile(r"\d{8}T\d{6}Z")
_TIME_FORMAT: Final = "%Y%m%dT%H%M%S"
_PERIODS: Final = {
    "SECONDLY": timedelta(seconds=1),
    "MINUTELY": timedelta(minutes=1),
    "HOURLY": timedelta(hours=1),
    "DAILY": timedelta(days=1),
    "WEEKLY": timedelta(weeks=1),
}
_MONTHS: Final = {"MONTHLY": 1, "YEARLY": 12}
_DAY_PARTS: Final = ("BYMONTH", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYEASTER", "BYDAY", "BYWEEKDAY")


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The parts of one rule. Naive times are wall-clock times of `zone`."""

    start: datetime
    """Naive."""
    zone: tzinfo
    steps: rrule
    """The naive times from `start`, without COUNT and UNTIL."""
    frequency: str
    interval: int
    count: int | None
    until: datetime | None
    """Aware; the occurrence at this time still counts."""

    def wall_times_after(self, wall: datetime) -> Iterator[datetime]:
        """Yield the wall-clock times after `wall`, in order, up to COUNT. The caller applies UNTIL."""
        start = self.start if self.count is not None else self._aligned(wall)
        times = islice(self.steps.replace(dtstart=start), self.count)
        return dropwhile(lambda time: time <= wall, times)

    def _aligned(self, wall: datetime) -> datetime:
        """Return the latest time that is in phase with `start` and not after `wall`."""
        if wall <= self.start:
            return self.start
        if self.frequency in _PERIODS:
            period = _PERIODS[self.frequency] * self.interval
            return self.start + (wall - self.start) // period * period
        step = _MONTHS[self.frequency] * self.interval
        months = (wall.year - self.start.year) * 12 + wall.month - self.start.month
        for shift in range(months // step * step, 0, -step):
            years, month = divmod(self.start.month - 1 + shift, 12)
            try:
                aligned = self.start.replace(year=self.start.year + years, month=month + 1)
            except ValueError:  # this month has no such day
                continue
            if aligned <= wall:
                return aligned
        return self.start


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
    interval = _positive(parts, "INTERVAL", 1_000_000)
    if count is not None and until is not None:
        raise ValueError("COUNT and UNTIL exclude each other")
    if count is not None and not head:
        raise ValueError("COUNT needs a DTSTART to count from")
    if until is not None and not _UNTIL.fullmatch(until):
        raise ValueError(f"UNTIL={until} must be a time in UTC, e.g. UNTIL=20261231T235959Z")
    _refuse_endless_search(parts, start)
    steps = _steps({**parts, "INTERVAL": str(interval or 1)}, start)
    return Recurrence(
        start=start,
        zone=zone,
        steps=steps,
        frequency=parts["FREQ"],
        interval=interval or 1,
        count=count,
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
        if not equals or name in parts:
            raise ValueError(f"{part!r} is given twice" if name in parts else f"{part!r} is not NAME=VALUE")
        parts[name] = value
    if parts.get("FREQ") not in (known := [*_PERIODS, *_MONTHS]):
        raise ValueError(f"FREQ must be one of {', '.join(known)}")
    return parts


def _refuse_endless_search(parts: dict[str, str], start: datetime) -> None:
    """Refuse a rule without an occurrence, for which dateutil would search step by step until the year 9999."""
    if "BYSETPOS" in parts and parts["FREQ"] not in ("WEEKLY", *_MONTHS):
        raise ValueError("BYSETPOS goes with FREQ=WEEKLY, MONTHLY or YEARLY")
    days: dict[str, str] = {name: parts[name] for name in _DAY_PARTS if name in parts}
    wanted = " and ".join(f"{name}={value}" for name, value in days.items())
    for name in {"BYDAY", "BYWEEKDAY"} & days.keys():
        days[name] = re.sub(r"[-+(]*[0-9]+\)?", "", days[name])
    if days.keys() <= {"BYMONTH"}:
        days["BYDAY"] = "MO,TU,WE,TH,FR,SA,SU"  # otherwise FREQ=YEARLY takes the day of the start
    if wanted and next(iter(_steps({"FREQ": "YEARLY", **days}, start)), None) is None:
        raise ValueError(f"no day has {wanted}")


def _steps(parts: dict[str, str], start: datetime) -> rrule:
    # rrulestr returns a set of rules only for several lines.
    return cast("rrule", rrulestr(";".join(f"{name}={value}" for name, value in parts.items()), dtstart=start))


def _positive(parts: dict[str, str], name: str, largest: int) -> int | None:
    if (text := parts.pop(name, None)) is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= largest:
        raise ValueError(f"{name}={text} must be a number from 1 to {largest}")
    return int(text)
