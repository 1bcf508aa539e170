"""The status of a mesh as a document: what `status --json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.snapshot import HeldTask


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an operator should know, and the command that mends it."""

    level: Literal["critical", "warning"]
    """`critical`: tasks do not run, are refused or may be lost from sight. `warning`: all else."""
    name: str
    """One of `alerts.LEVELS`; it stays the same through all versions."""
    text: str
    """A sentence. It may hold names and errors that users chose."""
    command: str | None = None
    """The command that mends it, or that shows more of it; None: there is none."""


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
    missing: bool = False
    """Whether the server has no such consumer: no worker gets its tasks. `diracx-task-run setup` creates it."""
    parked: int | None = None
    """Tasks that wait for a retry or a lock; None: this user may not ask the workers."""

    @property
    def name(self) -> str:
        """`<priority>-<size>`, the argument of `pause`."""
        return Namespace.consumer(self.priority, self.size)


class SchedulerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduler processes."""

    leader: str | None
    """The id of the leader, which contains host and pid; None if none leads."""
    standbys: list[str]
    """The ids of the others."""
    clock_ahead_seconds: dict[str, float | None] = {}
    """How far the clock of its machine is ahead of the server's, by id of the scheduler. None: it does not tell."""


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
    clock_ahead_seconds: float | None = None
    """How far the clock of its machine is ahead of the server's; negative: behind. None: it does not tell."""
    not_served: dict[str, str] = {}
    """Why it gives a task back, by the name of the task: a resource that the task needs is down in this worker."""
    per_second: float = 0.0
    """Deliveries processed per second over the last ten seconds."""
    last_pull_seconds: float | None = None
    """Seconds since the last answered pull; None: no pull was answered."""
    memory_bytes: int | None = None
    """The memory that its process takes up (RSS); None: it does not tell."""


class StreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One stream of the mesh, or the stream `KV_<bucket>` of a bucket."""

    name: str
    messages: int
    bytes: int
    """What is stored, with headers and the server's own records."""
    max_bytes: int | None
    """The most that it stores; None: it has no limit of its own."""
    max_messages: int | None = None
    refuses: bool = True
    """Whether it refuses messages when it is full; False: it removes old ones."""


class StorageStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The storage of all streams of the account, in files."""

    bytes: int
    """What is stored, on all servers."""
    max_bytes: int | None
    """The most that this account may store; None: only the disks of the servers set a limit, which they do not tell."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The document of `status --json`: these fields, in this order."""

    namespace: str
    server: str
    queues: list[QueueStatus]
    delayed: int
    """Tasks that were submitted for later and have not fallen due."""
    dead_letters: int
    locks: int
    """The number of locks in `locks list`, which include limiters and the leadership of the scheduler. Among more than
    1,000 keys, also those that `nats kv del` removed."""
    scheduler: SchedulerStatus
    workers: list[WorkerStatus]
    held: list[HeldTask]
    """The tasks that the workers hold: the configuration has `enabled: false` for them. Empty if this user may not ask
    the workers."""
    groups: int | None = 0
    """Groups that wait for their children; None: more records of groups are stored than are worth a count."""
    cancelled: int = 0
    """The notes by which operators have cancelled tasks."""
    catching_up: list[str] = []
    """On a cluster: a line for each stream, bucket and group of consumers that has no leader, or of which a replica is
    behind, away or still to be made."""
    alerts: list[Alert] = []
    """The most important first."""
    at: datetime
    """When the status was read, by the server's clock."""
    next: datetime | None = None
    """The next occurrence of all periodic tasks; None if it is not known."""
    streams: list[StreamStatus] = []
    """The streams and buckets that the server has."""
    storage: StorageStatus | None = None
    """None: not known."""


@dataclass(frozen=True, slots=True)
class DueTasks:
    """Tasks that have fallen due, and that the stream of tasks has not taken from the stream of later."""

    count: int
    problem: str | None = None
    """Why they are not taken, as far as the server tells."""


@dataclass(frozen=True, slots=True)
class GoneWorker:
    """A worker that had tasks, and does not answer any more."""

    id: str
    evidence: str
    """How that is known: a clause that follows its id, e.g. `holds 2 locks`."""
    back_by: datetime | None = None
    """When the last lease on its tasks lapses, if it is gone; None: that is not known."""


@dataclass(frozen=True, slots=True)
class StatusSnapshot:
    """A status, and what else its alerts are made from."""

    status: Status
    workers_asked: bool = True
    """Whether this user may ask the workers and schedulers; False: they are not listed."""
    missing: Sequence[str] = ()
    """Streams and buckets that the server does not have, e.g. `stream DIRACX_DLQ`."""
    leaderless: Sequence[str] = ()
    """Streams and buckets, named as in `missing`, and consumers, e.g. `consumer normal-small`, that nobody leads. They
    count as empty. Only on a cluster."""
    due: DueTasks = DueTasks(0)
    schedules: int | None = None
    """Schedules that are enabled; None: not known. They are counted while nobody leads."""
    gone: Sequence[GoneWorker] = ()
    answers: Sequence[Mapping[str, Any]] = ()
    """What the workers answered, from which a sample is made as well."""

    @property
    def at(self) -> datetime:
        """When the status was read, by the server's clock."""
        return self.status.at
