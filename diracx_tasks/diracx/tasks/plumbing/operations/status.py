"""A mesh at a glance: queues, what is to come, what died, locks, scheduler, workers.

It is read in a moment and not at one: what moves meanwhile may be seen twice or not at all. What the server counts is
asked of the server; who is there is asked of those who are, so a process that does not answer within two seconds is
not listed.

The server counts what waits for a retry or a lock together with what is being executed. Workers say what they have in
hand, and the rest is parked. So what a worker that was killed had in hand shows as parked until its lease lapses.
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
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.micro import ask_all
from diracx.tasks.plumbing.jetstream.stream_messages import read_message
from diracx.tasks.plumbing.operations.scheduler_service import scheduler_service
from diracx.tasks.plumbing.operations.worker_service import worker_service
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import from_rfc3339

# Past any page of subjects: their total is all that is wanted.
_NO_PAGE: Final = 1 << 40


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One of the nine queues."""

    subject: str
    priority: Priority
    size: Size
    waiting: int
    """Never delivered yet."""
    in_hand: int
    """Being executed. Where workers may not be asked: delivered and not settled, those that are parked included."""
    redelivered: int
    """Delivered more than once and not settled."""
    oldest_seconds: float | None
    """How long the oldest one that waits has been waiting, by the server's clock; None when none waits."""
    paused_until: datetime | None = None
    """When its pause ends, `pausing.UNTIL_RESUMED` standing for no end; None: it is not paused."""


class SchedulerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Who keeps the schedules."""

    leader: str | None
    """Its id, which contains host and pid; None: nobody leads."""
    standbys: list[str]
    """Ids of the others."""


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker."""

    id: str
    size: Size
    slots: int
    busy: int
    """Slots in use."""
    host: str
    pid: int
    since: datetime


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The document of `status --json`: these fields, in this order."""

    namespace: str
    server: str
    queues: list[QueueStatus]
    delayed: int
    """Tasks that were submitted for later and have not fallen due."""
    dead_letters: int
    locks: int
    """Those that `locks list` shows: mutexes, readers-writer locks, limiters, the scheduler's leadership."""
    scheduler: SchedulerStatus
    workers: list[WorkerStatus]


@dataclass(frozen=True, slots=True)
class Glance:
    """A status, and what only the screen shows."""

    status: Status
    at: datetime
    """By the server's clock."""
    parked: Mapping[str, int] | None
    """By subject, tasks that wait for a retry or a lock; None: this user may not ask the workers."""
    per_second: Mapping[str, float] = field(default_factory=dict)
    """By the id of a worker, deliveries that it carried to an end, over the last ten seconds."""
    last_pull: Mapping[str, float | None] = field(default_factory=dict)
    """By the id of a worker, seconds since a pull of its was answered."""
    next_occurrence: datetime | None = None
    """Of all periodic tasks."""


