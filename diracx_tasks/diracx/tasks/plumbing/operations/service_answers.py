"""The shapes of what the workers and schedulers of a mesh answer, as far as operators read it.

Whoever may subscribe to `$SRV` can answer beside them: another program with the name of our service, or a version that
writes something else. `micro.ask_all` leaves out an answer that does not have the shape, so that a single one takes
neither `status` nor a page with it. Fields that earlier versions do not tell have a default.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.operations.worker_service import NoteEffect
from diracx.tasks.plumbing.wire.bounds import AwareTime, Count
from diracx.tasks.plumbing.worker.snapshot import EndedTask, HeldTask, InFlightTask, QueueTotals

Id = Annotated[str, Meta(min_length=1)]


class _WorkerMetadata(msgspec.Struct):
    id: Id
    size: Size


class WorkerAnswer(msgspec.Struct):
    """What each answer of a worker tells."""

    metadata: _WorkerMetadata


class TasksAnswer(WorkerAnswer):
    """An answer to `TASKS`."""

    tasks: list[InFlightTask]
    left_off: Count


class EndedAnswer(WorkerAnswer):
    """An answer to `ENDED`."""

    ended: list[EndedTask]


class CancelledAnswer(WorkerAnswer):
    """An answer to `CANCELLED`."""

    notes: list[NoteEffect]


class _LoadData(msgspec.Struct):
    slots: Count
    busy: Count
    in_hand: dict[str, Count]
    queues: dict[str, QueueTotals] = {}


class _LoadEndpoint(msgspec.Struct):
    data: _LoadData


class WorkerLoad(WorkerAnswer):
    """What samples need of an answer of a worker to `STATS`."""

    started: AwareTime
    endpoints: Annotated[list[_LoadEndpoint], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Refuse a time in another zone: it may be out of range in UTC."""
        _check_utc(self.started)


class _WorkerProcess(_WorkerMetadata):
    host: str
    pid: Annotated[str, Meta(pattern=r"^[0-9]{1,18}$")]


class _WorkerData(_LoadData, kw_only=True):
    per_second: float
    last_pull_seconds: float | None
    stopping: bool = False
    isolated: str | None = None
    held: list[HeldTask] = []
    not_served: dict[str, str] = {}
    clock_ahead_seconds: float | None = None
    memory_bytes: Count | None = None


class _WorkerEndpoint(msgspec.Struct):
    data: _WorkerData


class WorkerStats(msgspec.Struct):
    """What the status needs of an answer of a worker to `STATS`."""

    metadata: _WorkerProcess
    started: AwareTime
    endpoints: Annotated[list[_WorkerEndpoint], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Refuse a time in another zone."""
        _check_utc(self.started)


class _SchedulerProcess(msgspec.Struct):
    id: Id


class _SchedulerData(msgspec.Struct):
    leads: bool
    next: AwareTime | None
    clock_ahead_seconds: float | None = None

    def __post_init__(self) -> None:
        _check_utc(self.next)


class _SchedulerEndpoint(msgspec.Struct):
    data: _SchedulerData


class SchedulerStats(msgspec.Struct):
    """An answer of a scheduler to `STATS`."""

    metadata: _SchedulerProcess
    endpoints: Annotated[list[_SchedulerEndpoint], Meta(min_length=1)]


def _check_utc(moment: datetime | None) -> None:
    if moment is not None and moment.utcoffset() != timedelta(0):
        raise ValueError("a time that is not in UTC")
