"""The status of a mesh: queues, delayed tasks, dead letters, locks, scheduler, workers.

* The parts are read within a moment, but not at one instant. A task that moves meanwhile may be counted twice or not at
  all.
* Counts come from the server. Workers and schedulers answer for themselves; a process that does not answer within two
  seconds is not listed.
* The server counts tasks that wait for a retry or a lock together with those that run. Workers report the tasks that
  they have in flight; the others count as parked. So the tasks of a killed worker count as parked until their leases
  lapse.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.consumer_pause import paused_until
from diracx.tasks.plumbing.jetstream.micro import ask_all
from diracx.tasks.plumbing.jetstream.stream_messages import read_message
from diracx.tasks.plumbing.operations.locks import LockReader
from diracx.tasks.plumbing.operations.scheduler_service import scheduler_service
from diracx.tasks.plumbing.operations.worker_service import worker_service
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import from_rfc3339
from diracx.tasks.plumbing.worker.snapshot import HeldTask

# An offset beyond all subjects: the answer holds their total, and no subject.
_BEYOND_LAST_PAGE: Final = 1 << 40


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One of the nine queues."""

    subject: str
    priority: Priority
    size: Size
    waiting: int
    """Tasks that were never delivered."""
    in_hand: int
    """Tasks in flight. If this user may not ask the workers, parked tasks are included."""
    redelivered: int
    """Tasks that were delivered more than once and are not settled."""
    oldest_seconds: float | None
    """The age of the oldest waiting task, by the server's clock; None if none waits."""
    paused_until: datetime | None = None
    """When its pause ends (`consumer_pause.UNTIL_RESUMED`: no end); None if it is not paused."""


class SchedulerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduler processes."""

    leader: str | None
    """The id of the leader, which contains host and pid; None if none leads."""
    standbys: list[str]
    """The ids of the others."""


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker."""

    id: str
    size: Size
    slots: int
    busy: int
    """The number of slots in use."""
    host: str
    pid: int
    since: datetime
    isolated: str | None = None
    """`<task> <id>` of the task that runs isolated in it, or of the next one that waits for that; None: neither."""
    not_served: dict[str, str] = {}
    """Why it gives a task back, by the name of the task: a resource that the task needs is down in this worker."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The document of `status --json`: these fields, in this order."""

    namespace: str
    server: str
    queues: list[QueueStatus]
    delayed: int
    """Tasks that were submitted for later and have not fallen due."""
    dead_letters: int
    locks: int
    """The number of locks in `locks list`, which include limiters and the leadership of the scheduler."""
    scheduler: SchedulerStatus
    workers: list[WorkerStatus]
    held: list[HeldTask]
    """The tasks that the workers hold: the configuration has `enabled: false` for them. Empty if this user may not ask
    the workers."""


@dataclass(frozen=True, slots=True)
class StatusSnapshot:
    """A status, and further values that only the screen shows."""

    status: Status
    at: datetime
    """When the status was read, by the server's clock."""
    parked: Mapping[str, int] | None
    """Tasks that wait for a retry or a lock, by subject of the queue; None if this user may not ask the workers."""
    per_second: Mapping[str, float] = field(default_factory=dict)
    """Deliveries processed per second over the last ten seconds, by id of the worker."""
    last_pull: Mapping[str, float | None] = field(default_factory=dict)
    """Seconds since the last answered pull, by id of the worker; None if no pull was answered."""
    next_occurrence: datetime | None = None
    """The next occurrence of all periodic tasks; None if it is not known."""


