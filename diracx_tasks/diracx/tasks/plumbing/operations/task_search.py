"""Finds tasks that have not succeeded: by state, name and label.

No index leads from a name or a label to messages. Each state has a place that is read, the oldest message first:

    running    the workers tell what they have in flight
    parked     messages up to the last one that its queue has delivered, and that no worker has in flight
    waiting    messages beyond it
    delayed    the stream of later tasks
    dead       the stream of dead letters, the latest first
    failed     the workers tell their latest failures, the latest first; neither arguments nor labels

At most `MAX_MESSAGES` of a stream are read. A search that ends there, or at its limit, says that it is not complete. So
does one for running or parked tasks if a worker does not say all that it runs: what it leaves out looks parked. A task
that moves meanwhile may be missed, or be listed in the state that it has left. Why a task of a queue does not run is
told by the status of the mesh (its queue is paused, no worker serves it), by its attempts and by its locks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.structs import replace

from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage
from diracx.tasks.plumbing.operations import task_reasons
from diracx.tasks.plumbing.operations.busy_locks import LockLookup
from diracx.tasks.plumbing.operations.in_flight import WorkerTasks, tasks_in_flight
from diracx.tasks.plumbing.operations.locks import LockReader
from diracx.tasks.plumbing.operations.recent_failures import RecentFailure, recent_failures
from diracx.tasks.plumbing.operations.status import QueueStatus, StatusReader, StatusSnapshot
from diracx.tasks.plumbing.operations.task_document import BusyLock, State
from diracx.tasks.plumbing.operations.task_records import TaskRecords, decoded, note_among, scheduled_for
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.ending import Status
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.snapshot import MAX_ENDED, InFlightTask

STATES: Final = (State.RUNNING, State.PARKED, State.WAITING, State.DELAYED, State.DEAD)
"""The states in which a task can be, in the order of their results. `FAILED` can be searched besides: a task that has
failed is in one of them, too, or is gone."""
MAX_MESSAGES: Final = 100_000
"""Of one stream in one search; they take about 2 s."""


class FoundTask(msgspec.Struct, frozen=True, kw_only=True):
    """One task. These fields, in this order, are those of `find --json`."""

    id: str
    task: str
    """Its name; empty if its message has none."""
    state: State
    queue: str | None
    """`<priority>-<size>`; None: it is in none."""
    submitted: datetime | None
    """None: not known."""
    until: datetime | None = None
    """When it runs at the earliest: a delayed task, or one that waits for its retry. None: as soon as it can."""
    attempts: int = 0
    """Executions that failed, or whose process died."""
    worker: str | None = None
    """The id of the worker that has it."""
    since: datetime | None = None
    """When that worker took it, or when it failed or died."""
    reason: str | None = None
    """Why it does not run, or why it is dead, or what it does in its worker. None: it waits for its turn only."""
    args: Any = None
    """The fields of the task as JSON; None also if the body is not JSON."""
    labels: dict[str, Any] = {}
    locks: list[str] = []
    """The keys of the locks that a parked task waits for, as far as it is known."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is searched: tasks that fit all of these."""

    states: Sequence[State] = STATES
    task: str | None = None
    """Their name; None: any."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels by name; a label that is no text is compared in its JSON. Nothing that is `FAILED` fits any."""
    limit: int = 50
    """The number of tasks to find in each state."""

    def fits(self, name: str, labels: Mapping[str, Any]) -> bool:
        """Whether a task of this name and with these labels is searched."""
        return (self.task is None or name == self.task) and all(
            label in labels and label_text(labels[label]) == value for label, value in self.labels.items()
        )


@dataclass(slots=True)
class SearchResult:
    """What was found."""

    tasks: list[FoundTask]
    """By state, in the order of `STATES`; within a state the oldest first, dead letters the latest first."""
    incomplete: list[State] = field(default_factory=list)
    """The states of which there may be more, or others than those in `tasks`."""
    limited: list[State] = field(default_factory=list)
    """Those of them of which a higher limit shows more."""
    unread: list[State] = field(default_factory=list)
    """Those of them whose search ended before all was read, after `MAX_MESSAGES` messages, or where workers name no
    more failures. A higher limit shows no more."""
    workers_known: bool = True
    """False: this user may not ask the workers, so running tasks are listed as parked."""
    silent: list[str] = field(default_factory=list)
    """The ids of workers that are there and do not say what they run: it is listed as parked."""
    left_off: int = 0
    """Running tasks that the workers have and did not name: they are listed as parked."""

    def note_end(self, state: State, end: _End) -> None:
        """Note how the search for a state ended."""
        asks_workers = state in (State.RUNNING, State.PARKED)
        if end is not _End.ALL or (asks_workers and (self.silent or self.left_off)):
            self.incomplete.append(state)
        if end is _End.LIMIT:
            self.limited.append(state)
        elif end is _End.UNREAD:
            self.unread.append(state)


