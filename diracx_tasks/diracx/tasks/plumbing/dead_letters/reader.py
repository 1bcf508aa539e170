"""Reading dead tasks from the dead letter stream.

A dead task leaves one of these behind:

* A dead letter and the advisory of the `+TERM` that followed it. The advisory is then part of that dead letter, and
  is not listed on its own.
* An advisory only, if no worker stored a dead letter. The task's name and payload are then read from the task stream,
  which still holds the message after MAX_DELIVERIES.

The stream is read in batches, and as little as possible is held: a dead letter, of which there may be 100,000 after an
outage, is dropped once it was given out. What stays is the advisories whose dead letter does not shortly precede them.
They are few, unless an operator limits `max_deliver`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from diracx.tasks.plumbing.dead_letters.dead_letter import (
    Advisory,
    DeadLetter,
    original_stored,
    read_number,
)
from diracx.tasks.plumbing.dead_letters.store import DEAD_SEQUENCE
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, read_message, request_to_count
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.names import Namespace

OnRead = Callable[[], object]
Selects = Callable[[DeadLetter], bool]

NEAR_LETTERS: Final = 1_000
"""So many of the dead letters last read are held to know the advisories that follow them."""

FIRST_WINDOW: Final = 200
MAX_WINDOW: Final = 10_000

_record = msgspec.json.Decoder(AttemptRecord)


class StreamSize(NamedTuple):
    """How much the dead letter stream holds."""

    messages: int
    """Advisories included."""
    dead_letters: int
    """Those that workers stored."""
    first: int
    """The sequence of the first message; it is greater than `last` if there is none."""
    last: int


class OwnAdvisories(NamedTuple):
    """The advisories whose dead letter does not shortly precede them."""

    late: dict[int, list[Advisory]]
    """Those of tasks that have a dead letter, by the sequence in the task stream."""
    alone: dict[int, list[Advisory]]
    """Those of tasks that have none, by the sequence of the first of them in the dead letter stream."""


class DeadLetterReader:
    """Reads the dead letter stream.

    Every method raises `ServerUnavailableError` if no answer arrives.
    """

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace
        self._stream = namespace.dead_letters_stream

    async def size(self) -> StreamSize | None:
        """How much the stream holds; None if there is no stream."""
        request = request_to_count(self._subject(">"))  # each dead letter has a subject of its own
        try:
            info = await self._connection.api(f"STREAM.INFO.{self._stream}", request)
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise
        state = info["state"]
        return StreamSize(
            int(state["messages"]), int(info.get("total", 0)), int(state["first_seq"]), int(state["last_seq"])
        )

    async def all(self) -> list[DeadLetter]:
        """All dead letters, the oldest first. There may be many: see `letters`."""
        return [letter async for letter in self.letters()]

    async def letters(self, *, last: int | None = None, on_read: OnRead = lambda: None) -> AsyncIterator[DeadLetter]:
        """The dead letters, the oldest first, one at a time.

        Args:
            last: The sequence to end at, in the dead letter stream; None: its end.
            on_read: Called after each message of the stream, which is read twice.
        """
        alone = (await self.own_advisories(last=last, on_read=on_read)).alone
        async for message in read_batches(self._connection, self._stream, last=last):
            if self.is_dead_letter(message):
                yield DeadLetter.from_message(message)
            elif (group := alone.pop(message.sequence, None)) is not None:
                yield await self.without_dead_letter(group[0])
            on_read()

    async def newest(self, messages: int) -> AsyncIterator[DeadLetter]:
        """The dead letters among the last messages of the stream, the oldest first, one at a time.

        Args:
            messages: How many messages are read, advisories included.
        """
        size = await self.size()
        if size is not None:
            async for letter, _ in self._window(max(size.first, size.last - messages + 1), size.last, set()):
                yield letter

    async def latest(
        self,
        limit: int,
        selects: Selects,
        *,
        since: datetime | None = None,
        before: int | None = None,
        most: int | None = None,
    ) -> list[DeadLetter]:
        """The latest dead letters that are selected, the oldest first, read from the end of the stream.

        A task of which only several advisories are left is named by the first of those that were read.

        Args:
            limit: How many at the most; 1 or more.
            since: Messages that were stored earlier need not be read; None: all may be.
            before: The sequence, in the dead letter stream, before which it begins; None: the end of the stream.
            most: How many messages are read at the most, advisories included; None: as many as it takes.
        """
        size = await self.size()
        found: list[DeadLetter] = []
        seen: set[int] = set()
        if size is None:
            return found
        limit = min(limit, max(size.last, 1))
        end, width = size.last if before is None else min(size.last, before - 1), max(FIRST_WINDOW, 3 * limit)
        start = size.first if most is None else max(size.first, end - most + 1)
        while end >= start and len(found) < limit:
            first = max(start, end - width + 1)
            window: deque[DeadLetter] = deque(maxlen=limit)
            reached = False
            async for letter, stored in self._window(first, end, seen):
                reached = reached or (since is not None and stored < since)
                if selects(letter):
                    window.append(letter)
            found = [*window, *found][-limit:]
            if reached:
                break
            end, width = first - 1, min(2 * width, MAX_WINDOW)
        return found

    async def _window(self, first: int, last: int, seen: set[int]) -> AsyncIterator[tuple[DeadLetter, datetime]]:
        """The dead letters between two sequences, each with the time at which the stream stored it.

        Args:
            seen: The tasks without a dead letter that later windows have given out; those of this one are added.
        """
        near = _NearLetters()
        async for message in read_batches(self._connection, self._stream, first=first, last=last):
            if self.is_dead_letter(message):
                near.add(message)
                yield DeadLetter.from_message(message), message.stored
                continue
            advisory = Advisory.from_message(message)
            if _key(advisory) in seen or near.has(advisory) or await self._has_dead_letter(advisory):
                continue
            seen.add(_key(advisory))
            yield await self.without_dead_letter(advisory), message.stored

    async def get(self, seq: int) -> DeadLetter | None:
        """One dead letter; None if there is none with that sequence."""
        message = await read_message(self._connection, self._stream, seq=seq)
        if message is None or self.is_dead_letter(message):
            return None if message is None else DeadLetter.from_message(message)
        advisory = Advisory.from_message(message)
        return None if await self._has_dead_letter(advisory) else await self.without_dead_letter(advisory)

    def is_dead_letter(self, message: StoredMessage) -> bool:
        """Whether a worker stored this message of the stream; otherwise it is an advisory."""
        return message.subject.startswith(self._subject(""))

    async def own_advisories(self, *, last: int | None = None, on_read: OnRead = lambda: None) -> OwnAdvisories:
        """The advisories whose dead letter does not shortly precede them.

        Args:
            last: The sequence to end at; None: the end of the stream.
            on_read: Called after each message of the stream.
        """
        near, found = _NearLetters(), dict[int, list[Advisory]]()
        async for message in read_batches(self._connection, self._stream, last=last):
            if self.is_dead_letter(message):
                near.add(message)
            elif not near.has(advisory := Advisory.from_message(message)):
                found.setdefault(_key(advisory), []).append(advisory)
            on_read()
        late: dict[int, list[Advisory]] = {}
        if found:
            async for message in read_batches(self._connection, self._stream, self._subject(">"), last=last):
                sequence = read_number(message.headers, DEAD_SEQUENCE) or 0
                if taken := take(found, sequence, stored_by(message)):
                    late.setdefault(sequence, []).extend(taken)
        return OwnAdvisories(late, {group[0].seq: group for group in found.values()})

    async def _has_dead_letter(self, advisory: Advisory) -> bool:
        subject = self._subject(f"*.*.{advisory.sequence}")
        letter = await read_message(self._connection, self._stream, last_by_subj=subject)
        return letter is not None and advisory.concerns(stored_by(letter))

    async def without_dead_letter(self, advisory: Advisory) -> DeadLetter:
        """What is known of a task that ended without a dead letter."""
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


def stored_by(letter: StoredMessage) -> datetime:
    """When the task stream stored the message of a dead letter; at the latest, if that is not known."""
    return original_stored(letter.headers) or letter.stored


class _NearLetters:
    """The dead letters last read. The advisory of one follows it closely, unless a worker is killed in between."""

    def __init__(self) -> None:
        self._stored: OrderedDict[int, datetime] = OrderedDict()
        """When the messages of these dead letters were stored, by their sequence in the task stream."""

    def add(self, letter: StoredMessage) -> None:
        self._stored[read_number(letter.headers, DEAD_SEQUENCE) or 0] = stored_by(letter)
        if len(self._stored) > NEAR_LETTERS:
            self._stored.popitem(last=False)

    def has(self, advisory: Advisory) -> bool:
        stored = self._stored.get(advisory.sequence)
        return stored is not None and advisory.concerns(stored)


def _key(advisory: Advisory) -> int:
    """The same for all advisories of a task. One that cannot be read belongs to no task, and gets a key of its own."""
    return advisory.sequence or -advisory.seq


def take(advisories: dict[int, list[Advisory]], sequence: int, stored: datetime) -> list[Advisory]:
    """Remove and return the advisories of the message with that sequence, stored at `stored`."""
    taken = [advisory for advisory in advisories.get(sequence, ()) if advisory.concerns(stored)]
    if taken:
        rest = [advisory for advisory in advisories.pop(sequence) if advisory not in taken]
        if rest:
            advisories[sequence] = rest
    return taken
