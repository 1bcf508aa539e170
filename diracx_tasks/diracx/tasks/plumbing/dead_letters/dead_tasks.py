"""What is stored of each dead task, and its removal."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

import msgspec

from diracx.tasks.plumbing.dead_letters.dead_letter import Advisory, DeadLetter, read_number
from diracx.tasks.plumbing.dead_letters.reader import NEAR_LETTERS, DeadLetterReader, OnRead, Selects, stored_by, take
from diracx.tasks.plumbing.dead_letters.store import DEAD_SEQUENCE, DEAD_STORED
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, delete_message, read_message
from diracx.tasks.plumbing.wire.names import Namespace


@dataclass(frozen=True, slots=True)
class DeadTask:
    """Where the messages of one dead task are stored. It does not hold their content."""

    seq: int
    """The sequence of the dead letter in its stream; of the first advisory if there is no dead letter."""
    stored_us: int
    """When that message was stored, in microseconds since the epoch. It changes if the stream is created anew."""
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


async def dead_tasks(
    connection: Connection,
    namespace: Namespace,
    selects: Selects = lambda letter: True,
    *,
    last: int | None = None,
    on_read: OnRead = lambda: None,
) -> AsyncIterator[DeadTask]:
    """The dead tasks that are selected, the oldest first but for a few; they may be removed meanwhile.

    A dead letter is given out once the stream was read a little further, with the advisories that followed it. So no
    more than `NEAR_LETTERS` are held at a time, however many there are.

    Args:
        last: The sequence to end at, in the dead letter stream; None: its end.
        on_read: Called after each message of the stream, which is read twice.

    Raises:
        ServerUnavailableError: No answer.
    """
    reader = DeadLetterReader(connection, namespace)
    late, alone = await reader.own_advisories(last=last, on_read=on_read)
    letters = _Letters(late)
    # Beyond `last` there may be advisories of what is selected: a worker stores the dead letter first.
    async for message in read_batches(connection, namespace.dead_letters_stream):
        on_read()
        if reader.is_dead_letter(message):
            if (last is None or message.sequence <= last) and selects(DeadLetter.from_message(message)):
                for task in letters.add(message):
                    yield task
        elif (group := alone.pop(message.sequence, None)) is None:
            letters.add_advisory(Advisory.from_message(message))
        elif _selects_one(selects, await reader.without_dead_letter(group[0]), group):
            yield DeadTask(group[0].seq, group[0].stored_us, False, group[0].sequence, tuple(group), None)
    for task in letters.rest():
        yield task


def _selects_one(selects: Selects, known: DeadLetter, group: list[Advisory]) -> bool:
    # `dlq list` does not read the whole stream, and may have named the task by a later advisory than the first.
    return any(selects(msgspec.structs.replace(known, seq=each.seq)) for each in group)


class _Letters:
    """Dead letters that wait for the advisories that may follow, by their sequence in the task stream.

    Args:
        late: The advisories that do not follow their dead letter closely.
    """

    def __init__(self, late: dict[int, list[Advisory]]) -> None:
        self._late = late
        self._waiting: OrderedDict[int, tuple[StoredMessage, dict[int, Advisory]]] = OrderedDict()

    def add(self, letter: StoredMessage) -> Iterator[DeadTask]:
        """Add a dead letter; yield those that need not wait any more."""
        sequence = read_number(letter.headers, DEAD_SEQUENCE) or 0
        if (same_sequence := self._waiting.pop(sequence, None)) is not None:
            yield _dead_task(*same_sequence)
        advisories = {each.seq: each for each in take(self._late, sequence, stored_by(letter))}
        self._waiting[sequence] = (_without_content(letter), advisories)
        if len(self._waiting) > NEAR_LETTERS:
            yield _dead_task(*self._waiting.popitem(last=False)[1])

    def add_advisory(self, advisory: Advisory) -> None:
        """Add an advisory to the dead letter that waits for it, if one does."""
        letter, advisories = self._waiting.get(advisory.sequence, (None, {}))
        if letter is not None and advisory.concerns(stored_by(letter)):
            advisories[advisory.seq] = advisory

    def rest(self) -> Iterator[DeadTask]:
        """Yield those that still wait."""
        for letter, advisories in self._waiting.values():
            yield _dead_task(letter, advisories)


def _without_content(letter: StoredMessage) -> StoredMessage:
    kept = {name: letter.headers[name] for name in (DEAD_SEQUENCE, DEAD_STORED) if name in letter.headers}
    return replace(letter, headers=kept, body=b"")


def _dead_task(letter: StoredMessage, advisories: dict[int, Advisory]) -> DeadTask:
    nanoseconds = read_number(letter.headers, DEAD_STORED)
    return DeadTask(
        seq=letter.sequence,
        stored_us=letter.stored_us,
        has_dead_letter=True,
        sequence=read_number(letter.headers, DEAD_SEQUENCE) or 0,
        advisories=tuple(advisories.values()),
        original_us=None if nanoseconds is None else nanoseconds // 1000,
    )


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
