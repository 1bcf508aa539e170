"""The next 24 hours of one schedule as a strip of SVG: a mark for each occurrence, a band where they stand close."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from markupsafe import Markup

from diracx.tasks.dashboard.words import plural
from diracx.tasks.plumbing.wire.times import readable_time

HOURS: Final = 24
MINUTES: Final = HOURS * 60
"""The width of a strip, in its own units."""
MOST_MARKS: Final = 96
"""One every quarter of an hour. A schedule with more is drawn as a band."""
HEIGHT: Final = 16
_MARK: Final = 5


def start_of(now: datetime) -> datetime:
    """Where the strips begin: at the last full hour."""
    return now.replace(minute=0, second=0, microsecond=0)


def hours_of(start: datetime) -> list[str]:
    """What stands above the strips: every third hour."""
    return [f"{start + timedelta(hours=hour):%H:%M}" for hour in range(0, HOURS, 3)]


def strip(occurrences: Sequence[datetime], start: datetime, now: datetime) -> Markup:
    """The strip of one schedule.

    Args:
        occurrences: Ascending; with more than `MOST_MARKS` the last is not the last of the day.
        start: Its left end, see `start_of`.
    """
    ground = Markup('<rect class="ground" width="{0}" height="{1}"/>').format(MINUTES, HEIGHT)
    lines = Markup("").join(_rect("hour", hour * 60, 1, 0, HEIGHT) for hour in range(3, HOURS, 3))
    places = [min(MINUTES, max(0, round((each - start).total_seconds() / 60))) for each in occurrences]
    if len(occurrences) > MOST_MARKS:
        marks = _rect("dense", places[0], MINUTES - places[0], 3, HEIGHT - 6)
    else:
        marks = Markup("").join(_rect("due", min(place, MINUTES - _MARK), _MARK, 2, HEIGHT - 4) for place in places)
    moment = _rect("now", round((now - start).total_seconds() / 60), 2, 0, HEIGHT)
    return Markup(
        '<svg class="strip" viewBox="0 0 {0} {1}" preserveAspectRatio="none" role="img" aria-label="{2}">{3}</svg>'
    ).format(MINUTES, HEIGHT, in_words(occurrences), ground + lines + marks + moment)


def in_words(occurrences: Sequence[datetime]) -> str:
    """What a reader would take from the strip."""
    if not occurrences:
        return "not in the next 24 hours"
    first = readable_time(occurrences[0])
    if len(occurrences) > MOST_MARKS:
        return f"more than {MOST_MARKS} times, from {first} on"
    last = f", from {first} to {readable_time(occurrences[-1])}" if len(occurrences) > 1 else f", at {first}"
    return plural(len(occurrences), "time") + last


def _rect(kind: str, x: int, width: int, y: int, height: int) -> Markup:
    place = kind, x, y, max(0, width), height
    return Markup('<rect class="{0}" x="{1}" y="{2}" width="{3}" height="{4}"/>').format(*place)
