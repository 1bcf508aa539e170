"""Samples of a mesh: what stands in its queues now, and what became of its tasks since the sample before.

* Depths come from the server, as in `status`. Outcomes come from the workers, which count them from their start on: the
  sampler keeps the totals of each and takes the differences.
* What a worker did between the last sample and its end is not counted, and nothing of one that came and went between
  two samples. A worker of an earlier version counts nothing.
* The first sample has no sample before it: its counts are 0, and `seconds` is 0.
* How many tasks were submitted follows from what left the queues and by how much they grew. So a task that an operator
  purges counts against it, and it is never below 0.
* A missing stream of dead letters or of later tasks counts as empty, as in `status`, which has an alert for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.jetstream.micro import PREFIX, ask_all, endpoint_data
from diracx.tasks.plumbing.operations.scheduler_service import scheduler_service
from diracx.tasks.plumbing.operations.service_answers import SchedulerStats, WorkerLoad
from diracx.tasks.plumbing.operations.status import QueueStatus, StatusReader, StatusSnapshot, in_flight_by_subject
from diracx.tasks.plumbing.operations.worker_service import worker_service
from diracx.tasks.plumbing.wire.bounds import AwareTime, Count, Seconds
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import from_rfc3339
from diracx.tasks.plumbing.worker.snapshot import WAIT_BOUNDS_SECONDS, QueueTotals

FORGET_AFTER: Final = timedelta(minutes=10)
"""The totals of a worker that does not answer are kept for so long: it may be held up."""


class QueueSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the nine queues: how many tasks stand in it, and how many came and left since the sample before."""

    waiting: Count = 0
    """Tasks that were never delivered."""
    in_flight: Count = 0
    parked: Count = 0
    """Tasks that wait for a retry or a lock."""
    oldest_seconds: Seconds | None = None
    """The age of the oldest waiting task; None: none waits."""
    submitted: Count = 0
    succeeded: Count = 0
    retried: Count = 0
    dead: Count = 0
    dropped: Count = 0
    cancelled: Count = 0
    wait: list[Count] = []
    """First deliveries by the time for which their tasks had waited, see `QueueTotals.wait`; empty: there were none."""

    @property
    def depth(self) -> int:
        """All tasks of the queue."""
        return self.waiting + self.in_flight + self.parked

    @property
    def settled(self) -> int:
        """Tasks that left for good."""
        return self.succeeded + self.dead + self.dropped + self.cancelled


class WorkersSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """The workers of one size together."""

    workers: Count = 0
    slots: Count = 0
    busy: Count = 0
    """Slots in use."""


class Sample(msgspec.Struct, frozen=True):
    """A mesh at one moment, and what became of its tasks since the sample before."""

    at: AwareTime
    """By the server's clock."""
    seconds: Seconds
    """The time since the sample before; 0: there was none."""
    queues: dict[str, QueueSample]
    """By `<priority>-<size>`."""
    dead_letters: Count
    delayed: Count
    """Tasks that were submitted for later and have not fallen due."""
    workers: dict[str, WorkersSample]
    """By size; a size without workers is not there."""
    leader: bool
    """Whether a scheduler leads."""


class _WorkerTotals(msgspec.Struct):
    """The totals of one worker, as it told them last."""

    seen: datetime
    queues: dict[str, QueueTotals]


