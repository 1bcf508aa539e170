"""Times as RFC 3339: on the wire in UTC, with microseconds and `Z`; for people to the second."""

from __future__ import annotations

from datetime import UTC, datetime


def to_rfc3339(moment: datetime) -> str:
    """Format an aware time.

    Raises:
        ValueError: The time is naive, or out of range in UTC.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; use e.g. datetime.now(UTC)")
    return readable_time(_in_utc(moment), "microseconds")


def readable_time(moment: datetime, timespec: str = "seconds") -> str:
    """Write a time for people, e.g. `2026-12-01T06:00:00Z`.

    Args:
        timespec: The precision, as `datetime.isoformat` takes it.
    """
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def from_rfc3339(text: str) -> datetime:
    """Parse a time with any offset, and return it in UTC.

    Raises:
        ValueError: The text is not a time, has no offset, or is out of range in UTC.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone; write e.g. 2026-12-01T06:00:00+01:00 or ...Z")
    return _in_utc(moment)


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is UTC:
        return moment
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is out of range: years go from 1 to 9999 in UTC") from None
