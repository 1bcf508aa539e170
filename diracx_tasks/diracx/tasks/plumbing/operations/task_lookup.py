"""Where is this task now, and why does it not run? Everything is read, and nothing is changed.

No index leads from the id of a task to its message, so the places where it can be are asked, the cheapest first:

    delayed tasks      by a subject that contains the id
    workers            each tells its tasks in flight with that id, and its latest deliveries of it that did not succeed
    queues             read from the oldest message on, in batches, until it is found; the way tells its place
    group, result      by keys that contain the id
    dead letters       read to the end: the latest counts
    later tasks        those that the server has yet to move to their queue, and occurrences of periodic tasks

A task that moves meanwhile may be missed: it is then `unknown`, like one that has ended without a result.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec

from diracx.tasks.plumbing.cancellations.note import Kind
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.dead_letters.replay import is_replay
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.groups.records import Ended, split_place
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage
from diracx.tasks.plumbing.operations import task_reasons
from diracx.tasks.plumbing.operations.busy_locks import LockLookup
from diracx.tasks.plumbing.operations.group_lookup import GroupReader, child_place
from diracx.tasks.plumbing.operations.in_flight import WorkerTasks, tasks_in_flight
from diracx.tasks.plumbing.operations.locks import LockReader
from diracx.tasks.plumbing.operations.past_deliveries import past_deliveries
from diracx.tasks.plumbing.operations.status import QueueStatus, StatusReader, StatusSnapshot
from diracx.tasks.plumbing.operations.task_document import (
    BusyLock,
    CancellationNote,
    DeadTask,
    GroupState,
    PastDelivery,
    Running,
    State,
    TaskDocument,
)
from diracx.tasks.plumbing.operations.task_records import TaskRecords, decoded, scheduled_for
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.ending import Status
from diracx.tasks.plumbing.wire.envelope import Envelope, trace_id_of
from diracx.tasks.plumbing.wire.names import Namespace


@dataclass(frozen=True, slots=True)
class _Mesh:
    """The mesh while the task was looked for."""

    snapshot: StatusSnapshot
    workers: list[WorkerTasks] | None
    """Each worker, with the messages of the task that it has in flight; None: this user may not ask them."""

    @property
    def running(self) -> list[Running]:
        """The workers that have the task in flight."""
        return [
            Running(
                worker=worker.worker,
                since=task.since,
                attempt=task.attempt,
                state=task.state,
                cancelled_since=task.cancelled_since,
                cancelled_for=task.cancelled_for,
                blocked_at=task.blocked_at,
            )
            for worker in self.workers or ()
            for task in worker.tasks
        ]


@dataclass(frozen=True, slots=True)
class _Found:
    """The message of the task."""

    message: StoredMessage
    envelope: Envelope | None
    """None: its headers cannot be read."""
    fields: dict[str, Any]
    """What the message itself tells, as fields of the document."""
    malformed: list[str]
    """A sentence that says why its headers cannot be read."""

    @property
    def vo(self) -> object:
        """The VO of the task, if it has one."""
        args = self.fields["args"]
        return args.get("vo") if isinstance(args, dict) else None


class TaskLookup:
    """Looks up tasks of one mesh by their ids.

    Args:
        registry: The tasks that are installed here: their classes tell which locks a task takes.
    """

    def __init__(self, connection: Connection, namespace: Namespace, registry: TaskRegistry) -> None:
        self._connection = connection
        self._namespace = namespace
        self._records = TaskRecords(connection, namespace)
        self._groups = GroupReader(connection, namespace)
        locks = LockReader(connection, namespace)
        self._locks = LockLookup(registry, locks, ConfigurationFollower(connection, namespace))

    async def find(self, wanted: str) -> TaskDocument:
        """What is known of a task, or of a group, by its id.

        Raises:
            ServerUnavailableError: No answer.
            ServerError: The namespace does not exist.
        """
        past, document = await asyncio.gather(
            past_deliveries(self._connection, self._namespace, wanted), self._find(wanted)
        )
        return _with_past(document, past) if past else document

    async def _find(self, wanted: str) -> TaskDocument:
        snapshot, workers, delayed = await asyncio.gather(
            StatusReader(self._connection, self._namespace).read(),
            self._in_flight(wanted),
            self._records.delayed(wanted),
        )
        if delayed is not None:
            return await self._of_delayed(wanted, self._read(delayed))
        mesh = _Mesh(snapshot, workers)
        if mesh.running:
            return await self._of_running(wanted, mesh)
        floors = await self._records.delivered()
        found, before = await self._records.find_queued(wanted, floors)
        if found is None:
            return self._with_missing(await self._of_elsewhere(wanted), snapshot)
        if found.sequence <= floors.get(found.subject, 0):
            return await self._of_parked(wanted, self._read(found), mesh)
        return await self._of_waiting(wanted, self._read(found), mesh, before + 1)

    async def _in_flight(self, wanted: str) -> list[WorkerTasks] | None:
        try:
            return await tasks_in_flight(self._connection, self._namespace, ids=[wanted])
        except PermissionDeniedError:
            return None

    def _read(self, message: StoredMessage) -> _Found:
        queue = self._namespace.queue_of(message.subject)
        fields: dict[str, Any] = {"args": decoded(message.body, object), "submitted": message.stored}
        if queue is not None:
            fields |= {"queue": "-".join(queue), "sequence": message.sequence}
        try:
            envelope = Envelope.from_headers(message.headers, message.sequence)
        except MalformedTaskError as error:
            return _Found(message, None, fields, [f"it is malformed, and becomes a dead letter in its turn: {error}"])
        fields |= {
            "task": envelope.name,
            "labels": envelope.labels,
            "submitted": envelope.submitted or message.stored,
            "due": envelope.due,
            "expires": envelope.expires,
            "parent": envelope.parent,
            "callback_of": envelope.callback,
            "trace_id": trace_id_of(message.headers),
        }
        if queue is not None and is_replay(message.headers):
            fields["replayed"] = message.stored
        try:
            fields["group"], fields["index"] = split_place(envelope.group or "")
        except ValueError:
            fields["group"] = envelope.group
        return _Found(message, envelope, fields, [])

    async def _with_note(self, found: _Found, why: list[str], then: str = task_reasons.DROPPED) -> dict[str, Any]:
        """The fields that all tasks that have not ended share.

        Args:
            why: What else is to be said of the task.
            then: What follows if it was cancelled.
        """
        return self._noted(found, await self._records.note_on(found.message), why, then)

    @staticmethod
    def _noted(
        found: _Found, note: CancellationNote | None, why: list[str], then: str = task_reasons.DROPPED
    ) -> dict[str, Any]:
        said = [] if note is None else [task_reasons.of_cancelled(note, then)]
        return {**found.fields, "cancelled": note, "why": [*said, *found.malformed, *why]}

    async def _of_delayed(self, wanted: str, found: _Found) -> TaskDocument:
        until = scheduled_for(found.message)
        why, groups = task_reasons.of_delay(until), []
        callback_of = found.fields.get("callback_of")
        if callback_of is not None and (group := await self._groups.state(callback_of)) is not None:
            why, groups = task_reasons.of_group(group), [group]
        fields = await self._with_note(found, [why])
        return TaskDocument(id=wanted, state=State.DELAYED, until=until, groups=groups, **fields)

    async def _of_running(self, wanted: str, mesh: _Mesh) -> TaskDocument:
        running = mesh.running
        first = next(task for worker in mesh.workers or () for task in worker.tasks)
        fields: dict[str, Any] = {"task": first.task, "why": task_reasons.of_running(running)}
        if (message := await self._records.queued(first.sequence)) is not None:  # else it has just been settled
            told = any(each.cancelled_since is not None for each in running)
            then = "" if told else task_reasons.ENDS
            fields = await self._with_note(self._read(message), fields["why"], then)
            # It counts as a crash in the record until its end is written.
            executing = sum(each.state == "executing" for each in running)
            fields |= _tried(await self._records.attempts(message), executing)
        groups = await self._groups.spawned_by(wanted)
        return TaskDocument(id=wanted, state=State.RUNNING, running=running, groups=groups, **fields)

    async def _of_waiting(self, wanted: str, found: _Found, mesh: _Mesh, place: int) -> TaskDocument:
        expired = task_reasons.of_expiry(found.fields.get("expires"), mesh.snapshot.at)
        why = [*expired, *self._of_queue(found, mesh), self._of_place(found, mesh, place)]
        fields = await self._with_note(found, why)
        return TaskDocument(id=wanted, state=State.WAITING, place=place, **fields)

    async def _of_parked(self, wanted: str, found: _Found, mesh: _Mesh) -> TaskDocument:
        """A worker had it, and none says that it has it now."""
        record, note = await asyncio.gather(self._records.attempts(found.message), self._records.note_on(found.message))
        locks: list[BusyLock] = []
        problem: str | None = None
        if found.envelope is not None:
            locks, problem = await self._locks.busy(found.envelope, found.message.body)
        why = task_reasons.of_expiry(found.fields.get("expires"), mesh.snapshot.at)
        why += [] if record is None else task_reasons.of_record(record, mesh.snapshot.at, cancelled=note is not None)
        why += [*self._of_queue(found, mesh), *task_reasons.of_locks(locks)]
        if not why:
            size = self._queue(found, mesh).size
            silent = [worker for worker in mesh.workers or () if not worker.answered and worker.size == size]
            why = [task_reasons.of_parked(silent)]
        fields = self._noted(found, note, why if problem is None else [*why, problem])
        fields |= _tried(record) | {"locks": locks, "until": None if record is None else record.not_before}
        groups = await self._groups.spawned_by(wanted)
        return TaskDocument(id=wanted, state=State.PARKED, groups=groups, **fields)

    @staticmethod
    def _queue(found: _Found, mesh: _Mesh) -> QueueStatus:
        return next(each for each in mesh.snapshot.status.queues if each.subject == found.message.subject)

    def _of_queue(self, found: _Found, mesh: _Mesh) -> list[str]:
        status = None if mesh.workers is None else mesh.snapshot.status
        return task_reasons.of_queue(self._queue(found, mesh), found.fields.get("task", ""), found.vo, status)

    def _of_place(self, found: _Found, mesh: _Mesh, place: int) -> str:
        return task_reasons.of_place(place, self._queue(found, mesh), mesh.snapshot.status.queues)

    def _with_missing(self, document: TaskDocument, snapshot: StatusSnapshot) -> TaskDocument:
        """What is said of a task of which nothing was found: what is missing may have held it."""
        names = self._namespace
        held = (f"stream {names.later_stream}", f"stream {names.dead_letters_stream}", f"bucket {names.results_bucket}")
        missing = [each for each in held if each in snapshot.missing]
        if document.state is not State.UNKNOWN or not missing:
            return document
        are = "is" if len(missing) == 1 else "are"
        text = f"{', '.join(missing)} {are} missing on this server, and might have told of it: `diracx-task-run setup`"
        return msgspec.structs.replace(document, why=[*document.why, text])

    async def _of_elsewhere(self, wanted: str) -> TaskDocument:
        """It is neither delayed, nor in flight, nor in a queue."""
        result, spawned = await asyncio.gather(self._records.result(wanted), self._groups.spawned_by(wanted))
        if (group := await self._of_group(wanted)) is not None:
            return group
        if (letter := await self._records.dead_letter(wanted)) is not None:
            return self._of_dead(wanted, self._read(letter), {"result": result, "groups": spawned})
        if result is None and (later := await self._records.find_later(wanted)) is not None:
            return await self._of_delayed(wanted, self._read(later))
        child = await self._of_child(wanted)
        if result is None and child is not None:
            return child
        note = await self._records.note(Kind.ID, wanted)
        if result is None and note is None and (callback := await self._of_callback(wanted, spawned)) is not None:
            return callback
        state, why = State.UNKNOWN, task_reasons.UNKNOWN_MEANS
        if result is not None:
            state, why = State.DONE, task_reasons.of_result(result)
        elif note is not None:
            state, why = State.CANCELLED, task_reasons.of_cancelled(note, task_reasons.GONE)
        elif spawned:
            state, why = State.DONE, task_reasons.SPAWNED_MEANS
        task = None if result is None else result.task
        status = None if result is None else result.status
        ended: dict[str, Any] = {"cancelled": note, "result": result, "groups": spawned, "task": task, "status": status}
        return TaskDocument(id=wanted, state=state, why=[why], **ended)

    async def _of_group(self, wanted: str) -> TaskDocument | None:
        group, note = await asyncio.gather(self._groups.state(wanted), self._records.note(Kind.GROUP, wanted))
        if group is None:
            return None
        said = [] if note is None else [task_reasons.of_cancelled_group(note, group.counts.get("waiting", 0))]
        why = [*said, task_reasons.of_group(group)]
        return TaskDocument(id=wanted, state=State.GROUP, why=why, parent=group.parent, groups=[group], cancelled=note)

    @staticmethod
    def _of_dead(wanted: str, found: _Found, more: dict[str, Any]) -> TaskDocument:
        letter = DeadLetter.from_message(found.message)
        tried = {"errors": letter.errors, "attempts": letter.attempts or 0, "submitted": letter.submitted}
        return TaskDocument(
            id=wanted,
            state=State.DEAD,
            status=str(Status.FAILED),
            why=[task_reasons.of_dead(letter.seq, letter.reason)],
            dead_letter=DeadTask(seq=letter.seq, reason=letter.reason, died=letter.died),
            **(found.fields | tried | more),
        )

    async def _of_child(self, wanted: str) -> TaskDocument | None:
        """A child of a group of which nothing but the records of the group is there."""
        if (place := child_place(wanted)) is None or (child := await self._groups.child(*place)) is None:
            return None
        group, index = place
        why = [task_reasons.of_child(group, index, child.status)]
        fields: dict[str, Any] = {"task": child.task, "group": group, "index": index}
        if child.status is None:
            return TaskDocument(id=wanted, state=State.DELAYED, why=why, **fields)
        return TaskDocument(id=wanted, state=State.DONE, why=why, status=child.status, **fields)

    async def _of_callback(self, wanted: str, spawned: list[GroupState]) -> TaskDocument | None:
        """The callback of a group that has ended, of which nothing but the record of the group is there."""
        group = await self._groups.state(wanted.removesuffix("-callback"))
        if group is None or group.callback_id != wanted or group.ended is None:
            return None
        state, why = State.DONE, [task_reasons.of_callback(group), task_reasons.LET_GO_MEANS]
        if group.ended == Ended.CANCELLED:
            state, why = State.CANCELLED, why[:1]
        fields: dict[str, Any] = {"task": group.callback, "callback_of": group.id, "parent": group.parent}
        return TaskDocument(id=wanted, state=state, why=why, groups=[group, *spawned], **fields)


def _with_past(document: TaskDocument, past: list[PastDelivery]) -> TaskDocument:
    """The document with what the workers remember, which also tells how a task ended of which nothing is stored."""
    changes: dict[str, Any] = {"past": past, "task": document.task or past[-1].task}
    if document.state is State.UNKNOWN and (status := past[-1].status) is not None:
        state = State.CANCELLED if status == Status.CANCELLED else State.DONE
        changes |= {"state": state, "status": status, "why": [task_reasons.of_past(past[-1])]}
    return msgspec.structs.replace(document, **changes)


def _tried(record: AttemptRecord | None, executing: int = 0) -> dict[str, Any]:
    """What was tried of a task.

    Args:
        executing: The number of executions that go on.
    """
    if record is None:
        return {}
    attempts = record.failed + max(0, record.crashes - executing)
    return {"attempts": attempts, "errors": list(record.failures), "deliveries": record.deliveries}
