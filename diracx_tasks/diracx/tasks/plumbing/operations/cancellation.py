"""Cancelling tasks: the note first, which workers follow; then a look at what it meets, for the operator.

    delayed           its schedule is withdrawn. If its end is awaited (a kept result, a group), it falls due at once in
                      place of that, and a worker settles it as cancelled
    waiting, parked   it stays in its queue, and is settled as cancelled when its turn comes
    running           it gets a CancelledError; a few seconds are given for the word of its worker
    dead letter       stays as it is

Once the note is stored everything else only reports: the tasks are cancelled also if this process ends then. A note
stays for as long as it may concern a message, and is removed by a later cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from diracx.tasks.plumbing.cancellations.note import Identity, Kind, Note
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.groups.records import PartRecord
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import WRONG_LAST_SEQUENCE, ApiError
from diracx.tasks.plumbing.jetstream.headers import ROLLUP, SCHEDULE_TARGET, headers_to_fall_due
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.plumbing.jetstream.micro import ask_all
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import (
    StoredMessage,
    delete_message,
    purge_subject,
    read_message,
    read_messages,
)
from diracx.tasks.plumbing.operations.in_flight import WorkerTasks, tasks_in_flight
from diracx.tasks.plumbing.operations.service_answers import CancelledAnswer
from diracx.tasks.plumbing.operations.worker_service import CANCELLED, NoteEffect, worker_service
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.envelope import TASK_GROUP, TASK_KEEP_RESULT
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import from_rfc3339
from diracx.tasks.plumbing.worker.snapshot import InFlightTask

WORKERS_SECONDS: Final = 3.0
"""How long tasks that run are given to end."""
HEARD_SECONDS: Final = 2.0
"""After this time each worker has heard of a note: what runs then and was not told to end is not concerned."""
KEPT: Final = timedelta(hours=1)
"""So long a note stays at least. A message that is stored later than this after it can be one that fell due when the
note was written, and could not be withdrawn."""
MAX_PARALLEL_REQUESTS: Final = 64
MAX_KEYS: Final = 500
"""In one question to the workers."""


class Target(NamedTuple):
    """What is to be cancelled."""

    kind: Kind
    key: str


class RunningTask(msgspec.Struct, frozen=True):
    """A task that was told to end, and runs on."""

    id: str
    task: str
    worker: str
    since: datetime
    """When the worker took it."""
    blocked_at: str | None
    """The line that its code executes, if it does not yield; None: it cleans up, or ignores its cancellation."""


class Answer(msgspec.Struct, kw_only=True):
    """What a cancellation has met. These fields, in this order, are those of `cancel --json`."""

    kind: Kind
    key: str
    at: datetime
    """When the note was stored, by the server's clock."""
    withdrawn: int = 0
    """Tasks for later whose schedule was withdrawn. Of several, those whose end is awaited may be counted as waiting or
    cancelled, too."""
    waiting: int = 0
    """Tasks in their queues, which are dropped when their turn comes."""
    until: datetime | None = None
    """The time until which a task, named by its id, waits for its retry."""
    cancelled: int = 0
    """Tasks that workers have settled as cancelled since."""
    finished: int = 0
    """Tasks that were running, and came to their end before they heard of it, or did not let themselves be ended."""
    running: list[RunningTask] = msgspec.field(default_factory=list)
    silent: list[str] = msgspec.field(default_factory=list)
    """Workers that do not answer. One of them may run what is counted as waiting."""
    dead_letters: list[int] = msgspec.field(default_factory=list)
    """The dead letter with that id, which stays as it is."""
    done: bool = False
    """Whether something was found, and all of it is cancelled, or will be."""

    @property
    def found(self) -> bool:
        """Whether anything was found."""
        return bool(self.withdrawn or self.waiting or self.cancelled or self.finished or self.running)


@dataclass(slots=True)
class _Standing:
    """A note that was just written, and what was found so far."""

    note: Note
    sequence: int
    answer: Answer
    queued: list[int] = field(default_factory=list)
    """The sequences of the messages in the queues."""

    @property
    def key(self) -> tuple[Kind, str]:
        return self.note.kind, self.note.key

    @property
    def is_lost_id(self) -> bool:
        """Whether it names one task, and nothing of it was found."""
        return self.note.kind is Kind.ID and not self.answer.found


