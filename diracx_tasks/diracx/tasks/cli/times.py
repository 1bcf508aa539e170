"""Times and durations as users type them: `2026-12-01T06:00:00Z`, `90s`, `15m`, `2h`, `7d`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import rich_click as click

from diracx.tasks.plumbing.wire.times import ensure_holdable, from_rfc3339

MAX_SECONDS: Final = 10 * 365 * 86_400

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.ASCII)
_FINE: Final = re.compile(r"[.,]\d{6}\d*[1-9]", re.ASCII)
"""A time that is finer than a microsecond."""
_UNIT_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


# ParamType is generic in some versions of click only.
class Seconds(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A number of seconds, from 0 to ten years."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration, or fail with one line."""
        if isinstance(value, timedelta):
            return value
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        if not 0 <= seconds <= MAX_SECONDS:
            self.fail(f"{value} must be a number of seconds from 0 to {MAX_SECONDS}", param, ctx)
        return timedelta(seconds=seconds)


class Duration(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A duration with a unit, or in seconds, within bounds.

    Args:
        least: The shortest allowed duration.
        most: The longest allowed duration, in whole days.
    """

    name = "duration"

    def __init__(self, least: timedelta, most: timedelta) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration, or fail with one line."""
        if isinstance(value, timedelta):
            return value
        try:
            duration = _duration_from(value)
        except OverflowError:
            duration = timedelta.max
        if duration is None:
            self.fail(f"{value!r} is not a duration, e.g. 90s, 15m, 2h, 7d", param, ctx)
        if not self.least <= duration <= self.most:
            self.fail(f"{value} is not from {self.least.total_seconds():g}s to {self.most.days}d", param, ctx)
        return duration


def due_time(at: str | None, delay: timedelta | None) -> datetime | timedelta | None:
    """Return the due time from the options `--at` (RFC 3339) and `--delay`; None means now.

    A delay stays one, since it counts from now by the server, whose time is not known here.

    Raises:
        click.UsageError: Both options are given, or `at` is not a time with an offset, or is one that the server cannot
            hold exactly.
    """
    if at is not None and delay is not None:
        raise click.UsageError("--at and --delay exclude each other")
    if at is None:
        return delay
    due = _time_from(at, "--at", "is not a time; write e.g. 2026-12-01T06:00:00Z")
    if _FINE.search(at):
        raise click.BadParameter(
            f"{at!r} has more than six digits after the second; write it to the microsecond", param_hint=["--at"]
        )
    try:
        ensure_holdable(due)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=["--at"]) from None
    return due


def since_from(text: str, now: datetime) -> datetime:
    """Return the time of the option `--since`: a time, or a duration before now.

    Raises:
        click.BadParameter: The text is neither a time nor a duration.
    """
    try:
        if (ago := _duration_from(text)) is not None:
            return now - ago
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
    wrong = "is neither a time, e.g. 2026-12-01T06:00:00Z, nor a duration, e.g. 90s, 15m, 2h, 7d"
    return _time_from(text, "--since", wrong)


def _time_from(text: str, option: str, wrong: str) -> datetime:
    try:
        datetime.fromisoformat(text.upper())
    except ValueError:
        raise click.BadParameter(f"{text!r} {wrong}", param_hint=[option]) from None
    try:
        return from_rfc3339(text)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error), param_hint=[option]) from None


def _duration_from(text: str) -> timedelta | None:
    """Return None for a text that is not a duration.

    Raises:
        OverflowError: No timedelta is that long.
    """
    if (match := _DURATION.fullmatch(text.strip())) is None:
        return None
    return timedelta(seconds=float(match[1]) * _UNIT_SECONDS[match[2]])
