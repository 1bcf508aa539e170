"""Conversion between wall-clock times of a time zone and instants.

A wall-clock time is a naive datetime. An instant is an aware datetime in UTC. Instants are compared in UTC only, since
Python compares two aware datetimes of one time zone by their wall-clock times.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from diracx.tasks.plumbing.exceptions import TaskDefinitionError

_SECOND = timedelta(seconds=1)


def load_zone(name: str) -> tzinfo:
    """Return the time zone of an IANA name.

    Raises:
        TaskDefinitionError: There is no such time zone.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, TypeError, ValueError, OSError) as error:
        raise TaskDefinitionError(
            f"unknown time zone {name!r}; use an IANA name such as 'Europe/Zurich' (on a system without a "
            "time zone database, install tzdata)"
        ) from error


def wall_time(instant: datetime, zone: tzinfo) -> datetime:
    """Return the wall-clock time at an instant."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def instants(wall: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Yield the instants of a wall-clock time in order: one; none if the clock skips it; two if it comes twice."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if wall_time(first, zone) == wall:
        yield first
        if second != first:
            yield second


def first_instant(wall: datetime, zone: tzinfo) -> datetime:
    """Return the first instant of a wall-clock time; if the clock skips it, the first instant after the gap."""
    for instant in instants(wall, zone):
        return instant
    # PEP 495: in a gap, fold=1 uses the offset after the gap, which gives an instant before the transition.
    before, after = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (1, 0))
    return find_transition(before, after, zone)


def find_transition(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """Return the first instant of the new offset.

    Args:
        before: An instant before the transition, in whole seconds.
        after: An instant after it, in whole seconds, with no other transition between the two.
    """
    old = before.astimezone(zone).utcoffset()
    seconds = range(int((after - before) / _SECOND) + 1)
    return before + _SECOND * bisect_left(
        seconds, True, key=lambda second: (before + _SECOND * second).astimezone(zone).utcoffset() != old
    )
