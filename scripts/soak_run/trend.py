"""Whether a series of samples still grows after the warm-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

MIN_SAMPLES: Final = 6
"""Fewer samples show no trend."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much a measure may differ between two times without a leak."""

    amount: float
    share: float
    """Of what it was."""


TOLERANCES: Final[Mapping[str, Tolerance]] = {
    "MB": Tolerance(4, 0.06),
    "server MB": Tolerance(25, 0.3),
    "fds": Tolerance(3, 0.1),
    "threads": Tolerance(3, 0.1),
    "tasks": Tolerance(10, 0.2),
    "objects": Tolerance(1_500, 0.03),
    "keys": Tolerance(20, 0.3),
    "messages": Tolerance(60, 0.3),
    "subjects": Tolerance(60, 0.3),
    "consumers": Tolerance(0, 0),
    "overdue": Tolerance(0, 0),
}
"""By the last word of the name of the measure, or the whole name where that is listed."""


def tolerance_of(measure: str) -> Tolerance:
    """The tolerance for a measure such as `small worker fds`."""
    return TOLERANCES.get(measure) or TOLERANCES[measure.rsplit(" ", 1)[-1]]


def growth(values: Sequence[float], tolerance: Tolerance) -> float | None:
    """By how much a series grows beyond the tolerance; None if it does not.

    It grows if each third of it lies above the one before, by its median: a peak at the end is no trend.

    Args:
        values: The samples after the warm-up, in order.
    """
    if len(values) < MIN_SAMPLES:
        return None
    third = len(values) // 3
    first, middle, last = (median(part) for part in (values[:third], values[third:-third], values[-third:]))
    grown = last - first
    allowed = tolerance.amount + tolerance.share * first
    return grown if first < middle < last and grown > allowed else None


def growing_types(before: Mapping[str, int], after: Mapping[str, int], most: int = 8) -> dict[str, int]:
    """The types of which there are more objects than before, the most grown first; then the threads, by name."""
    more = {name: count - before.get(name, 0) for name, count in after.items()}
    ranked = sorted(more.items(), key=lambda each: -each[1])
    threads = [each for each in ranked if each[0].startswith("thread ")]
    ranked = [each for each in ranked if each not in threads][:most] + threads
    return {name: count for name, count in ranked if count > 0}
