"""Durations as they are typed: `90s`, `15m`, `2h`, `7d`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final

import rich_click as click

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.ASCII)
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def duration_from(text: str) -> timedelta | None:
    """The duration; None for what is none.

    Raises:
        OverflowError: It is longer than any.
    """
    if (match := _DURATION.fullmatch(text.strip())) is None:
        return None
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])


# Generic in some versions of click only.
class Duration(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A duration between two others.

    Args:
        least: The shortest.
        most: The longest, of whole days.
    """

    name = "duration"

    def __init__(self, least: timedelta, most: timedelta) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Turn the text into a duration, or fail with a line."""
        if isinstance(value, timedelta):
            return value
        try:
            duration = duration_from(value)
        except OverflowError:
            duration = timedelta.max
        if duration is None:
            self.fail(f"{value!r} is no duration, e.g. 90s, 15m, 2h, 7d", param, ctx)
        if not self.least <= duration <= self.most:
            self.fail(f"{value} is not from {self.least.total_seconds():g}s to {self.most.days}d", param, ctx)
        return duration