class Canceller:
    """Cancels tasks of one mesh.

    Args:
        by: Who does, for the notes; empty: it is not told.
    """

    def __init__(self, connection: Connection, namespace: Namespace, *, by: str = "") -> None:
        self._connection, self._namespace, self._by = connection, namespace, by
        self._later = namespace.later_stream
        self._requests = asyncio.Semaphore(MAX_PARALLEL_REQUESTS)

    async def cancel(self, targets: Sequence[Target]) -> list[Answer]:
        """Cancel tasks, and tell for each target what was met.

        Raises:
            ServerError: No answer, or the server refused; with no note stored nothing is cancelled.
        """
        # A publish would not tell a mesh that does not exist from a stream without a leader.
        await read_message(self._connection, self._later, strict=True, last_by_subj=self._namespace.all_cancelled)
        standing = await asyncio.gather(*(self._write(target) for target in dict.fromkeys(targets)))
        for each in standing:
            each.answer.withdrawn = await self._withdraw(each.note)
        workers = await self._hear_workers(standing)
        await self._look_into_queues(standing)
        for each in standing:
            _sort(each, workers)
        if lost := [each for each in standing if not each.answer.found]:
            await self._count(lost)  # it may have been settled between the two looks
            await self._look_elsewhere({each.note.key: each for each in lost if each.is_lost_id})
        for each in standing:
            await self._complete(each)
        await self._remove_old_notes()
        return [each.answer for each in standing]

    async def _write(self, target: Target) -> _Standing:
        note = Note(kind=target.kind, key=target.key, at=self._connection.clock.now(), by=self._by)
        subject = self._namespace.cancelled_subject(note.kind, note.key)
        async with self._requests:
            await publish(self._connection, subject, msgspec.json.encode(note), {ROLLUP: "sub"})
            stored = await read_message(self._connection, self._later, strict=True, last_by_subj=subject)
        if stored is None:
            raise ServerError(f"the cancellation of {note.kind} {note.key} was removed at once; try again")
        note = Note.from_message(stored)
        return _Standing(note, stored.sequence, Answer(kind=note.kind, key=note.key, at=note.at))

    async def _withdraw(self, note: Note) -> int:
        """Withdraw the schedules of the tasks for later that a note concerns. Returns how many there were."""
        withdrawn, page = 0, list[StoredMessage]()
        async for message in self._delayed(note):
            page.append(message)
            if len(page) == MAX_PARALLEL_REQUESTS:
                withdrawn += await self._withdraw_all(note, page)
                page.clear()
        return withdrawn + await self._withdraw_all(note, page)

    async def _withdraw_all(self, note: Note, messages: Sequence[StoredMessage]) -> int:
        return sum(await asyncio.gather(*(self._withdraw_one(note, each) for each in messages)))

    async def _withdraw_one(self, note: Note, message: StoredMessage) -> int:
        awaited = TASK_GROUP in message.headers or TASK_KEEP_RESULT in message.headers
        if awaited and note.concerns(_identity(message)):  # so that a worker drops it
            return await self._release(message)
        return await purge_subject(self._connection, self._later, message.subject, before=message.sequence + 1)

    async def _delayed(self, note: Note) -> AsyncIterator[StoredMessage]:
        """The tasks for later that a note concerns. The children of groups are never for later."""
        match note.kind:
            case Kind.ID:
                subject = self._namespace.delayed_subject(note.key)
                found = await read_message(self._connection, self._later, last_by_subj=subject)
                # One that was stored by hand may have no id in its headers.
                if found is not None and note.concerns(replace(_identity(found), id=note.key)):
                    yield found
            case Kind.TASK:
                async for message in read_batches(self._connection, self._later, f"{self._namespace.name}.delayed.*"):
                    if note.concerns(_identity(message)):
                        yield message

    async def _release(self, message: StoredMessage) -> int:
        """Let a task for later fall due now: a worker writes its end. Returns 0 if it has just fallen due by itself."""
        target, now = message.headers[SCHEDULE_TARGET], self._connection.clock.now()
        headers = headers_to_fall_due(message.headers, message.sequence, target, now)
        try:
            await publish(self._connection, message.subject, message.body, headers)
        except ApiError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise
            return 0
        return 1

    async def _hear_workers(self, standing: Sequence[_Standing]) -> list[WorkerTasks]:
        """Wait until what runs has ended, but not for long. Returns what the workers have in flight then."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        while True:
            workers = await self._in_flight(standing)
            waited = clock() - begun
            told = [
                task
                for worker in workers
                for task in worker.tasks
                if waited < HEARD_SECONDS or task.cancelled_since is not None or task.blocked_at is not None
            ]
            if not told or waited >= WORKERS_SECONDS:
                await self._count(standing)
                return workers

    async def _in_flight(self, standing: Sequence[_Standing]) -> list[WorkerTasks]:
        ids = [each.note.key for each in standing if each.note.kind is Kind.ID]
        asking = [tasks_in_flight(self._connection, self._namespace, ids=ids)] if ids else []
        for each in standing:
            if each.note.kind is Kind.TASK:
                asking.append(tasks_in_flight(self._connection, self._namespace, task=each.note.key))
            elif each.note.kind is Kind.GROUP:
                asking.append(tasks_in_flight(self._connection, self._namespace, group=each.note.key))
        return [worker for answers in await asyncio.gather(*asking) for worker in answers]

    async def _count(self, standing: Sequence[_Standing]) -> None:
        """Ask the workers what they have done about the notes."""
        pages = [standing[first : first + MAX_KEYS] for first in range(0, len(standing), MAX_KEYS)]
        service = worker_service(self._namespace)
        answers = await asyncio.gather(
            *(
                ask_all(
                    self._connection,
                    service,
                    CANCELLED,
                    msgspec.json.encode([each.key for each in page]),
                    shape=CancelledAnswer,
                )
                for page in pages
            )
        )
        by_sequence = {each.sequence: each.answer for each in standing}
        for answer in by_sequence.values():
            answer.cancelled = answer.finished = 0
        for effect in _effects([each for some in answers for each in some or ()]):
            if (known := by_sequence.get(effect.sequence)) is not None:
                known.cancelled += effect.cancelled
                known.finished += effect.finished

    async def _look_into_queues(self, standing: Sequence[_Standing]) -> None:
        """Find the messages in the queues that are concerned. It ends early once each id was found."""
        ids = {each.note.key: each for each in standing if each.note.kind is Kind.ID and not each.answer.found}
        sets = [each for each in standing if each.note.kind is not Kind.ID]
        missing = set(ids)
        if not (sets or missing):
            return
        async for message in read_batches(self._connection, self._namespace.tasks_stream):
            identity = _identity(message)
            for each in (ids.get(identity.id), *sets):
                if each is not None and each.note.concerns(identity):
                    each.queued.append(message.sequence)
                    missing.discard(identity.id)
            if not (sets or missing):
                return

    async def _complete(self, each: _Standing) -> None:
        """Add what its messages do not tell, and decide whether it is done."""
        answer = each.answer
        if each.note.kind is Kind.ID and answer.waiting and each.queued:
            answer.until = await self._parked_until(min(each.queued))
        elif each.note.kind is Kind.GROUP:
            answer.waiting += await self._children_to_store(each.note.key)
        answer.done = answer.found and not (answer.finished or answer.running or answer.silent)

    async def _look_elsewhere(self, ids: dict[str, _Standing]) -> None:
        """Look for tasks, by their ids, among those that have just fallen due, and among the dead letters."""
        name = self._namespace.name
        if ids:
            async for message in read_batches(self._connection, self._later, f"{name}.due.>"):
                identity = _identity(message)
                if (each := ids.get(identity.id)) is not None and each.note.concerns(identity):
                    each.answer.waiting = 1  # it is on its way, or its queue is full
        if ids := {key: each for key, each in ids.items() if each.is_lost_id}:
            async for message in read_batches(self._connection, self._namespace.dead_letters_stream, f"{name}.dlq.>"):
                if (each := ids.get(DeadLetter.from_message(message).id or "")) is not None:
                    each.answer.dead_letters.append(message.sequence)

    async def _parked_until(self, sequence: int) -> datetime | None:
        entry = await Bucket(self._connection, self._namespace.attempts_bucket).read(str(sequence))
        if entry is None:
            return None
        try:
            until = msgspec.json.decode(entry.value, type=AttemptRecord).not_before
        except msgspec.MsgspecError:  # written by hand; workers take it for empty, too
            return None
        return until if until is not None and until > self._connection.clock.now() else None

    async def _children_to_store(self, group: str) -> int:
        """How many children of a group are not stored in their queues yet."""
        subject = self._namespace.group_subject(group)
        waiting = 0
        async for part in read_messages(self._connection, self._later, f"{subject}.part.*"):
            with suppress(msgspec.MsgspecError):  # written by hand; no worker stores children from it
                record = msgspec.json.decode(part.body, type=PartRecord)
                waiting += 0 if record.stored else record.waiting
        return waiting

    async def _remove_old_notes(self) -> None:
        """Remove the notes that can concern nothing any more: older by an hour than now, and than each message."""
        state = (await self._connection.api(f"STREAM.INFO.{self._namespace.tasks_stream}"))["state"]
        oldest = self._connection.clock.now()
        if state["messages"]:
            oldest = min(oldest, from_rfc3339(state["first_ts"]))
        async for message in read_messages(self._connection, self._later, self._namespace.all_cancelled):
            if message.stored > oldest - KEPT:
                return
            with suppress(ValueError):  # no note; workers ignore it
                await self._withdraw(Note.from_message(message))  # what the process that wrote it may have left
            await delete_message(self._connection, self._later, message.sequence)


def _identity(message: StoredMessage) -> Identity:
    return Identity.of(message.headers, message.sequence, message.stored)


def _effects(answers: Sequence[dict[str, Any]]) -> list[NoteEffect]:
    return [msgspec.convert(note, NoteEffect) for answer in answers for note in answer["notes"]]


def _sort(standing: _Standing, workers: Sequence[WorkerTasks]) -> None:
    """Tell those that run from those that wait, among the messages that are in the queues."""
    running: dict[int, tuple[str, InFlightTask]] = {
        task.sequence: (worker.worker, task) for worker in workers for task in worker.tasks
    }
    answer = standing.answer
    for sequence in standing.queued:
        if sequence in running:
            worker, task = running[sequence]
            answer.running.append(RunningTask(task.id, task.task, worker, task.since, task.blocked_at))
        else:
            answer.waiting += 1
    if answer.waiting:
        answer.silent = sorted({worker.worker for worker in workers if not worker.answered})
