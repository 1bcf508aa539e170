"""The state of a worker now, and the counts of its outcomes, for its operators."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.execution.job import Outcome, Succeeded
from diracx.tasks.plumbing.wire.envelope import TASK_GROUP, TASK_ID, TASK_NAME, TASK_PART
from diracx.tasks.plumbing.worker.observation import error_of

RATE_WINDOW_SECONDS: Final = 10.0


class HeldTask(msgspec.Struct, frozen=True):
    """A task that the configuration holds."""

    task: str
    """`<category>:<ClassName>`."""
    vo: str | None
    """The VO whose tasks are held; None: those of all VOs, but for VOs that are enabled."""


class InFlightQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which tasks in flight are asked for: those that fit any of these; without any, all."""

    ids: tuple[str, ...] = ()
    task: str | None = None
    """The name of tasks."""
    group: str | None = None
    """The id of a group, whose children are asked for."""

    def fits(self, headers: Mapping[str, str], sequence: int) -> bool:
        """Whether a message is asked for."""
        if not (self.ids or self.task or self.group):
            return True
        if self.task is not None and headers.get(TASK_NAME) == self.task:
            return True
        if self.ids and (headers.get(TASK_ID) or str(sequence)) in self.ids:
            return True
        place = headers.get(TASK_GROUP) or headers.get(TASK_PART) or ""
        return self.group is not None and place.rpartition(":")[0] == self.group


class InFlightTask(msgspec.Struct, frozen=True):
    """A task that a worker has in flight."""

    id: str
    task: str
    """Its name; for a message without one, a text that says so."""
    subject: str
    """The subject of its queue."""
    sequence: int
    """Of its message, in the stream of tasks."""
    since: datetime
    """When the worker took it, by the server's clock."""
    attempt: int
    """1 at the first execution. Only failed ones raise the count."""
    state: str
    """`starting` (its attempts are read and its locks taken), `waiting for isolation`, `executing`, or `settling` (its
    code has ended)."""
    cancelled_since: datetime | None = None
    """When its execution was cancelled first, whatever for; None: it was not."""
    cancelled_for: str | None = None
    """Why its execution was cancelled."""
    blocked_at: str | None = None
    """The line that its code executes, if it was cancelled and does not yield, or if it holds up the event loop of its
    worker, where no cancellation reaches it. None: neither."""


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """A worker at one moment."""

    slots: int
    busy: int
    """Slots in use."""
    busy_seconds: float
    """How long slots were in use so far, summed over all slots."""
    changed_at: float
    """When a slot was last taken or released, or the isolation gate last opened or closed, on the clock."""
    in_flight: Mapping[str, int]
    """Messages in flight, by subject."""
    processed: int
    """Deliveries processed to their end, settled or left unsettled."""
    pulls: bool
    """Whether it asks for messages: not while all slots are in use, the isolation gate is closed, or it stops."""
    last_pull: float | None
    """When a pull was last answered with messages, or by an empty queue, on the clock; None: never."""
    last_word: float | None
    """As `last_pull`, but a refusal of the server counts, too."""
    stopping: bool
    left_behind: int
    """Executions that have ended, and of which something still runs: calls in threads, or code that was given up."""
    isolated: str | None
    """`<task> <id>` of the task that runs isolated, until it ends, or of the next one that waits. None: neither."""
    held: Sequence[HeldTask]
    """The tasks of its registry that the configuration holds, of any size."""
    not_served: Mapping[str, str]
    """Why a task is given back in place of executed, by its name: a resource that it needs is down."""
    clock_ahead: timedelta | None
    """How far the clock of its machine is ahead of the server's; negative: behind. None: that is not known."""


class Counters:
    """Counts the outcomes of deliveries, and the deliveries a second."""

    def __init__(self, clock: Clock = boottime) -> None:
        self._clock = clock
        self.deliveries = 0
        """Deliveries that were settled."""
        self.failures = 0
        """Deliveries that ended as `Retry`, `Dead` or `Discarded`."""
        self.last_error = ""
        """The last failure: task, id and error in one line."""
        self._samples: deque[tuple[float, int]] = deque()

    def record(self, task: str, task_id: str, outcome: Outcome) -> None:
        """Count an outcome; an `OnOutcome` of the processor."""
        self.deliveries += 1
        if type(outcome) is not Succeeded and (error := error_of(outcome)) is not None:
            self.failures += 1
            self.last_error = f"{task} {task_id}: {error}"

    def sample(self) -> None:
        """Keep the count of now for `per_second`. Call it about once a second."""
        now = self._clock()
        self._samples.append((now, self.deliveries))
        while len(self._samples) > 2 and now - self._samples[1][0] >= RATE_WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def per_second(self) -> float:
        """Deliveries a second over the last ten seconds, or since the first sample."""
        if not self._samples:
            return 0.0
        since, before = self._samples[0]
        elapsed = self._clock() - since
        return (self.deliveries - before) / elapsed if elapsed > 0 else 0.0
