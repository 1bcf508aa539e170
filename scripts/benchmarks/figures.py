"""Figures of repeated measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Figures:
    """One figure, measured several times."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """The middle one."""
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
