"""The result of a run, counted by task."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from lateness import Lateness


@dataclass
class Ledger:
    """The result of a run."""

    submitted: int = 0
    """Tasks that the server acknowledged, children included."""
    unannounced: int = 0
    """Tasks that ran although their submission got no answer; the producer submitted them once more."""
    once: int = 0
    """Tasks that were executed to an end once; retries by policy are no repeats."""
    repeated: Counter[str] = field(default_factory=Counter)
    """Tasks that were executed again, by the cause of the first repeat."""
    repeats: Counter[str] = field(default_factory=Counter)
    """Executions beyond the first, by cause."""
    overlaps: int = 0
    """Repeats that began before the previous execution had ended."""
    retries: int = 0
    dead: int = 0
    """Dead letters of tasks that always fail."""
    dropped: int = 0
    """Tasks that always fail and become no dead letter."""
    cancelled: int = 0
    """Tasks that were cancelled and did not end otherwise."""
    failures: list[str] = field(default_factory=list)
    """Failures of tasks that fail by no fault of their own: what they asked of the mesh was refused."""
    holders: int = 0
    """Executions that held a mutex."""
    occurrences: int = 0
    """Occurrences of the schedule that ran."""
    missed: int = 0
    """Occurrences that expired beside a disturbance: a later one ran in their place."""
    late: Lateness = field(default_factory=Lateness)
    """Of delayed tasks that wait in the queue behind others when they are due."""
    late_urgent: Lateness = field(default_factory=Lateness)
    """Of delayed tasks and occurrences that do not."""
    groups: int = 0
    """Groups whose callback has been accounted for."""
    queued: int = 0
    """Tasks that were not settled at the end of the run."""
    lost: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Whether nothing is lost, unexplained or left in a queue."""
        return not (self.lost or self.unexplained or self.queued)

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "submitted": self.submitted,
            "unannounced": self.unannounced,
            "executed_once": self.once,
            "executed_more_than_once": sum(self.repeated.values()),
            "repeats": dict(self.repeats),
            "overlaps": self.overlaps,
            "retries": self.retries,
            "dead": self.dead,
            "dropped": self.dropped,
            "cancelled": self.cancelled,
            "failures": self.failures,
            "holders_of_locks": self.holders,
            "occurrences": self.occurrences,
            "occurrences_missed": self.missed,
            "lateness": self.late.document(),
            "lateness_of_urgent": self.late_urgent.document(),
            "groups": self.groups,
            "queued": self.queued,
            "lost": self.lost,
            "unexplained": self.unexplained,
        }