class Sampler:
    """Takes samples of one mesh, each since the one before. Several of one mesh do not know of each other.

    Args:
        leads: Whether the caller leads as the scheduler. None: the schedulers are asked.
    """

    def __init__(self, connection: Connection, namespace: Namespace, *, leads: bool | None = None) -> None:
        self._reader = _LoadReader(connection, namespace)
        self._leads = leads
        self._before: Sample | None = None
        self._totals: dict[tuple[str, str], _WorkerTotals] = {}
        """By id and start of a worker: two in containers may have the same host name and pid."""

    async def sample(self) -> Sample:
        """Take a sample. It takes about half a second, two at the most.

        Raises:
            PermissionDeniedError: This user may not read a stream, or not ask the workers.
            ServerUnavailableError: No answer.
            ApiError: The stream of tasks is missing.
        """
        return self.sample_of(await self._reader.load(ask_schedulers=self._leads is None))

    def sample_of(self, load: Load) -> Sample:
        """Make a sample of what was read, e.g. for the status: the mesh is not asked once more."""
        counted = self._counted(load)
        queues = {queue.name: self._queue(queue, counted) for queue in load.queues}
        sample = Sample(
            at=load.at,
            seconds=0.0 if self._before is None else round((load.at - self._before.at).total_seconds(), 3),
            queues=queues,
            dead_letters=load.dead_letters,
            delayed=load.delayed,
            workers=_workers(load.workers),
            leader=load.leader if self._leads is None else self._leads,
        )
        self._before = sample
        return sample

    def _counted(self, load: Load) -> dict[str, QueueTotals]:
        """What all workers have done since the sample before, by queue. Keeps their totals for the next."""
        counted: dict[str, QueueTotals] = {}
        for answer in load.workers:
            key = (str(answer["metadata"]["id"]), str(answer["started"]))
            queues = msgspec.convert(endpoint_data(answer).get("queues", {}), dict[str, QueueTotals])
            known = self._totals.get(key)
            # One that began before the last sample, and was not heard of then, has totals of an unknown time.
            is_new = self._before is not None and from_rfc3339(key[1]) >= self._before.at
            for name, totals in queues.items():
                before = QueueTotals() if known is None else known.queues.get(name, QueueTotals())
                if known is not None or is_new:
                    _add(counted.setdefault(name, QueueTotals()), totals, before)
            self._totals[key] = _WorkerTotals(load.at, queues)
        self._totals = {key: each for key, each in self._totals.items() if load.at - each.seen < FORGET_AFTER}
        return counted

    def _queue(self, queue: QueueStatus, counted: Mapping[str, QueueTotals]) -> QueueSample:
        totals = counted.get(queue.name, QueueTotals())
        before = None if self._before is None else self._before.queues[queue.name]
        sample = QueueSample(
            waiting=queue.waiting,
            in_flight=queue.in_hand,
            parked=queue.parked or 0,
            oldest_seconds=queue.oldest_seconds,
            succeeded=totals.succeeded,
            retried=totals.retried,
            dead=totals.dead,
            dropped=totals.dropped,
            cancelled=totals.cancelled,
            wait=totals.wait if any(totals.wait) else [],
        )
        grown = 0 if before is None else sample.depth - before.depth
        submitted = max(0, sample.settled + totals.moved + grown) if before is not None else 0
        return msgspec.structs.replace(sample, submitted=submitted)


class Load(msgspec.Struct, frozen=True):
    """What stands in a mesh."""

    at: datetime
    queues: list[QueueStatus]
    delayed: int
    dead_letters: int
    workers: Sequence[Mapping[str, Any]]
    """The answers of the workers."""
    leader: bool


def load_of(snapshot: StatusSnapshot) -> Load | None:
    """What stands in a mesh by its status; None: this user may not ask the workers, or not all queues could be read."""
    status = snapshot.status
    tasks = f"stream {Namespace(status.namespace).tasks_stream}"
    unread = any(each == tasks or each.startswith("consumer ") for each in (*snapshot.missing, *snapshot.leaderless))
    if unread or not snapshot.workers_asked:
        return None
    leads = status.scheduler.leader is not None
    return Load(status.at, status.queues, status.delayed, status.dead_letters, snapshot.answers, leads)


class _LoadReader(StatusReader):
    """Reads of a status only what samples need: the leading scheduler does so all day."""

    async def load(self, *, ask_schedulers: bool) -> Load:
        names, service = self._namespace, worker_service(self._namespace)
        info, consumers, delayed, dead = await asyncio.gather(
            self._connection.api(f"STREAM.INFO.{names.tasks_stream}"),
            self._consumers(),
            self._or_zero(self._count_subjects(names.later_stream, f"{names.name}.delayed.*")),
            self._or_zero(self._count_subjects(names.dead_letters_stream, f"{names.name}.dlq.>")),
        )
        # Right after the depths: workers answer at once, though it takes a moment until no more answers come.
        workers, schedulers = await asyncio.gather(
            ask_all(self._connection, service, shape=WorkerLoad),
            ask_all(self._connection, scheduler_service(names), shape=SchedulerStats) if ask_schedulers else _nobody(),
        )
        if workers is None:
            raise PermissionDeniedError("publish", f"{PREFIX}.STATS.{service}")
        at = from_rfc3339(info["ts"])
        return Load(
            at=at,
            queues=await self._queues(consumers, in_flight_by_subject(workers), at),
            delayed=delayed,
            dead_letters=dead,
            workers=workers,
            leader=any(endpoint_data(answer)["leads"] for answer in schedulers or ()),
        )


async def _nobody() -> list[dict[str, Any]]:
    return []


