"""What a worker does at the moment, as its operators ask for it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.execution.job import Outcome, Succeeded
from diracx.tasks.plumbing.worker.leases import LeaseKeeper
from diracx.tasks.plumbing.worker.observation import error_of
from diracx.tasks.plumbing.worker.slots import Slots

_WINDOW: Final = 10.0


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """A worker at one moment."""

    slots: int
    busy: int
    """Slots in use."""
    busy_seconds: float
    """How long slots were in use so far, all together."""
    in_hand: Mapping[str, int]
    """Messages in hand, by subject."""
    processed: int
    """Deliveries carried to an end."""
    asks: bool
    """Whether it asks for more: not while all slots are in use, a suspect runs alone, or it stops."""
    stopping: bool
    last_pull: float | None
    """When the server last answered a pull, on the clock; None: never."""
    changed: float
    """When a slot was last taken or freed, on the clock."""

    @classmethod
    def of(cls, slots: Slots, leases: LeaseKeeper, **rest: Any) -> WorkerFacts:
        """Take down what slots and leases say; the rest is given."""
        return cls(
            slots=slots.total,
            busy=slots.busy,
            busy_seconds=slots.busy_seconds,
            in_hand=Counter(lease.delivery.subject for lease in leases.all),
            changed=slots.changed,
            **rest,
        )


class Tally:
    """Counts what became of deliveries, and how many a second there are."""

    def __init__(self, clock: Clock = boottime) -> None:
        self._clock = clock
        self.deliveries = 0
        """Those that were settled."""
        self._samples: deque[tuple[float, int]] = deque()
        self.failures = 0
        """Deliveries whose execution failed, retried or not."""
        self.last_error = ""

    def note(self, task: str, task_id: str, outcome: Outcome) -> None:
        """An `OnOutcome` of the processor."""
        self.deliveries += 1
        if type(outcome) is not Succeeded and (error := error_of(outcome)) is not None:
            self.failures += 1
            self.last_error = f"{task} {task_id}: {error}"

    def sample(self) -> None:
        """Look; to be called about once a second."""
        now = self._clock()
        self._samples.append((now, self.deliveries))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()

    @property
    def per_second(self) -> float:
        """Over the last ten seconds, or since the first sample."""
        if not self._samples:
            return 0.0
        since, before = self._samples[0]
        elapsed = self._clock() - since
        return (self.deliveries - before) / elapsed if elapsed > 0 else 0.0
