"""Times as RFC 3339: on the wire in UTC, with microseconds and `Z`; for people to the second."""

from __future__ import annotations

from datetime import UTC, datetime

from diracx.tasks.plumbing.clock import LATEST_TIME
from diracx.tasks.plumbing.exceptions import shown


def to_rfc3339(moment: datetime) -> str:
    """Format an aware time.

    Raises:
        ValueError: The time is naive, out of range in UTC, or no datetime.
    """
    return readable_time(in_utc(moment), "microseconds")


def ensure_holdable(moment: datetime) -> None:
    """Check that the server can hold a message until an aware time.

    Raises:
        ValueError: It is too late for that.
    """
    if moment > LATEST_TIME:
        raise ValueError(
            f"{moment.isoformat()} is too late: the server holds nothing beyond {readable_time(LATEST_TIME)}; "
            "choose an earlier time"
        )


def readable_time(moment: datetime, timespec: str = "seconds") -> str:
    """Write a time for people, e.g. `2026-12-01T06:00:00Z`.

    Args:
        timespec: The precision, as `datetime.isoformat` takes it.
    """
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def from_rfc3339(text: str) -> datetime:
    """Parse a time with any offset, and return it in UTC; what is finer than a microsecond is cut off.

    Raises:
        ValueError: The text is not a time, has no offset, or is out of range in UTC.
    """
    try:
        if text.endswith("Z"):  # as all times that we write; it stands for UTC
            return datetime.fromisoformat(text)
        # RFC 3339 allows `t` and `z`.
        moment = datetime.fromisoformat(text.upper())
    except ValueError as error:
        if "isoformat" not in str(error):  # it names the part that is wrong
            raise
        raise ValueError(f"{shown(repr(text))} is not a time, e.g. 2026-12-01T06:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone; write e.g. 2026-12-01T06:00:00+01:00 or ...Z")
    return in_utc(moment)


def in_utc(moment: datetime) -> datetime:
    """Return an aware time in UTC.

    Raises:
        ValueError: The time is naive, out of range in UTC, or no datetime.
    """
    if not isinstance(moment, datetime):
        raise ValueError(f"{shown(repr(moment))} is no datetime; use e.g. datetime.now(UTC)")
    if moment.tzinfo is UTC:
        return moment
    # A time zone may decline to name an offset; the time is naive then, too.
    if moment.utcoffset() is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; use e.g. datetime.now(UTC)")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is out of range: years go from 1 to 9999 in UTC") from None
