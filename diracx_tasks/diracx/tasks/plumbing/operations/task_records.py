"""What the streams and buckets of a mesh tell of one task: read, and never changed.

A record that is missing, or that does not decode, counts as none: other versions may have written it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final, TypeAlias, TypeVar

import msgspec

from diracx.tasks.plumbing.cancellations.note import Identity, Kind, Note
from diracx.tasks.plumbing.dead_letters.store import DEAD_SEQUENCE
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.headers import SCHEDULE
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, read_message
from diracx.tasks.plumbing.operations.task_document import CancellationNote, KeptResult
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.envelope import TASK_ID
from diracx.tasks.plumbing.wire.names import Namespace, escape
from diracx.tasks.plumbing.wire.times import from_rfc3339

_Decoded = TypeVar("_Decoded")
Notes: TypeAlias = Mapping[tuple[Kind, str], Note]
"""Notes by what they name."""
_AT: Final = "@at "
"""Before the time, in the header of everything that this project schedules."""


class TaskRecords:
    """Reads them. Every method raises `ServerUnavailableError` if no answer arrives."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace

    async def delayed(self, wanted: str) -> StoredMessage | None:
        """The task with this id that has not fallen due."""
        return await self._last(self._namespace.later_stream, self._namespace.delayed_subject(wanted))

    async def queued(self, sequence: int) -> StoredMessage | None:
        """The message of a task by its sequence."""
        return await read_message(self._connection, self._namespace.tasks_stream, seq=sequence)

    async def delivered(self) -> dict[str, int]:
        """The last sequence of each queue that a worker got, by its subject. A missing queue has none."""
        answer = await self._connection.api(f"CONSUMER.LIST.{self._namespace.tasks_stream}")
        consumers = answer["consumers"]
        return {each["config"].get("filter_subject", ""): int(each["delivered"]["stream_seq"]) for each in consumers}

    async def find_queued(self, wanted: str, floors: Mapping[str, int]) -> tuple[StoredMessage | None, int]:
        """The message of a task in a queue, and how many of its queue precede it.

        Args:
            floors: By subject, the sequence up to which messages do not count.
        """
        names = self._namespace
        before: Counter[str] = Counter()
        async for message in read_batches(self._connection, names.tasks_stream, f"{names.name}.tasks.*.*"):
            if _id_of(message) == wanted:
                return message, before[message.subject]
            if message.sequence > floors.get(message.subject, 0):
                before[message.subject] += 1
        return None, 0

    async def find_later(self, wanted: str) -> StoredMessage | None:
        """The message of a task that the server has yet to move to its queue, or of a periodic task."""
        names = self._namespace
        for pattern in (f"{names.name}.due.*.*", f"{names.name}.periodic.>"):
            async for message in read_batches(self._connection, names.later_stream, pattern):
                if _id_of(message) == wanted:
                    return message
        return None

    async def dead_letter(self, wanted: str) -> StoredMessage | None:
        """The latest dead letter of a task."""
        found, names = None, self._namespace
        async for message in read_batches(self._connection, names.dead_letters_stream, f"{names.name}.dlq.>"):
            if (message.headers.get(TASK_ID) or message.headers.get(DEAD_SEQUENCE)) == wanted:
                found = message
        return found

    async def attempts(self, message: StoredMessage) -> AttemptRecord | None:
        """What has been tried of a message; None: nothing that was written down."""
        bucket = self._namespace.attempts_bucket
        stored = await self._last(f"KV_{bucket}", f"$KV.{bucket}.{message.sequence}")
        record = None if stored is None else decoded(stored.body, AttemptRecord)
        # A stream that was made anew has the same sequences at other times.
        return record if record is not None and record.stored_ns // 1000 == message.stored_us else None

    async def result(self, wanted: str) -> KeptResult | None:
        """The kept result of a task."""
        bucket = self._namespace.results_bucket
        stored = await self._last(f"KV_{bucket}", f"$KV.{bucket}.{escape(wanted)}")
        return None if stored is None else decoded(stored.body, KeptResult)

    async def notes(self) -> Notes:
        """All notes by which operators have cancelled something, for any number of `note_among`."""
        stream, subjects = self._namespace.later_stream, self._namespace.all_cancelled
        found: dict[tuple[Kind, str], Note] = {}
        async for message in read_batches(self._connection, stream, subjects):
            with suppress(ValueError):  # workers pass over it, too
                note = Note.from_message(message)
                found[note.kind, note.key] = note
        return found

    async def note_on(self, message: StoredMessage) -> CancellationNote | None:
        """The note by which an operator has cancelled this task: itself, its group, or all of its name."""
        identity = Identity.of(message.headers, message.sequence, message.stored)
        read = await asyncio.gather(*(self._note(*key) for key in _note_keys(identity)))
        return next((_shown(note) for note in read if note is not None and note.concerns(identity)), None)

    async def note(self, kind: Kind, key: str) -> CancellationNote | None:
        """The note by which an operator has cancelled what has this key."""
        note = await self._note(kind, key)
        return None if note is None else _shown(note)

    async def _note(self, kind: Kind, key: str) -> Note | None:
        message = await self._last(self._namespace.later_stream, self._namespace.cancelled_subject(kind, key))
        try:
            return None if message is None else Note.from_message(message)
        except ValueError:
            return None  # workers pass over it, too

    async def _last(self, stream: str, subject: str) -> StoredMessage | None:
        return await read_message(self._connection, stream, last_by_subj=subject)


def note_among(notes: Notes, message: StoredMessage) -> CancellationNote | None:
    """As `TaskRecords.note_on`, by what was read before."""
    identity = Identity.of(message.headers, message.sequence, message.stored)
    found = (notes[key] for key in _note_keys(identity) if key in notes)
    return next((_shown(note) for note in found if note.concerns(identity)), None)


def _note_keys(identity: Identity) -> list[tuple[Kind, str]]:
    keys = ((Kind.ID, identity.id), (Kind.GROUP, identity.group), (Kind.TASK, identity.task))
    return [(kind, key) for kind, key in keys if key]


def _shown(note: Note) -> CancellationNote:
    return CancellationNote(kind=note.kind, key=note.key, at=note.at, by=note.by or None)


def _id_of(message: StoredMessage) -> str:
    return message.headers.get(TASK_ID) or str(message.sequence)


def scheduled_for(message: StoredMessage) -> datetime | None:
    """When the server hands the message over; None: it has done so."""
    scheduled = message.headers.get(SCHEDULE)
    return None if scheduled is None else from_rfc3339(scheduled.removeprefix(_AT))


def decoded(body: bytes, kind: type[_Decoded]) -> _Decoded | None:
    """What the JSON gives; None if it is something else."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