class StatusReader:
    """Reads the status of one mesh; many times over, if wanted.

    Every method raises `ServerUnavailableError` when no answer came, and `ApiError` where a stream is missing.
    """

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace
        self._locks = Bucket(connection, namespace.locks_bucket)

    async def read(self) -> Glance:
        """Look once."""
        names = self._namespace
        (workers, schedulers), (info, consumers), (delayed, dead), locks = await asyncio.gather(
            self._people(),
            asyncio.gather(
                self._connection.api(f"STREAM.INFO.{names.tasks_stream}"),
                self._connection.api(f"CONSUMER.LIST.{names.tasks_stream}"),
            ),
            asyncio.gather(
                self._subjects(names.later_stream, f"{names.name}.delayed.*"),
                self._subjects(names.dead_letters_stream, f"{names.name}.dlq.>"),
            ),
            self._locks.keys(),
        )
        now = from_rfc3339(info["ts"])
        in_hand = None if workers is None else _in_hand(workers)
        queues = await asyncio.gather(*(self._queue(each, in_hand, now) for each in _ours(consumers["consumers"])))
        status = Status(
            namespace=names.name,
            server=self._connection.server,
            queues=sorted((queue for queue, _ in queues), key=_rank),
            delayed=delayed,
            dead_letters=dead,
            locks=len({key.partition("./")[0] for key in locks}),
            scheduler=_scheduler(schedulers or ()),
            workers=sorted(map(_worker, workers or ()), key=_rank_of_worker),
        )
        return Glance(
            status=status,
            at=now,
            parked=None if in_hand is None else {queue.subject: parked for queue, parked in queues},
            per_second={answer["metadata"]["id"]: _data(answer)["per_second"] for answer in workers or ()},
            last_pull={answer["metadata"]["id"]: _data(answer)["last_pull_seconds"] for answer in workers or ()},
            next_occurrence=_next(schedulers or ()),
        )

    async def _people(self) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None]:
        """The answers of workers and of schedulers; None where this user may not ask."""
        return await asyncio.gather(
            ask_all(self._connection, worker_service(self._namespace)),
            ask_all(self._connection, scheduler_service(self._namespace)),
        )

    async def _subjects(self, stream: str, pattern: str) -> int:
        """How many subjects of a stream match and have messages."""
        answer = await self._connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": pattern, "offset": _NO_PAGE})
        return int(answer.get("total", 0))

    async def _queue(
        self, info: Mapping[str, Any], in_hand: Mapping[str, int] | None, now: datetime
    ) -> tuple[QueueStatus, int]:
        """A queue, and how many of it are parked."""
        subject = info["config"]["filter_subject"]
        priority, size = subject.split(".")[-2:]
        unsettled = int(info["num_ack_pending"])
        executing = unsettled if in_hand is None else min(unsettled, in_hand.get(subject, 0))
        waiting = int(info["num_pending"])
        oldest = await self._next_stored(subject, info["delivered"]["stream_seq"] + 1) if waiting else None
        queue = QueueStatus(
            subject=subject,
            priority=Priority(priority),
            size=Size(size),
            waiting=waiting,
            in_hand=executing,
            redelivered=int(info["num_redelivered"]),
            oldest_seconds=None if oldest is None else max(0.0, round((now - oldest) / timedelta(seconds=1), 3)),
            paused_until=paused_until(info),
        )
        return queue, unsettled - executing

    async def _next_stored(self, subject: str, since: int) -> datetime | None:
        """When the first message of a subject from a sequence on was stored."""
        stream = self._namespace.tasks_stream
        message = await read_message(self._connection, stream, strict=True, seq=since, next_by_subj=subject)
        return None if message is None else message.stored


def _ours(consumers: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The nine: an operator may have made others."""
    names = {Namespace.consumer(priority, size) for priority in Priority for size in Size}
    return [info for info in consumers if info["name"] in names]


def _rank(queue: QueueStatus) -> tuple[int, int]:
    return list(Priority).index(queue.priority), list(Size).index(queue.size)


def _rank_of_worker(worker: WorkerStatus) -> tuple[int, str]:
    return list(Size).index(worker.size), worker.id


def _data(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    data: Mapping[str, Any] = answer["endpoints"][0]["data"]
    return data


def _in_hand(workers: Iterable[Mapping[str, Any]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for answer in workers:
        total.update(_data(answer)["in_hand"])
    return total


def _worker(answer: Mapping[str, Any]) -> WorkerStatus:
    metadata, data = answer["metadata"], _data(answer)
    return WorkerStatus(
        id=metadata["id"],
        size=Size(metadata["size"]),
        slots=data["slots"],
        busy=data["busy"],
        host=metadata["host"],
        pid=int(metadata["pid"]),
        since=from_rfc3339(answer["started"]),
    )


def _scheduler(schedulers: Iterable[Mapping[str, Any]]) -> SchedulerStatus:
    leads = {answer["metadata"]["id"]: bool(_data(answer)["leads"]) for answer in schedulers}
    return SchedulerStatus(
        leader=next((each for each, leading in leads.items() if leading), None),
        standbys=sorted(each for each, leading in leads.items() if not leading),
    )


def _next(schedulers: Iterable[Mapping[str, Any]]) -> datetime | None:
    texts = [_data(answer)["next"] for answer in schedulers if _data(answer)["leads"]]
    return min((from_rfc3339(text) for text in texts if text is not None), default=None)