class _End(Enum):
    """How the search for a state ended."""

    ALL = auto()
    """All was read."""
    LIMIT = auto()
    """As many were found as were wanted, and there are more."""
    UNREAD = auto()
    """Not all was read."""
    UNKNOWN = auto()
    """What is searched is not known of tasks in this state."""


@dataclass(frozen=True, slots=True)
class _Mesh:
    """The mesh while tasks are searched."""

    snapshot: StatusSnapshot
    workers: list[WorkerTasks] | None
    """None: this user may not ask them."""

    def of_queue(self, subject: str, task: FoundTask) -> list[str]:
        """Why no worker takes this task from its queue."""
        vo = task.args.get("vo") if isinstance(task.args, dict) else None
        status = None if self.workers is None else self.snapshot.status
        return task_reasons.of_queue(self._queue(subject), task.task, vo, status)

    def of_parked(self, subject: str) -> str:
        """Where a task may be that was delivered, when nothing else tells."""
        size = self._queue(subject).size
        return task_reasons.of_parked([each for each in self.workers or () if not each.answered and each.size == size])

    def _queue(self, subject: str) -> QueueStatus:
        return next(each for each in self.snapshot.status.queues if each.subject == subject)


_Read: TypeAlias = tuple[StoredMessage, Envelope | None, FoundTask]


