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
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.consumer_pause import paused_until
from diracx.tasks.plumbing.jetstream.errors import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, ApiError
from diracx.tasks.plumbing.jetstream.micro import ask_all, endpoint_data
from diracx.tasks.plumbing.jetstream.replicas import ANSWER_SECONDS, NO_LEADER_ERRORS, catching_up, read_replicas
from diracx.tasks.plumbing.jetstream.stream_messages import read_message, request_to_count
from diracx.tasks.plumbing.operations.alerts import alerts_of
from diracx.tasks.plumbing.operations.gone_workers import GoneWorkers
from diracx.tasks.plumbing.operations.group_lookup import GroupReader
from diracx.tasks.plumbing.operations.locks import LockReader
from diracx.tasks.plumbing.operations.scheduler_service import scheduler_service
from diracx.tasks.plumbing.operations.service_answers import SchedulerStats, WorkerStats
from diracx.tasks.plumbing.operations.status_document import (
    GoneWorker,
    QueueStatus,
    SchedulerStatus,
    Status,
    StatusSnapshot,
    WorkerStatus,
)
from diracx.tasks.plumbing.operations.storage import StorageReader, StoredMesh
from diracx.tasks.plumbing.operations.worker_service import worker_service
from diracx.tasks.plumbing.scheduler.store import JetStreamScheduleStore
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import from_rfc3339
from diracx.tasks.plumbing.worker.snapshot import HeldTask

__all__ = ["QueueStatus", "SchedulerStatus", "Status", "StatusReader", "StatusSnapshot", "WorkerStatus"]

T = TypeVar("T")
Consumers: TypeAlias = Mapping[str, Mapping[str, Any] | None]
"""Consumers of the stream of tasks by name; None: it has no leader."""
LIST_SECONDS: Final = 3.0
"""How long a list of consumers may take in a cluster: while one of them has no leader, it is asked for again."""


