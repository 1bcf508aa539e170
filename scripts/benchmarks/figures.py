"""Figures of repeated measurements, and the report of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Protocol

QUANTILES: Final = {"p50": 0.5, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class Figures:
    """One figure, measured several times."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """The middle value."""
        return median(self.values)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": list(self.values),
        }

    def text(self, form: str) -> str:
        """`median (min..max)`, each in a format such as `,.0f`."""
        return f"{self.median:{form}} ({min(self.values):{form}}..{max(self.values):{form}})"


def quantiles(rising: Sequence[float], digits: int) -> dict[str, float]:
    """The median, the 99th percentile and the maximum of sorted values, by name; empty without values."""
    last = len(rising) - 1
    return {
        name: round(rising[min(int(len(rising) * share), last)], digits) for name, share in QUANTILES.items() if rising
    }


class Comparison(Protocol):
    """Figures of this project beside those of something else."""

    def document(self) -> dict[str, Any]:
        """For JSON."""

    def text(self) -> str:
        """For people."""

    def missed(self) -> list[str]:
        """A line for each promised bound that was missed."""


@dataclass(frozen=True)
class Comparisons:
    """The report of a benchmark that compares; every report has these three methods."""

    comparisons: Sequence[Comparison]
    separator: str = "\n\n"

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"comparisons": [comparison.document() for comparison in self.comparisons]}

    def text(self) -> str:
        """For people: median (min..max)."""
        return self.separator.join(comparison.text() for comparison in self.comparisons)

    def missed(self) -> list[str]:
        """A line for each promised bound that was missed."""
        return [line for comparison in self.comparisons for line in comparison.missed()]
