"""Schedule states and occurrences in the stream `later`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Final

import msgspec

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import WRONG_LAST_SEQUENCE, ApiError
from diracx.tasks.plumbing.jetstream.headers import EXPECTED_LAST_SUBJECT_SEQUENCE, ROLLUP, schedule_headers
from diracx.tasks.plumbing.jetstream.publish import BatchMessage, publish_batch
from diracx.tasks.plumbing.jetstream.stream_messages import purge_subject, read_message, subjects_of
from diracx.tasks.plumbing.locks import RevisionConflictError
from diracx.tasks.plumbing.observability.telemetry import Outgoing, current
from diracx.tasks.plumbing.scheduler.instances import Instance
from diracx.tasks.plumbing.scheduler.reconciler import Change, StoredState
from diracx.tasks.plumbing.scheduler.state import Occurrence, ScheduleKey, ScheduleState, occurrence_id
from diracx.tasks.plumbing.wire.envelope import MSG_ID, TASK_ID, Envelope
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.occurrence import due_name

MAX_PARALLEL_REQUESTS: Final = 64

logger = logging.getLogger("diracx.tasks.scheduler")

_state = msgspec.json.Decoder(ScheduleState)


class JetStreamScheduleStore:
    """Implements `reconciler.ScheduleStore` on JetStream."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace
        self._stream = namespace.later_stream
        self._telemetry = current()
        self._unreadable: dict[str, int] = {}
        """The sequences of states that could not be decoded, by subject."""

    def unreadable(self, key: ScheduleKey) -> bool:
        """Whether the state of this schedule could not be decoded when it was last read."""
        return bool(self._unreadable) and self._state_subject(key) in self._unreadable

    async def read(self, keys: Sequence[ScheduleKey]) -> dict[ScheduleKey, StoredState]:
        """Read the latest states from the leader of the stream, which sees every acknowledged write."""
        return await self._read([self._state_subject(key) for key in keys])

    async def read_all(self) -> dict[ScheduleKey, StoredState]:
        """Read the latest states of all schedules."""
        # The markers of unfinished replays have subjects there, too.
        subjects = [each for each in await self._subjects() if self._namespace.replayed(each) is None]
        self._unreadable = {each: self._unreadable[each] for each in subjects if each in self._unreadable}
        return await self._read(subjects)

    async def missing(self, keys: Collection[ScheduleKey]) -> list[ScheduleKey]:
        """Those of these schedules that have no stored state any more: it was purged, or the stream made anew."""
        if not keys:
            return []
        there = set(await self._subjects())
        return [key for key in keys if self._state_subject(key) not in there]

    async def _subjects(self) -> list[str]:
        return await subjects_of(self._connection, self._stream, f"{self._namespace.name}.state.>")

    async def _read(self, subjects: Sequence[str]) -> dict[ScheduleKey, StoredState]:
        found: dict[ScheduleKey, StoredState] = {}
        for start in range(0, len(subjects), MAX_PARALLEL_REQUESTS):
            page = subjects[start : start + MAX_PARALLEL_REQUESTS]
            for stored in await asyncio.gather(*map(self._read_one, page)):
                if stored is not None:
                    found[stored.state.key] = stored
        return found

    async def _read_one(self, subject: str) -> StoredState | None:
        message = await read_message(self._connection, self._stream, last_by_subj=subject)
        before = self._unreadable.pop(subject, None)
        if message is None:
            return None
        try:
            return StoredState(_state.decode(message.body), message.sequence)
        except msgspec.MsgspecError as error:
            self._unreadable[subject] = message.sequence
            if message.sequence != before:
                logger.error(
                    "the state of a schedule on %s cannot be read (%s), so it is not scheduled; a newer version may "
                    "have written it: update this version, or purge that subject from %s to start the schedule anew",
                    *(subject, error, self._stream),
                )
            return None

    async def write(self, changes: Sequence[Change]) -> list[int]:
        """Store all states with their occurrences in one atomic batch, and return the sequences of the states."""
        messages: list[BatchMessage] = []
        state_positions: list[int] = []
        for change in changes:
            state_positions.append(len(messages))
            messages.append(self._state_message(change))
            messages += (self._occurrence_message(change.instance, each) for each in change.occurrences)
        try:
            with self._publish_span(messages):
                ack = await publish_batch(self._connection, messages)
        except ApiError as error:
            if error.err_code == WRONG_LAST_SEQUENCE:
                raise RevisionConflictError(str(changes[0].instance.key)) from None
            raise
        first = ack.seq - len(messages) + 1
        return [first + position for position in state_positions]

    async def withdraw(self, key: ScheduleKey, dues: Sequence[datetime], before: int) -> None:
        """Purge the held messages of these occurrences whose sequences are lower than `before`."""
        subjects = [self._occurrence_subject(key, due) for due in dues]
        for start in range(0, len(subjects), MAX_PARALLEL_REQUESTS):
            page = subjects[start : start + MAX_PARALLEL_REQUESTS]
            await asyncio.gather(
                *(purge_subject(self._connection, self._stream, subject, before=before) for subject in page)
            )

    async def held(self, key: ScheduleKey, dues: Sequence[datetime]) -> dict[datetime, int]:
        """The sequences of those of these occurrences that have not fallen due and were not withdrawn."""
        found: dict[datetime, int] = {}
        for start in range(0, len(dues), MAX_PARALLEL_REQUESTS):
            page = dues[start : start + MAX_PARALLEL_REQUESTS]
            subjects = [self._occurrence_subject(key, due) for due in page]
            reads = (read_message(self._connection, self._stream, last_by_subj=subject) for subject in subjects)
            messages = zip(page, await asyncio.gather(*reads), strict=True)
            found |= {due: message.sequence for due, message in messages if message is not None}
        return found

    async def remove(self, key: ScheduleKey, revision: int) -> None:
        """Remove the state with this revision; one that was written after it stays."""
        await purge_subject(self._connection, self._stream, self._state_subject(key), before=revision + 1)

    def _publish_span(self, messages: Sequence[BatchMessage]) -> AbstractContextManager[object]:
        if self._telemetry is None:
            return nullcontext()
        tasks = [Outgoing(each.subject, each.headers, len(each.body)) for each in messages if TASK_ID in each.headers]
        pattern = f"{self._namespace.name}.periodic.>"
        return self._telemetry.publishing_together(pattern, tasks) if tasks else nullcontext()

    def _state_subject(self, key: ScheduleKey) -> str:
        return self._namespace.state_subject(key.task, key.vo or None, key.entry)

    def _occurrence_subject(self, key: ScheduleKey, due: datetime) -> str:
        return self._namespace.periodic_subject(key.task, key.vo or None, due_name(due), key.entry)

    def _state_message(self, change: Change) -> BatchMessage:
        headers = {ROLLUP: "sub", EXPECTED_LAST_SUBJECT_SEQUENCE: str(change.revision)}
        body = msgspec.json.encode(change.plan.state)
        return BatchMessage(self._state_subject(change.instance.key), body, headers)

    def _occurrence_message(self, instance: Instance, occurrence: Occurrence) -> BatchMessage:
        envelope = Envelope(
            name=instance.key.task,
            id=occurrence_id(instance.key, occurrence.due),
            submitted=self._connection.clock.now(),
            due=occurrence.due,
            expires=occurrence.expires,
        )
        target = self._namespace.due_subject(instance.priority, instance.size)
        headers = envelope.to_headers() | schedule_headers(occurrence.due, target)
        # No `Nats-Msg-Id`: it would refuse an occurrence that was withdrawn and is published again. The
        # compare-and-set on the state already prevents duplicates.
        del headers[MSG_ID]
        if occurrence.replaces is not None:
            headers[EXPECTED_LAST_SUBJECT_SEQUENCE] = str(occurrence.replaces)
        return BatchMessage(self._occurrence_subject(instance.key, occurrence.due), instance.body, headers)