class StatusReader:
    """Reads the status of one mesh, any number of times.

    Every method raises `ServerUnavailableError` if no answer arrives, and `ApiError` if a stream is missing.
    """

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace
        self._storage = StorageReader(connection, namespace)
        self._gone = GoneWorkers(connection, namespace)

    async def read(self) -> StatusSnapshot:
        """Read the status once. What is missing on the server counts as empty, and is an alert."""
        names = self._namespace
        (workers, schedulers), (stored, consumers, counts), replicas = await asyncio.gather(
            self._ask_services(),
            self._stored(),
            # A server that stands alone has no replicas to ask for.
            read_replicas(self._connection, assets(names) if self._connection.in_cluster else ()),
        )
        queues = await self._queues(consumers, None if workers is None else in_flight_by_subject(workers), stored.at)
        status = self._status(queues, counts, workers or (), schedulers or (), stored)
        status = msgspec.structs.replace(status, catching_up=catching_up(replicas))
        nobody_leads = schedulers is not None and status.scheduler.leader is None
        nobody_leads = nobody_leads and names.later_stream not in stored.leaderless  # where the schedules are
        snapshot = StatusSnapshot(
            status=status,
            missing=stored.missing,
            leaderless=[
                *stored.leaderless.values(),
                *(f"consumer {name}" for name, info in consumers.items() if info is None),
            ],
            due=stored.due,
            schedules=await self._enabled_schedules() if nobody_leads else None,
            gone=await self._gone_workers(workers, status, consumers),
            workers_asked=workers is not None,
            answers=workers or (),
        )
        return replace(snapshot, status=msgspec.structs.replace(status, alerts=alerts_of(snapshot)))

    async def _stored(self) -> tuple[StoredMesh, Consumers, tuple[int, int, int, int | None, int]]:
        """What is stored, the consumers, and the counts. A stream without a leader is asked once: it costs seconds."""
        stored = await self._storage.read()
        consumers, counts = await asyncio.gather(self._consumers(stored.leaderless), self._counts(stored.leaderless))
        return stored, consumers, counts

    def _status(
        self,
        queues: list[QueueStatus],
        counts: tuple[int, int, int, int | None, int],
        workers: Sequence[dict[str, Any]],
        schedulers: Sequence[dict[str, Any]],
        stored: StoredMesh,
    ) -> Status:
        delayed, dead, locks, groups, cancelled = counts
        return Status(
            namespace=self._namespace.name,
            server=self._connection.server,
            queues=queues,
            delayed=delayed,
            dead_letters=dead,
            locks=locks,
            scheduler=_scheduler_status(schedulers),
            workers=sorted(map(_worker_status, workers), key=_worker_rank),
            held=_held(workers),
            groups=groups,
            cancelled=cancelled,
            at=stored.at,
            next=_next_occurrence(schedulers),
            streams=stored.streams,
            storage=stored.storage,
        )

    async def _ask_services(self) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None]:
        """The answers of the workers and of the schedulers; None if this user may not ask them."""
        return await asyncio.gather(
            ask_all(self._connection, worker_service(self._namespace), shape=WorkerStats),
            ask_all(self._connection, scheduler_service(self._namespace), shape=SchedulerStats),
        )

    async def _consumers(self, leaderless: Container[str] = ()) -> Consumers:
        """The consumers of the stream of tasks; an operator may have created others than the nine."""
        names, nine = self._namespace, [Namespace.consumer(priority, size) for priority in Priority for size in Size]
        if names.tasks_stream in leaderless:
            return dict.fromkeys(nine)
        in_cluster = self._connection.in_cluster
        try:
            answer = await self._connection.api(
                f"CONSUMER.LIST.{names.tasks_stream}", timeout=LIST_SECONDS if in_cluster else None
            )
        except NO_LEADER_ERRORS:
            if not in_cluster:
                raise
            # The list is incomplete as long as one of them has no leader.
            found = await asyncio.gather(*map(self._consumer, nine))
            return {name: info for name, info in zip(nine, found, strict=True) if info != {}}
        except ApiError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise
            return {}
        return {each["name"]: each for each in answer["consumers"] or ()}

    async def _consumer(self, name: str) -> dict[str, Any] | None:
        """One consumer; None: it has no leader; empty: it is missing."""
        subject = f"CONSUMER.INFO.{self._namespace.tasks_stream}.{name}"
        try:
            return await self._connection.api(subject, timeout=ANSWER_SECONDS)
        except NO_LEADER_ERRORS:
            return None
        except ApiError as error:
            if error.err_code not in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
                raise
            return {}

    async def _counts(self, leaderless: Container[str]) -> tuple[int, int, int, int | None, int]:
        """The numbers of delayed tasks, dead letters, locks, open groups and notes of cancellation."""
        names = self._namespace

        async def of(stream: str, read: Callable[[], Awaitable[T]]) -> T | Literal[0]:
            return 0 if stream in leaderless else await self._or_zero(read())

        def subjects(stream: str, pattern: str) -> Awaitable[int]:
            return of(stream, partial(self._count_subjects, stream, f"{names.name}.{pattern}"))

        return await asyncio.gather(
            subjects(names.later_stream, "delayed.*"),
            subjects(names.dead_letters_stream, "dlq.>"),
            of(f"KV_{names.locks_bucket}", LockReader(self._connection, names).count),
            of(names.later_stream, GroupReader(self._connection, names).open_groups),
            subjects(names.later_stream, "cancelled.*.*"),
        )

    async def _or_zero(self, reading: Awaitable[T]) -> T | Literal[0]:
        """What was read; 0 where its stream is missing, or has no leader in its cluster."""
        try:
            return await reading
        except NO_LEADER_ERRORS:
            if not self._connection.in_cluster:
                raise
        except ApiError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise
        return 0

    async def _count_subjects(self, stream: str, pattern: str) -> int:
        """The number of subjects of a stream that match and have messages."""
        answer = await self._connection.api(f"STREAM.INFO.{stream}", request_to_count(pattern))
        return int(answer.get("total", 0))

    async def _enabled_schedules(self) -> int:
        states = await self._or_zero(JetStreamScheduleStore(self._connection, self._namespace).read_all())
        return sum(stored.state.enabled and not stored.state.ended for stored in states.values()) if states else 0

    async def _gone_workers(
        self, workers: list[dict[str, Any]] | None, status: Status, consumers: Consumers
    ) -> list[GoneWorker]:
        if workers is None:
            return []
        parked: Counter[Size] = Counter()
        for queue in status.queues:
            parked[queue.size] += queue.parked or 0
        leases = {
            size: max(_ack_wait(consumers.get(self._namespace.consumer(priority, size))) for priority in Priority)
            for size in Size
        }
        return await self._gone.find(workers, parked, leases, status.locks, status.at)

    async def _queues(self, infos: Consumers, in_flight: Mapping[str, int] | None, now: datetime) -> list[QueueStatus]:
        """The nine queues in their order."""
        queues = [(priority, size) for priority in Priority for size in Size]
        found = await asyncio.gather(
            *(self._queue(*each, infos.get(self._namespace.consumer(*each)), in_flight, now) for each in queues)
        )
        return [msgspec.structs.replace(queue, missing=queue.name not in infos) for queue in found]

    async def _queue(
        self,
        priority: Priority,
        size: Size,
        info: Mapping[str, Any] | None,
        in_flight: Mapping[str, int] | None,
        now: datetime,
    ) -> QueueStatus:
        """The status of a queue.

        Args:
            info: Its consumer; None: it is missing, or has no leader. Then all tasks wait that no worker has in flight.
        """
        subject = self._namespace.task_subject(priority, size)
        stream, own = self._namespace.tasks_stream, None if in_flight is None else in_flight.get(subject, 0)
        if info is None:
            stored = await self._or_zero(self._count_messages(stream, subject))
            unsettled = executing = min(stored, own or 0)
            waiting, redelivered, first = stored - executing, 0, 1
        else:
            unsettled, waiting = int(info["num_ack_pending"]), int(info["num_pending"])
            executing = unsettled if own is None else min(unsettled, own)
            redelivered, first = int(info["num_redelivered"]), info["delivered"]["stream_seq"] + 1
        oldest = None
        if waiting:
            reading = read_message(self._connection, stream, seq=first, next_by_subj=subject)
            oldest = await self._or_zero(reading) or None
        return QueueStatus(
            subject=subject,
            priority=priority,
            size=size,
            waiting=waiting,
            in_hand=executing,
            redelivered=redelivered,
            oldest_seconds=None if oldest is None else max(0.0, round((now - oldest.stored) / timedelta(seconds=1), 3)),
            paused_until=None if info is None else paused_until(info),
            parked=None if own is None else unsettled - executing,
        )

    async def _count_messages(self, stream: str, subject: str) -> int:
        patience = ANSWER_SECONDS if self._connection.in_cluster else None
        found = await self._connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": subject}, timeout=patience)
        return int((found["state"].get("subjects") or {}).get(subject, 0))


