"""Reading the stream of dead letters back: what workers buried, and what ended otherwise.

A message that a worker buried leaves two messages in the stream: its dead letter and the advisory of its end. The
advisory is left out then. One that ended otherwise has its advisory only, which knows neither name nor payload; both
are taken from the task stream where the message still stands there, as it does after MAX_DELIVERIES.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from diracx.tasks.plumbing.dead_letters import store as dead_letters
from diracx.tasks.plumbing.dead_letters.advisories import ADVISORIES, Advisory
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter, from_advisory, from_letter, number, stored_at
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, read_message, read_messages
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.names import Namespace

OnRead = Callable[[], object]

_record = msgspec.json.Decoder(AttemptRecord)


@dataclass(frozen=True, slots=True)
class Remains:
    """All that is left of one dead task: where it is, not what is in it."""

    seq: int
    """The dead letter in its stream, or the first advisory where there is none."""
    stored_us: int
    """When that was stored, in microseconds since the epoch: tells it from one in a stream made anew."""
    task: str | None
    buried: bool
    """Whether a worker stored a dead letter."""
    sequence: int
    """Of the message in the task stream."""
    advisories: tuple[Advisory, ...]
    original_us: int | None
    """When the task stream stored the message; None: not known."""

    def are_of(self, message: StoredMessage) -> bool:
        """Whether that message of the task stream, found at `sequence`, is the one that died."""
        if self.original_us is not None:
            return message.stored_us == self.original_us
        return any(advisory.concerns(message.stored) for advisory in self.advisories)


class DeadLetterReader:
    """Reads the stream of dead letters.

    Every method raises `ServerUnavailableError` when no answer came.
    """

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace
        self._stream = namespace.dead_letters_stream

    async def size(self) -> int | None:
        """How many messages the stream holds, advisories included; None where there is no stream."""
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

    async def remains(self, on_read: OnRead = lambda: None) -> list[Remains]:
        """Where all that is dead is, the oldest first.

        Args:
            on_read: Called after each message of the stream.
        """
        return sorted([remains async for _, remains in self._walk(on_read)], key=lambda remains: remains.seq)

    async def get(self, seq: int) -> DeadLetter | None:
        """One dead letter; None where there is none of that sequence."""
        message = await read_message(self._connection, self._stream, seq=seq)
        if message is None or message.subject.startswith(self._letters("")):
            return None if message is None else from_letter(message)
        advisory = Advisory.of(message)
        letter = await read_message(
            self._connection, self._stream, last_by_subj=self._letters(f"*.*.{advisory.sequence}")
        )
        if letter is not None and advisory.concerns(stored_at(letter.headers) or letter.stored):
            return None
        return await self._ended_otherwise(advisory)

    async def _walk(self, on_read: OnRead) -> AsyncIterator[tuple[DeadLetter, Remains]]:
        # Advisories first: whoever's is found here was buried before, and its letter is found below.
        advisories: dict[int, list[Advisory]] = {}
        async for message in read_messages(self._connection, self._stream, ADVISORIES):
            advisory = Advisory.of(message)
            # What cannot be read concerns nobody else.
            advisories.setdefault(advisory.sequence or -advisory.seq, []).append(advisory)
            on_read()
        async for message in read_messages(self._connection, self._stream, self._letters(">")):
            sequence = number(message.headers, dead_letters.SEQUENCE) or 0
            theirs = _taken(advisories, sequence, stored_at(message.headers) or message.stored)
            letter = from_letter(message)
            yield letter, _buried(message, letter, sequence, theirs)
            on_read()
        for group in advisories.values():
            letter = await self._ended_otherwise(group[0])
            yield letter, _unburied(letter, group)

    async def _ended_otherwise(self, advisory: Advisory) -> DeadLetter:
        tasks = self._namespace.tasks_stream
        message = await read_message(self._connection, tasks, seq=advisory.sequence) if advisory.sequence else None
        if message is None or not advisory.concerns(message.stored):
            return from_advisory(advisory, None, None)
        entry = await Bucket(self._connection, self._namespace.attempts_bucket).read(str(advisory.sequence))
        record = _record.decode(entry.value) if entry is not None else None
        if record is not None and record.stored_ns // 1000 != message.stored_us:
            record = None
        return from_advisory(advisory, message, record)

    def _letters(self, which: str) -> str:
        return f"{self._namespace.name}.dlq.{which}"


def _taken(advisories: dict[int, list[Advisory]], sequence: int, stored: datetime) -> list[Advisory]:
    """Those of the message of that sequence that was stored then; they are taken out."""
    theirs = [advisory for advisory in advisories.get(sequence, ()) if advisory.concerns(stored)]
    if theirs:
        rest = [advisory for advisory in advisories.pop(sequence) if advisory not in theirs]
        if rest:
            advisories[sequence] = rest
    return theirs


def _buried(message: StoredMessage, letter: DeadLetter, sequence: int, advisories: list[Advisory]) -> Remains:
    nanoseconds = number(message.headers, dead_letters.STORED)
    return Remains(
        seq=message.sequence,
        stored_us=message.stored_us,
        task=letter.task,
        buried=True,
        sequence=sequence,
        advisories=tuple(advisories),
        original_us=None if nanoseconds is None else nanoseconds // 1000,
    )


def _unburied(letter: DeadLetter, advisories: list[Advisory]) -> Remains:
    first = advisories[0]
    return Remains(
        seq=first.seq,
        stored_us=first.stored_us,
        task=letter.task,
        buried=False,
        sequence=first.sequence,
        advisories=tuple(advisories),
        original_us=None,
    )
