"""Reading dead tasks from the dead letter stream, and removing them.

A dead task leaves one of these behind:

* A dead letter and the advisory of the `+TERM` that followed it. The advisory is then part of that dead letter, and
  is not listed on its own.
* An advisory only, if no worker stored a dead letter. The task's name and payload are then read from the task stream,
  which still holds the message after MAX_DELIVERIES.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from diracx.tasks.plumbing.dead_letters.dead_letter import (
    ADVISORIES,
    Advisory,
    DeadLetter,
    original_stored,
    read_number,
)
from diracx.tasks.plumbing.dead_letters.store import DEAD_SEQUENCE, DEAD_STORED
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, delete_message, read_message, read_messages
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.names import Namespace

OnRead = Callable[[], object]

_record = msgspec.json.Decoder(AttemptRecord)


@dataclass(frozen=True, slots=True)
class DeadTask:
    """Where the messages of one dead task are stored. It does not hold their content."""

    seq: int
    """The sequence of the dead letter in its stream; of the first advisory if there is no dead letter."""
    stored_us: int
    """When that message was stored, in microseconds since the epoch. It changes if the stream is created anew."""
    task: str | None
    has_dead_letter: bool
    """Whether a worker stored a dead letter."""
    sequence: int
    """The sequence of the message in the task stream; 0 if it is not known."""
    advisories: tuple[Advisory, ...]
    original_us: int | None
    """When the task stream stored the message, in microseconds since the epoch; None if it is not known."""

    def matches(self, message: StoredMessage) -> bool:
        """Whether `message`, read from the task stream at `sequence`, is the message of this task.

        A task stream that was created anew counts from 1 again, and may hold another message at that sequence.
        """
        if self.original_us is not None:
            return message.stored_us == self.original_us
        return any(advisory.concerns(message.stored) for advisory in self.advisories)


class DeadLetterReader:
    """Reads the dead letter stream.

    Every method raises `ServerUnavailableError` if no answer arrives.
    """

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace
        self._stream = namespace.dead_letters_stream

    async def size(self) -> int | None:
        """The number of messages in the stream, advisories included; None if there is no stream."""
        try:
            info = await self._connection.api(f"STREAM.INFO.{self._stream}")
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise
        return int(info["state"]["messages"])

    async def all(self, on_read: OnRead = lambda: None) -> list[DeadLetter]:
        """All dead letters, the oldest first.

        Args:
            on_read: Called after each message of the stream.
        """
        return sorted([letter async for letter, _ in self._walk(on_read)], key=lambda letter: letter.seq)

    async def dead_tasks(self, on_read: OnRead = lambda: None) -> list[DeadTask]:
        """Where the messages of every dead task are stored, the oldest first.

        Args:
            on_read: Called after each message of the stream.
        """
        return sorted([task async for _, task in self._walk(on_read)], key=lambda task: task.seq)

    async def get(self, seq: int) -> DeadLetter | None:
        """One dead letter; None if there is none with that sequence."""
        message = await read_message(self._connection, self._stream, seq=seq)
        if message is None or message.subject.startswith(self._subject("")):
            return None if message is None else DeadLetter.from_message(message)
        advisory = Advisory.from_message(message)
        letter = await read_message(
            self._connection, self._stream, last_by_subj=self._subject(f"*.*.{advisory.sequence}")
        )
        if letter is not None and advisory.concerns(original_stored(letter.headers) or letter.stored):
            return None
        return await self._without_dead_letter(advisory)

    async def _walk(self, on_read: OnRead) -> AsyncIterator[tuple[DeadLetter, DeadTask]]:
        # Advisories are read first: a dead letter is stored before its advisory, so the second pass finds it.
        advisories: dict[int, list[Advisory]] = {}
        async for message in read_messages(self._connection, self._stream, ADVISORIES):
            advisory = Advisory.from_message(message)
            # An advisory that cannot be read gets a key of its own: it belongs to no dead letter.
            advisories.setdefault(advisory.sequence or -advisory.seq, []).append(advisory)
            on_read()
        async for message in read_messages(self._connection, self._stream, self._subject(">")):
            yield _from_dead_letter(message, advisories)
            on_read()
        for group in advisories.values():
            letter, first = await self._without_dead_letter(group[0]), group[0]
            yield (
                letter,
                DeadTask(
                    seq=first.seq,
                    stored_us=first.stored_us,
                    task=letter.task,
                    has_dead_letter=False,
                    sequence=first.sequence,
                    advisories=tuple(group),
                    original_us=None,
                ),
            )

    async def _without_dead_letter(self, advisory: Advisory) -> DeadLetter:
        tasks = self._namespace.tasks_stream
        message = await read_message(self._connection, tasks, seq=advisory.sequence) if advisory.sequence else None
        if message is None or not advisory.concerns(message.stored):
            return DeadLetter.from_advisory(advisory, None, None)
        entry = await Bucket(self._connection, self._namespace.attempts_bucket).read(str(advisory.sequence))
        record = _record.decode(entry.value) if entry is not None else None
        if record is not None and record.stored_ns // 1000 != message.stored_us:
            record = None
        return DeadLetter.from_advisory(advisory, message, record)

    def _subject(self, pattern: str) -> str:
        return f"{self._namespace.name}.dlq.{pattern}"


async def remove_dead_task(connection: Connection, namespace: Namespace, task: DeadTask) -> None:
    """Remove a dead task for good; messages that are gone already are no error.

    The order is: the message in the task stream, the advisories, and last the dead letter, or the advisory that stands
    for it. So a removal that is killed leaves a dead task that is still listed, and a second removal removes the rest.
    In the reverse order the remaining advisories would look like another dead task, and a message that its worker had
    not terminated yet would be dead-lettered a second time.

    Raises:
        ServerUnavailableError: No answer arrived; some messages may be removed.
        ApiError: The server refused.
    """
    if task.sequence:
        message = await read_message(connection, namespace.tasks_stream, seq=task.sequence)
        if message is not None and task.matches(message):
            await delete_message(connection, namespace.tasks_stream, message.sequence)
    for advisory in task.advisories:
        if advisory.seq != task.seq:
            await delete_message(connection, namespace.dead_letters_stream, advisory.seq)
    await delete_message(connection, namespace.dead_letters_stream, task.seq)


def _from_dead_letter(message: StoredMessage, advisories: dict[int, list[Advisory]]) -> tuple[DeadLetter, DeadTask]:
    """Read a dead letter, and move the advisories of the same task out of `advisories`."""
    letter, sequence = DeadLetter.from_message(message), read_number(message.headers, DEAD_SEQUENCE) or 0
    nanoseconds = read_number(message.headers, DEAD_STORED)
    stored = original_stored(message.headers) or message.stored
    task = DeadTask(
        seq=message.sequence,
        stored_us=message.stored_us,
        task=letter.task,
        has_dead_letter=True,
        sequence=sequence,
        advisories=tuple(_take_advisories(advisories, sequence, stored)),
        original_us=None if nanoseconds is None else nanoseconds // 1000,
    )
    return letter, task


def _take_advisories(advisories: dict[int, list[Advisory]], sequence: int, stored: datetime) -> list[Advisory]:
    """Remove and return the advisories of the message with that sequence, stored at `stored`."""
    taken = [advisory for advisory in advisories.get(sequence, ()) if advisory.concerns(stored)]
    if taken:
        rest = [advisory for advisory in advisories.pop(sequence) if advisory not in taken]
        if rest:
            advisories[sequence] = rest
    return taken
