"""Figures and times as the pages write them, and text that others chose, so that it hides nothing.

`visible` is applied to everything that a template writes, before it is escaped for HTML.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

import msgspec
from markupsafe import Markup

from diracx.tasks.plumbing.operations import figures
from diracx.tasks.plumbing.wire.times import readable_time

NOTHING: Final = "\u2013"
"""Stands for a figure that is not known, or that there is not."""

MAX_BRIEF_CHARS: Final = 120
"""Of a name, an id or a type that somebody chose, where it stands among others."""

MAX_JSON_CHARS: Final = 20_000
"""Longer arguments, labels and results are cut."""

_SUSPECT: Final = re.compile(r"[^\x20-\x7e\n]")


def visible(value: object) -> object:
    """Write as escapes the characters of a text that turn its direction, have no width or control anything."""
    if type(value) is not str or value.isprintable():
        return value
    return _SUSPECT.sub(lambda match: match[0] if match[0].isprintable() else ascii(match[0])[1:-1], value)


def brief(text: str) -> str:
    """Cut a text that somebody chose to a length for a list."""
    return text if len(text) <= MAX_BRIEF_CHARS else f"{text[:MAX_BRIEF_CHARS]}…"


def sentence(text: str) -> str:
    """Begin a sentence with a capital letter, unless it begins with a name: those of workers, queues, tasks and locks
    have other characters than letters.
    """
    return text[:1].upper() + text[1:] if text.partition(" ")[0].rstrip(":,;").isalpha() else text


def pretty(value: object) -> str:
    """Write JSON that a person reads, cut to a length that a browser bears."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return text if len(text) <= MAX_JSON_CHARS else f"{text[:MAX_JSON_CHARS]}\n[cut: {len(text):,} characters]"


def count(number: float | None) -> str:
    """Write a whole number in groups of three digits."""
    return NOTHING if number is None else f"{round(number):,}"


def duration(seconds: float | None) -> str:
    """Write a duration in its two largest units; see `figures.duration`."""
    return NOTHING if seconds is None else figures.duration(seconds)


def coarse(seconds: float | None) -> str:
    """Write a duration in its largest unit, where there is little room."""
    return " ".join(duration(seconds).split()[:2])


def age(moment: datetime | None, now: datetime) -> str:
    """Write how long ago a time is."""
    return NOTHING if moment is None else duration(max(0.0, round((now - moment).total_seconds(), 1)))


def rate(per_second: float | None) -> str:
    """Write a rate per second; a slow one per minute."""
    if per_second is None:
        return NOTHING
    if per_second == 0:
        return "0/s"
    if per_second < 0.95:
        return f"{per_second * 60:.1f}".removesuffix(".0") + "/min"
    return (f"{per_second:.1f}".removesuffix(".0") if per_second < 99.5 else f"{per_second:,.0f}") + "/s"


def size(octets: float | None) -> str:
    """Write a number of bytes; see `figures.size`."""
    return NOTHING if octets is None else figures.size(octets)


def moment(at: datetime | None) -> str:
    """Write a time as an element with its full text."""
    if at is None:
        return NOTHING
    text = readable_time(at)
    return Markup('<time datetime="{0}">{1} {2}</time>').format(text, text[:10], text[11:19])


def clock(at: datetime | None) -> str:
    """Write the time of the day as an element, which tells the day, too."""
    if at is None:
        return NOTHING
    text = readable_time(at)
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(text, text[11:19])


def plural(number: float, noun: str, nouns: str = "") -> str:
    """Write a number with its noun, e.g. `1 task`, `2 tasks`."""
    return f"{count(number)} {noun if number == 1 else nouns or noun + 's'}"