class TaskSearch:
    """Searches one mesh, any number of times.

    Every method raises `ServerUnavailableError` if no answer arrives, and `ApiError` if a stream is missing.

    Args:
        registry: The tasks that are installed here: their classes tell which locks a parked task waits for.
        status: Reads the status of the mesh; None: as `StatusReader`.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: Namespace,
        registry: TaskRegistry,
        status: Callable[[], Awaitable[StatusSnapshot]] | None = None,
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._records = TaskRecords(connection, namespace)
        locks = LockReader(connection, namespace)
        self._locks = LockLookup(registry, locks, ConfigurationFollower(connection, namespace))
        self._status = status or StatusReader(connection, namespace).read

    async def find(self, wanted: Wanted) -> SearchResult:
        """Search once."""
        workers, floors = await asyncio.gather(self._workers(), self._records.delivered())
        running = {task.sequence: (worker.worker, task) for worker in workers or () for task in worker.tasks}
        result = SearchResult(
            [],
            workers_known=workers is not None,
            silent=[worker.worker for worker in workers or () if not worker.answered],
            left_off=sum(worker.left_off for worker in workers or ()),
        )
        mesh: _Mesh | None = None
        for state in (*STATES, State.FAILED):
            if state not in wanted.states:
                continue
            if state is State.DEAD:
                found, end = await self._dead(wanted)
            elif state is State.FAILED:
                found, end = await self._failed(wanted)
            else:
                read, end = await _first(self._of(state, running, floors), wanted)
                found = [each for *_, each in read]
                if read and state in (State.PARKED, State.WAITING):
                    mesh = mesh or _Mesh(await self._status(), workers)
                    found = await self._explained(read, mesh)
            result.tasks += found
            result.note_end(state, end)
        return result

    def _of(
        self, state: State, running: Mapping[int, tuple[str, InFlightTask]], floors: Mapping[str, int]
    ) -> AsyncIterator[_Read | None]:
        """What is read for one state, the oldest first; None for a message that is in another state."""
        if state is State.RUNNING:
            return self._in_workers(running)
        if state is State.DELAYED:
            return self._delayed()
        return self._queued(state, running, floors)

    async def _workers(self) -> list[WorkerTasks] | None:
        """All workers with their tasks in flight; None: this user may not ask them."""
        try:
            return await tasks_in_flight(self._connection, self._namespace)
        except PermissionDeniedError:
            return None

    async def _in_workers(self, running: Mapping[int, tuple[str, InFlightTask]]) -> AsyncIterator[_Read | None]:
        for sequence, (worker, task) in sorted(running.items(), key=lambda each: each[1][1].since):
            message = await self._records.queued(sequence)
            if message is None:  # settled meanwhile
                continue
            yield self._read(
                message,
                State.RUNNING,
                worker=worker,
                since=task.since,
                reason=task_reasons.of_in_flight(task),
                attempts=task.attempt - 1,
            )

    async def _queued(
        self, state: State, running: Mapping[int, object], floors: Mapping[str, int]
    ) -> AsyncIterator[_Read | None]:
        names = self._namespace
        last = max(floors.values(), default=0) if state is State.PARKED else None
        async for message in read_batches(self._connection, names.tasks_stream, f"{names.name}.tasks.*.*", last=last):
            delivered = message.sequence <= floors.get(message.subject, 0)
            if delivered is (state is State.PARKED) and message.sequence not in running:
                yield self._read(message, state)
            else:
                yield None

    async def _delayed(self) -> AsyncIterator[_Read | None]:
        names = self._namespace
        async for message in read_batches(self._connection, names.later_stream, f"{names.name}.delayed.*"):
            yield self._read(message, State.DELAYED, until=scheduled_for(message))

    async def _dead(self, wanted: Wanted) -> tuple[list[FoundTask], _End]:
        letters = await DeadLetterReader(self._connection, self._namespace).latest(
            wanted.limit + 1, lambda letter: wanted.fits(letter.task or "", letter.labels or {})
        )
        found = [_of_letter(letter) for letter in reversed(letters)]
        return found[: wanted.limit], _End.ALL if len(found) <= wanted.limit else _End.LIMIT

    async def _failed(self, wanted: Wanted) -> tuple[list[FoundTask], _End]:
        if wanted.labels:
            return [], _End.UNKNOWN
        try:
            failures = await recent_failures(self._connection, self._namespace)
        except PermissionDeniedError:
            return [], _End.UNKNOWN
        found = [_of_failure(each) for each in failures if wanted.fits(each.ended.task, {})]
        if len(found) > wanted.limit:
            return found[: wanted.limit], _End.LIMIT
        # So many are asked for: there may be more.
        return found, _End.ALL if len(failures) < MAX_ENDED else _End.UNREAD

    async def _explained(self, found: Sequence[_Read], mesh: _Mesh) -> list[FoundTask]:
        """Tasks of the queues, each with what its queue says; parked ones also with their attempts and their locks."""
        parked = [(message, envelope) for message, envelope, task in found if task.state is State.PARKED]
        keys = await self._locks.read() if parked else {}
        records = await asyncio.gather(*(self._records.attempts(message) for message, _ in parked))
        notes = await self._records.notes() if mesh.snapshot.status.cancelled else {}
        tried = {message.sequence: record for (message, _), record in zip(parked, records, strict=True)}
        explained, now = list[FoundTask](), mesh.snapshot.at
        for message, envelope, task in found:
            record = tried.get(message.sequence)
            locks, problem = list[BusyLock](), None
            if envelope is not None and keys:
                locks, problem = self._locks.busy_of(envelope, message.body, keys)
            note = note_among(notes, message)
            why = [] if note is None else [task_reasons.of_cancelled(note, task_reasons.DROPPED)]
            why += [] if task.reason is None else [task.reason]
            why += task_reasons.of_expiry(None if envelope is None else envelope.expires, now)
            why += [] if record is None else task_reasons.of_record(record, now, cancelled=note is not None)
            why += [*mesh.of_queue(message.subject, task), *task_reasons.of_locks(locks)]
            if not why and task.state is State.PARKED:
                why = [problem or mesh.of_parked(message.subject)]
            changes: dict[str, Any] = {"reason": "; ".join(why) or None, "locks": [lock.key for lock in locks]}
            if record is not None:
                changes |= {"attempts": record.failed + record.crashes, "until": record.not_before}
            explained.append(replace(task, **changes))
        return explained

    def _read(self, message: StoredMessage, state: State, **more: Any) -> _Read:
        queue = self._namespace.queue_of(message.subject)
        fields: dict[str, Any] = {"id": str(message.sequence), "task": "", "submitted": message.stored}
        envelope: Envelope | None = None
        try:
            envelope = Envelope.from_headers(message.headers, message.sequence)
        except MalformedTaskError as error:
            fields["reason"] = f"it is malformed, and becomes a dead letter in its turn: {error}"
        else:
            fields |= {"id": envelope.id, "task": envelope.name, "labels": envelope.labels}
            fields["submitted"] = envelope.submitted or message.stored
        fields |= {"queue": None if queue is None else "-".join(queue), "args": decoded(message.body, object)}
        return message, envelope, FoundTask(state=state, **(fields | more))


def _of_letter(letter: DeadLetter) -> FoundTask:
    return FoundTask(
        id=letter.id or str(letter.seq),
        task=letter.task or "",
        state=State.DEAD,
        queue=None,
        submitted=letter.submitted or letter.died,
        attempts=letter.attempts or 0,
        since=letter.died,
        reason=letter.reason,
        args=letter.args,
        labels=letter.labels or {},
    )


def _of_failure(failure: RecentFailure) -> FoundTask:
    ended = failure.ended
    error = f"{ended.error}: {ended.message}" if ended.error else ended.message
    # What expired was not executed this time, and neither was what ended without an error.
    idle = ended.status == Status.EXPIRED or not ended.error
    return FoundTask(
        id=ended.id,
        task=ended.task,
        state=State.FAILED,
        queue=ended.queue,
        submitted=None,
        attempts=ended.attempt - idle,
        worker=failure.worker,
        since=ended.at,
        reason=f"{failure.outcome}: {error}",
    )


def label_text(value: object) -> str:
    """A label as an operator types it: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


async def _first(found: AsyncIterator[_Read | None], wanted: Wanted) -> tuple[list[_Read], _End]:
    """The first of them that are wanted, and whether these are all."""
    chosen: list[_Read] = []
    read = 0
    async for each in found:
        read += 1
        if each is not None and wanted.fits(each[2].task, each[2].labels):
            if len(chosen) == wanted.limit:
                return chosen, _End.LIMIT
            chosen.append(each)
        if read >= MAX_MESSAGES:
            return chosen, _End.UNREAD
    return chosen, _End.ALL
