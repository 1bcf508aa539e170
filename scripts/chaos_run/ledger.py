"""What a run came to, task by task."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ledger:
    """What the run came to."""

    submitted: int = 0
    """Tasks that the server acknowledged, children included."""
    unannounced: int = 0
    """Tasks that ran although their submission got no answer; the producer submitted them again."""
    once: int = 0
    """Executed to an end once; retries by policy are no repeats."""
    repeated: Counter[str] = field(default_factory=Counter)
    """Tasks that were executed again, by the cause of the first repeat."""
    repeats: Counter[str] = field(default_factory=Counter)
    """Executions that were one too many, by cause."""
    overlaps: int = 0
    """Repeats that began while the execution before was under way."""
    retries: int = 0
    dead: int = 0
    """Dead letters of tasks that always fail."""
    dropped: int = 0
    """Tasks that always fail and are not kept."""
    queued: int = 0
    """Tasks that were not settled at the end of the run."""
    lost: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Nothing lost, nothing unexplained, nothing left."""
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
            "queued": self.queued,
            "lost": self.lost,
            "unexplained": self.unexplained,
        }
