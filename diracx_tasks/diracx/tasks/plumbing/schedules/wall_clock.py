"""The clock on the wall of a time zone, and the instants that it shows.

A wall-clock time is a naive datetime; an instant is an aware one in UTC. Python compares two aware datetimes
of one zone by their walls, so instants are compared in UTC only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from diracx.tasks.plumbing.exceptions import TaskDefinitionError

_SECOND = timedelta(seconds=1)


def zone_named(name: str) -> tzinfo:
    """The zone of an IANA name.

    Raises:
        TaskDefinitionError: There is no such zone.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise TaskDefinitionError(
            f"unknown time zone {name!r}; use an IANA name such as 'Europe/Zurich' (on a system without a "
            "time zone database, install tzdata)"
        ) from error


def wall_of(instant: datetime, zone: tzinfo) -> datetime:
    """What the clock on the wall shows."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def instants_of(wall: datetime, zone: tzinfo) -> Iterator[datetime]:
    """When the clock shows that time, in order: once; never, if it is skipped; twice, if it is repeated."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if wall_of(first, zone) == wall:
        yield first
        if second != first:
            yield second


def instant_of(wall: datetime, zone: tzinfo) -> datetime:
    """When the clock shows that time first; for a time that it skips, the first instant after the gap."""
    for instant in instants_of(wall, zone):
        return instant
    # PEP 495: in a gap, fold 1 is read with the offset after it, and so lies before the transition.
    before, after = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (1, 0))
    return transition(before, after, zone)


def transition(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """The first instant of the new offset, between two whole seconds with one transition between them."""
    old = before.astimezone(zone).utcoffset()
    seconds = range(int((after - before) / _SECOND) + 1)
    return before + _SECOND * bisect_left(
        seconds, True, key=lambda second: (before + _SECOND * second).astimezone(zone).utcoffset() != old
    )