def _ack_wait(consumer: Mapping[str, Any] | None) -> timedelta:
    nanoseconds = 0 if consumer is None else int(consumer["config"].get("ack_wait", 0))
    return timedelta(microseconds=nanoseconds / 1_000)


def _worker_rank(worker: WorkerStatus) -> tuple[int, str]:
    # node9 stands before node10.
    return list(Size).index(worker.size), re.sub("[0-9]+", lambda number: number[0].zfill(12), worker.id)


def in_flight_by_subject(workers: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """The tasks that workers have in flight, by the subject of their queue."""
    total: Counter[str] = Counter()
    for answer in workers:
        total.update(endpoint_data(answer)["in_hand"])
    return total


def _worker_status(answer: Mapping[str, Any]) -> WorkerStatus:
    metadata, data = answer["metadata"], endpoint_data(answer)
    return WorkerStatus(
        id=metadata["id"],
        size=Size(metadata["size"]),
        slots=data["slots"],
        busy=data["busy"],
        host=metadata["host"],
        pid=int(metadata["pid"]),
        since=from_rfc3339(answer["started"]),
        isolated=data.get("isolated"),  # earlier workers do not tell
        clock_ahead_seconds=data.get("clock_ahead_seconds"),
        not_served=data.get("not_served", {}),
        per_second=data["per_second"],
        last_pull_seconds=data["last_pull_seconds"],
        memory_bytes=data.get("memory_bytes"),
    )


def _held(workers: Iterable[Mapping[str, Any]]) -> list[HeldTask]:
    # Earlier workers hold nothing.
    held = {msgspec.convert(each, HeldTask) for answer in workers for each in endpoint_data(answer).get("held", ())}
    return sorted(held, key=lambda each: (each.task, each.vo or ""))


def _scheduler_status(schedulers: Iterable[Mapping[str, Any]]) -> SchedulerStatus:
    data = {answer["metadata"]["id"]: endpoint_data(answer) for answer in schedulers}
    leads = {each: bool(values["leads"]) for each, values in data.items()}
    return SchedulerStatus(
        leader=next((each for each, leading in leads.items() if leading), None),
        standbys=sorted(each for each, leading in leads.items() if not leading),
        clock_ahead_seconds={each: values.get("clock_ahead_seconds") for each, values in data.items()},
    )


def _next_occurrence(schedulers: Iterable[Mapping[str, Any]]) -> datetime | None:
    texts = [endpoint_data(answer)["next"] for answer in schedulers if endpoint_data(answer)["leads"]]
    return min((from_rfc3339(text) for text in texts if text is not None), default=None)
