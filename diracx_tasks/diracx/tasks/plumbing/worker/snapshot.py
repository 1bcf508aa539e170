"""The state of a worker now, what it has in flight, and the counts of its outcomes, for its operators."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.clock import Clock, ServerClock, boottime
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.execution.job import (
    Cancelled,
    Dead,
    Discarded,
    Held,
    Interrupted,
    LockBusy,
    Outcome,
    Retry,
    Succeeded,
    WrongQueue,
)
from diracx.tasks.plumbing.wire.bounds import AwareTime, Count
from diracx.tasks.plumbing.wire.envelope import TASK_GROUP, TASK_ID, TASK_NAME, TASK_PART
from diracx.tasks.plumbing.wire.failure import Failure, message_of
from diracx.tasks.plumbing.worker.attempts import Attempts
from diracx.tasks.plumbing.worker.leases import Lease
from diracx.tasks.plumbing.worker.observation import error_of, outcome_in_words, queue_of, status_of

RATE_WINDOW_SECONDS: Final = 10.0
WAIT_BOUNDS_SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
    *(10.0, 30.0, 120.0, 600.0, 3600.0, 14_400.0, 86_400.0),
)
"""The upper bounds of the counts of queue waits, in seconds. Workers of two versions must have the same."""
MAX_ENDED: Final = 200
"""So many of the latest deliveries that were no successes a worker keeps; as many again that it only gave back."""
MAX_MESSAGE_CHARS: Final = 300

_COUNTERS: Final[dict[type[Outcome], str]] = {
    Succeeded: "succeeded",
    Retry: "retried",
    Dead: "dead",
    Discarded: "dropped",
    Cancelled: "cancelled",
    LockBusy: "lock_busy",
    Held: "held",
    Interrupted: "interrupted",
    WrongQueue: "moved",
}
_GIVEN_BACK: Final = frozenset({"lock_busy", "held", "interrupted", "moved"})


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
    details: bool = False
    """Whether `args` and `labels` are asked for, too."""

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
    since: AwareTime
    """When the worker took it, by the server's clock."""
    attempt: int
    """1 at the first execution. Only failed ones raise the count."""
    state: str
    """`starting` (its attempts are read and its locks taken), `waiting for isolation`, `executing`, or `settling` (its
    code has ended)."""
    cancelled_since: AwareTime | None = None
    """When its execution was cancelled first, whatever for; None: it was not."""
    cancelled_for: str | None = None
    """Why its execution was cancelled."""
    blocked_at: str | None = None
    """The line that its code executes, if it was cancelled and does not yield, or if it holds up the event loop of its
    worker, where no cancellation reaches it. None: neither."""
    args: str | None = None
    """The body of its message as text, cut at 500 bytes; None: not asked for."""
    labels: dict[str, Any] = {}
    """Empty if they are not asked for, cannot be read, or take more than 2,000 bytes."""
    locks: list[str] = []
    """The keys of the locks that it holds, 20 at the most."""
    trace_id: str | None = None
    """Of the trace that it belongs to (W3C Trace Context), 32 hexadecimal digits; None: its message has none."""


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


class QueueTotals(msgspec.Struct):
    """What a worker has done with the deliveries of one queue since it started: one count for each kind of outcome."""

    succeeded: Count = 0
    retried: Count = 0
    """Failed, and will be executed again."""
    dead: Count = 0
    """Became dead letters."""
    dropped: Count = 0
    """Expired, or failed for good without becoming a dead letter."""
    cancelled: Count = 0
    lock_busy: Count = 0
    """Given back since somebody else held a lock."""
    held: Count = 0
    """Given back since the configuration disables the task."""
    interrupted: Count = 0
    """Given back for any other reason, e.g. a stop of the worker."""
    moved: Count = 0
    """Put into the queue of another size."""
    wait: list[Count] = msgspec.field(default_factory=lambda: [0] * (len(WAIT_BOUNDS_SECONDS) + 1))
    """First deliveries by the time for which their tasks had waited: since they were due, else since they were stored.
    One count for each of `WAIT_BOUNDS_SECONDS`, of those up to it and beyond the one before, and one of what is
    longer."""

    @property
    def deliveries(self) -> int:
        """All deliveries that were settled."""
        given_back = self.lock_busy + self.held + self.interrupted
        return self.succeeded + self.failures + self.cancelled + self.moved + given_back

    @property
    def failures(self) -> int:
        """Those that ended as `Retry`, `Dead` or `Discarded`."""
        return self.retried + self.dead + self.dropped


class EndedTask(msgspec.Struct, frozen=True):
    """A delivery that did not end as a success."""

    id: str
    task: str
    """Its name; for a message without one, a text that says so."""
    queue: str
    """`<priority>-<size>`."""
    outcome: str
    """One word, as in telemetry: `retry`, `dead`, `discarded`, `cancelled`, and of what was given back `lock_busy`,
    `held`, `interrupted`, `misplaced`."""
    error: str
    """The type of the error; empty if the task raised none."""
    message: str
    """The message of the error, else the reason; at most 300 characters."""
    attempt: int
    """1 at the first execution. Only failed ones raise the count."""
    at: AwareTime
    """When it ended, by the server's clock."""
    seconds: float
    """How long the worker had it."""
    status: str | None = None
    """How the task has ended: `failed`, `expired` or `cancelled`. None: it goes on, or the worker is of an earlier
    version."""


class EndedQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which of the latest deliveries that were no successes are asked for."""

    limit: int = MAX_ENDED
    """At most so many, the latest."""
    given_back: bool = False
    """Whether those that were only given back are asked for, too. A busy lock gives back the same tasks many times."""
    ids: tuple[str, ...] = ()
    """Of the tasks that are asked for; empty: all."""


class Counters:
    """Counts the outcomes of deliveries by queue, and keeps the latest ones that were no successes.

    It is part of the way of each task: a success costs two increments, and reads no headers.
    """

    def __init__(self, clock: Clock = boottime) -> None:
        self._clock = clock
        self.last_error = ""
        """The last failure: task, id and error in one line."""
        self._queues: dict[bytes, QueueTotals] = {}
        """By subject."""
        # Apart, so that many busy locks do not push out the failures.
        self._ended: deque[EndedTask] = deque(maxlen=MAX_ENDED)
        self._given_back: deque[EndedTask] = deque(maxlen=MAX_ENDED)
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def queues(self) -> dict[str, QueueTotals]:
        """The totals since the start, by `<priority>-<size>`. Only queues that gave a message."""
        return {queue_of(subject.decode()): totals for subject, totals in list(self._queues.items())}

    @property
    def deliveries(self) -> int:
        """Deliveries that were settled."""
        return sum(totals.deliveries for totals in list(self._queues.values()))

    @property
    def failures(self) -> int:
        """Deliveries that ended as `Retry`, `Dead` or `Discarded`."""
        return sum(totals.failures for totals in list(self._queues.values()))

    def begin(self, lease: Lease, clock: ServerClock, due: datetime | None) -> None:
        """Count a delivery that is about to be processed.

        Args:
            clock: Tells how long its task has waited.
            due: When the task was due, as its submitter said; None: once it was stored.
        """
        delivery = lease.delivery
        if delivery.delivered == 1:
            seconds = clock.epoch_offset + lease.started - delivery.stored_ns * 1e-9
            if due is not None:
                seconds = max(seconds, clock.epoch_offset + lease.started - due.timestamp())
            subject = delivery.message.raw_subject
            try:
                totals = self._queues[subject]
            except KeyError:
                totals = self._queues[subject] = QueueTotals()
            totals.wait[bisect_left(WAIT_BOUNDS_SECONDS, seconds)] += 1

    def record(self, lease: Lease, outcome: Outcome, clock: ServerClock) -> None:
        """Count the outcome of a delivery that was screened and settled.

        Args:
            clock: Tells when it ended.
        """
        subject = lease.delivery.message.raw_subject
        try:
            totals = self._queues[subject]
        except KeyError:
            totals = self._queues[subject] = QueueTotals()
        if type(outcome) is Succeeded:
            totals.succeeded += 1
            return
        counter = _COUNTERS[type(outcome)]
        setattr(totals, counter, getattr(totals, counter) + 1)
        ended = _ended(lease, outcome, clock.now())
        (self._given_back if counter in _GIVEN_BACK else self._ended).append(ended)
        if (error := error_of(outcome)) is not None:
            self.last_error = f"{ended.task} {ended.id}: {error}"

    def ended(self, query: EndedQuery) -> list[EndedTask]:
        """The latest deliveries that were no successes, the newest first. For any thread."""
        found = list(self._ended)
        if query.given_back:
            found = sorted([*found, *self._given_back], key=lambda each: each.at)
        if query.ids:
            wanted = set(map(shown, query.ids))
            found = [each for each in found if each.id in wanted]
        return found[::-1][: max(0, query.limit)]

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


def _ended(lease: Lease, outcome: Outcome, at: datetime) -> EndedTask:
    delivery, attempts = lease.delivery, lease.attempts
    failure: Failure | None = getattr(outcome, "failure", None)
    return EndedTask(
        id=shown((delivery.headers or {}).get(TASK_ID) or str(delivery.sequence)),
        task=lease.name,
        queue=queue_of(delivery.subject),
        outcome=outcome_in_words(outcome),
        error="" if failure is None else failure.type,
        message=_message(outcome, failure)[:MAX_MESSAGE_CHARS],
        attempt=attempt_number(attempts),
        at=at,
        seconds=round(lease.elapsed, 6),
        status=status_of(outcome),
    )


def attempt_number(attempts: Attempts | None) -> int:
    """Which attempt a delivery is; the first is 1. Its failure counts among those of the record once it is there."""
    return 1 if attempts is None else attempts.record.failed + (not attempts.failure_written)


def _message(outcome: Outcome, failure: Failure | None) -> str:
    match outcome:
        case _ if failure is not None:
            return failure.message
        case LockBusy():
            return message_of(outcome.error)
        case Held():
            return f"the configuration holds it: {outcome.path}"
        case WrongQueue():
            return f"moved to {outcome.subject}"
        case Dead() | Discarded() | Cancelled() | Interrupted():
            return outcome.reason
    return ""
