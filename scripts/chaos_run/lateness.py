"""How late tasks began that were due at a time: delayed ones, and occurrences of the schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from disturbances import Outage
from journal import Journal


@dataclass(frozen=True)
class Late:
    """One task that was due at a time; times in seconds of CLOCK_BOOTTIME."""

    task_id: str
    due: float
    begun: float
    without_leaders: float
    """For how many of the seconds between the two a leader was missing."""

    @property
    def seconds(self) -> float:
        """From its time until it began."""
        return self.begun - self.due

    @property
    def with_leaders(self) -> float:
        """The part of it that no election explains, in seconds."""
        return self.seconds - self.without_leaders


@dataclass
class Lateness:
    """All of them."""

    found: list[Late] = field(default_factory=list)

    @property
    def worst(self) -> Late | None:
        """The one that waited longest while there were leaders."""
        return max(self.found, key=lambda late: late.with_leaders, default=None)

    def document(self) -> dict[str, Any]:
        """For `--json`, in seconds."""
        beside = [late for late in self.found if late.without_leaders]
        return {
            "count": len(self.found),
            **_spread([late.seconds for late in self.found]),
            "beside_elections": {"count": len(beside), **_spread([late.seconds for late in beside])},
            "with_leaders": _spread([late.with_leaders for late in self.found]),
        }


def measure(journal: Journal, dues: Mapping[str, float], outages: Iterable[Outage]) -> Lateness:
    """Measure the first execution of each task that has begun.

    Args:
        dues: When each task was due, by task id.
    """
    elections = _joined((outage.begun, outage.led_again) for outage in outages)
    late = Lateness()
    for task_id, due in dues.items():
        if runs := journal.executions.get(task_id):
            begun = runs[0].begun
            missing = sum(max(0.0, min(begun, end) - max(due, start)) for start, end in elections)
            late.found.append(Late(task_id, due, begun, missing))
    return late


def _joined(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The spans without overlaps."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _spread(seconds: list[float]) -> dict[str, float | None]:
    values = sorted(seconds)
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    if not values:
        return dict.fromkeys(shares)
    return {name: round(values[min(len(values) - 1, int(share * len(values)))], 2) for name, share in shares.items()}