def _workers(answers: Iterable[Mapping[str, Any]]) -> dict[str, WorkersSample]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for answer in answers:
        found.setdefault(str(Size(answer["metadata"]["size"])), []).append(endpoint_data(answer))
    return {
        str(size): WorkersSample(
            len(found[size]), sum(each["slots"] for each in found[size]), sum(each["busy"] for each in found[size])
        )
        for size in Size
        if size in found
    }


def _add(total: QueueTotals, now: QueueTotals, before: QueueTotals) -> None:
    """Add to `total` what was counted between `before` and `now`."""
    for name in ("succeeded", "retried", "dead", "dropped", "cancelled", "moved"):
        setattr(total, name, getattr(total, name) + max(0, getattr(now, name) - getattr(before, name)))
    # Another version may count the wait in other steps; then it is not known.
    if len(now.wait) == len(before.wait) == len(total.wait):
        total.wait = [
            kept + max(0, new - old) for kept, new, old in zip(total.wait, now.wait, before.wait, strict=True)
        ]


def merged(samples: Sequence[Sample]) -> Sample:
    """One sample in place of several that follow each other: the state of the last one, and what happened in all.

    Raises:
        ValueError: There is none.
    """
    if not samples:
        raise ValueError("there is no sample")
    last = samples[-1]
    queues = {
        name: _merged_queue([sample.queues.get(name, QueueSample()) for sample in samples]) for name in last.queues
    }
    return msgspec.structs.replace(last, seconds=round(sum(sample.seconds for sample in samples), 3), queues=queues)


def in_steps(samples: Sequence[Sample], start: datetime, end: datetime, steps: int) -> list[Sample | None]:
    """The samples between two times in so many steps of equal length; None for a step without one."""
    length = (end - start) / steps
    found: list[list[Sample]] = [[] for _ in range(steps)]
    for sample in samples:
        at = int((sample.at - start) / length)
        if 0 <= at < steps:
            found[at].append(sample)
    return [merged(each) if each else None for each in found]


def _merged_queue(queues: Sequence[QueueSample]) -> QueueSample:
    waits = [queue.wait for queue in queues if queue.wait]
    return msgspec.structs.replace(
        queues[-1],
        submitted=sum(queue.submitted for queue in queues),
        succeeded=sum(queue.succeeded for queue in queues),
        retried=sum(queue.retried for queue in queues),
        dead=sum(queue.dead for queue in queues),
        dropped=sum(queue.dropped for queue in queues),
        cancelled=sum(queue.cancelled for queue in queues),
        wait=added(waits),
    )


def added(waits: Iterable[Sequence[int]]) -> list[int]:
    """The counts of several histograms of queue waits together; empty without any."""
    total: list[int] = []
    for wait in waits:
        total += [0] * (len(wait) - len(total))
        for at, count in enumerate(wait):
            total[at] += count
    return total


def percentile(wait: Sequence[int], share: float) -> float | None:
    """The queue wait in seconds that this share of the tasks did not exceed, estimated within its bucket.

    Args:
        wait: The counts of the buckets, see `QueueTotals.wait`.
        share: From 0 to 1: 0.5 is the median.

    Returns:
        None: there are no counts. What waited for longer than the last bound counts as that.
    """
    wanted = share * sum(wait)
    if not any(wait):
        return None
    bounds = (0.0, *WAIT_BOUNDS_SECONDS, WAIT_BOUNDS_SECONDS[-1])
    for (lower, upper), count in zip(pairwise(bounds), wait, strict=False):
        if count and wanted <= count:
            return lower + (upper - lower) * max(0.0, wanted / count)
        wanted -= count
    return WAIT_BOUNDS_SECONDS[-1]


def rate_in(queue: QueueSample, seconds: float) -> float:
    """How many tasks a second were submitted to a queue in a sample of so many seconds; 0 for the first sample."""
    return queue.submitted / seconds if seconds > 0 else 0.0


def rate_out(queue: QueueSample, seconds: float) -> float:
    """How many tasks a second left a queue for good in a sample of so many seconds; 0 for the first sample."""
    return queue.settled / seconds if seconds > 0 else 0.0


def seconds_to_empty(queue: QueueSample, seconds: float) -> float | None:
    """The time until a queue is empty if all goes on as in a sample of so many seconds; 0: it is empty now.

    Returns:
        None: it does not get shorter, or none of its tasks ended.
    """
    if not queue.depth:
        return 0.0
    shrinks = rate_out(queue, seconds) - rate_in(queue, seconds)
    return queue.depth / shrinks if shrinks > 0 else None
