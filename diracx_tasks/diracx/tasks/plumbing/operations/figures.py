"""Durations and sizes as operators read them, on the command line and on the dashboard."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def duration(seconds: float) -> str:
    """Write a duration in its two largest units, e.g. `2 h 5 min`; below 10 s with one decimal."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    left, words = round(seconds), list[str]()
    for size_of_unit, unit in _UNITS:
        if left >= size_of_unit:
            words.append(f"{left // size_of_unit} {unit}")
            left %= size_of_unit
        elif words:
            break
        if len(words) == 2:
            break
    return " ".join(words)


def size(octets: float) -> str:
    """Write a number of bytes in units of 1,024."""
    for unit in _BYTES[:-1]:
        if octets < 1_000:
            return f"{octets:.0f} {unit}" if octets >= 10 or unit == "B" else f"{octets:.1f} {unit}"
        octets /= 1_024
    return f"{octets:.1f} {_BYTES[-1]}"