class StatusReader:
    """Reads the status of one mesh, any number of times.

    Every method raises `ServerUnavailableError` if no answer arrives, and `ApiError` if a stream is missing.
    """

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace

    async def read(self) -> StatusSnapshot:
        """Read the status once."""
        names = self._namespace
        (workers, schedulers), (info, consumers), (delayed, dead), locks = await asyncio.gather(
            self._ask_services(),
            asyncio.gather(
                self._connection.api(f"STREAM.INFO.{names.tasks_stream}"),
                self._connection.api(f"CONSUMER.LIST.{names.tasks_stream}"),
            ),
            asyncio.gather(
                self._count_subjects(names.later_stream, f"{names.name}.delayed.*"),
                self._count_subjects(names.dead_letters_stream, f"{names.name}.dlq.>"),
            ),
            LockReader(self._connection, names).count(),
        )
        now = from_rfc3339(info["ts"])
        in_flight = None if workers is None else _in_flight(workers)
        infos = _own_consumers(consumers["consumers"])
        queues = await asyncio.gather(*(self._queue(each, in_flight, now) for each in infos))
        status = Status(
            namespace=names.name,
            server=self._connection.server,
            queues=sorted((queue for queue, _ in queues), key=_queue_rank),
            delayed=delayed,
            dead_letters=dead,
            locks=locks,
            scheduler=_scheduler_status(schedulers or ()),
            workers=sorted(map(_worker_status, workers or ()), key=_worker_rank),
            held=_held(workers or ()),
        )
        return StatusSnapshot(
            status=status,
            at=now,
            parked=None if in_flight is None else {queue.subject: parked for queue, parked in queues},
            per_second={answer["metadata"]["id"]: _endpoint_data(answer)["per_second"] for answer in workers or ()},
            last_pull={
                answer["metadata"]["id"]: _endpoint_data(answer)["last_pull_seconds"] for answer in workers or ()
            },
            next_occurrence=_next_occurrence(schedulers or ()),
        )

    async def _ask_services(self) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None]:
        """The answers of the workers and of the schedulers; None if this user may not ask them."""
        return await asyncio.gather(
            ask_all(self._connection, worker_service(self._namespace)),
            ask_all(self._connection, scheduler_service(self._namespace)),
        )

    async def _count_subjects(self, stream: str, pattern: str) -> int:
        """The number of subjects of a stream that match and have messages."""
        answer = await self._connection.api(
            f"STREAM.INFO.{stream}", {"subjects_filter": pattern, "offset": _BEYOND_LAST_PAGE}
        )
        return int(answer.get("total", 0))

    async def _queue(
        self, info: Mapping[str, Any], in_flight: Mapping[str, int] | None, now: datetime
    ) -> tuple[QueueStatus, int]:
        """The status of a queue, and the number of its parked tasks."""
        subject = info["config"]["filter_subject"]
        priority, size = subject.split(".")[-2:]
        unsettled = int(info["num_ack_pending"])
        executing = unsettled if in_flight is None else min(unsettled, in_flight.get(subject, 0))
        waiting = int(info["num_pending"])
        stream, first = self._namespace.tasks_stream, info["delivered"]["stream_seq"] + 1
        oldest = await read_message(self._connection, stream, seq=first, next_by_subj=subject) if waiting else None
        queue = QueueStatus(
            subject=subject,
            priority=Priority(priority),
            size=Size(size),
            waiting=waiting,
            in_hand=executing,
            redelivered=int(info["num_redelivered"]),
            oldest_seconds=None if oldest is None else max(0.0, round((now - oldest.stored) / timedelta(seconds=1), 3)),
            paused_until=paused_until(info),
        )
        return queue, unsettled - executing


def _own_consumers(consumers: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The consumers of the nine queues; an operator may have created others."""
    names = {Namespace.consumer(priority, size) for priority in Priority for size in Size}
    return [info for info in consumers if info["name"] in names]


def _queue_rank(queue: QueueStatus) -> tuple[int, int]:
    return list(Priority).index(queue.priority), list(Size).index(queue.size)


def _worker_rank(worker: WorkerStatus) -> tuple[int, str]:
    return list(Size).index(worker.size), worker.id


def _endpoint_data(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    data: Mapping[str, Any] = answer["endpoints"][0]["data"]
    return data


def _in_flight(workers: Iterable[Mapping[str, Any]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for answer in workers:
        total.update(_endpoint_data(answer)["in_hand"])
    return total


def _worker_status(answer: Mapping[str, Any]) -> WorkerStatus:
    metadata, data = answer["metadata"], _endpoint_data(answer)
    return WorkerStatus(
        id=metadata["id"],
        size=Size(metadata["size"]),
        slots=data["slots"],
        busy=data["busy"],
        host=metadata["host"],
        pid=int(metadata["pid"]),
        since=from_rfc3339(answer["started"]),
        isolated=data.get("isolated"),  # earlier workers do not tell
        not_served=data.get("not_served", {}),
    )


def _held(workers: Iterable[Mapping[str, Any]]) -> list[HeldTask]:
    # Earlier workers hold nothing.
    held = {msgspec.convert(each, HeldTask) for answer in workers for each in _endpoint_data(answer).get("held", ())}
    return sorted(held, key=lambda each: (each.task, each.vo or ""))


def _scheduler_status(schedulers: Iterable[Mapping[str, Any]]) -> SchedulerStatus:
    leads = {answer["metadata"]["id"]: bool(_endpoint_data(answer)["leads"]) for answer in schedulers}
    return SchedulerStatus(
        leader=next((each for each, leading in leads.items() if leading), None),
        standbys=sorted(each for each, leading in leads.items() if not leading),
    )


def _next_occurrence(schedulers: Iterable[Mapping[str, Any]]) -> datetime | None:
    texts = [_endpoint_data(answer)["next"] for answer in schedulers if _endpoint_data(answer)["leads"]]
    return min((from_rfc3339(text) for text in texts if text is not None), default=None)
