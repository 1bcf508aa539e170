"""The records of groups, read from the stream `later` and written there.

Reads go to the leader of the stream, so each one sees every write that was acknowledged before it. What changes
together is stored in one atomic batch, each record by compare-and-set on its sequence: all of it, or nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from diracx.tasks.plumbing.exceptions import MalformedTaskError, shown
from diracx.tasks.plumbing.groups.records import (
    KEEP_GROUP,
    KEEP_OUTCOMES,
    GroupRecord,
    OutcomesRecord,
    PartRecord,
    StoredOutcome,
    callback_id,
    remaining_ttl,
)
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import WRONG_LAST_SEQUENCE, ApiError
from diracx.tasks.plumbing.jetstream.headers import (
    EXPECTED_LAST_SUBJECT_SEQUENCE,
    ROLLUP,
    SCHEDULE_TARGET,
    TTL,
    headers_to_fall_due,
)
from diracx.tasks.plumbing.jetstream.publish import BatchMessage, publish, publish_batch
from diracx.tasks.plumbing.jetstream.stream_messages import read_message, subjects_of
from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from diracx.tasks.plumbing.wire.envelope import TASK_DUE
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import to_rfc3339

T = TypeVar("T")

PARALLEL_READS: Final = 64
"""How many records are read at a time."""

HEADROOM_BYTES: Final = 8_192
"""What a message leaves free of the server's `max_payload`, for its headers."""

_group = msgspec.json.Decoder(GroupRecord)
_part = msgspec.json.Decoder(PartRecord)
_outcomes = msgspec.json.Decoder(OutcomesRecord)


class UnreadableRecordError(MalformedTaskError):
    """A record cannot be decoded, or contradicts itself. The text has its subject and what is wrong."""


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """A record, and the sequence of its message."""

    record: T
    sequence: int


@dataclass(frozen=True, slots=True)
class HeldCallback:
    """The callback of a group, as it waits for the end of the time to live."""

    sequence: int
    target: str
    """The subject that it is published to when it falls due."""
    headers: Mapping[str, str]
    """As they are stored."""
    body: bytes


@dataclass(slots=True)
class Change:
    """What is stored together of one group."""

    id: str
    """Of the group."""
    group: GroupRecord
    """As it is known: it tells for how long the other records are kept."""
    parts: dict[int, Stored[PartRecord]] = field(default_factory=dict)
    """New records of parts, with the sequences that they replace."""
    outcomes: list[tuple[int, int, bytes]] = field(default_factory=list)
    """New `OutcomesRecord`s: the number of the part, the lowest index in it, its JSON."""
    closing: Stored[GroupRecord] | None = None
    """A new record of the group, with the sequence that it replaces."""
    released: HeldCallback | None = None
    """The callback, which is to run now."""


class GroupStore(Protocol):
    """Where groups are stored."""

    @property
    def largest(self) -> int:
        """The largest body of a message, in bytes."""

    async def read_group(self, group: str) -> Stored[GroupRecord] | None:
        """The record of a group; None: it is gone.

        Raises:
            UnreadableRecordError: It cannot be read.
            ServerError: No answer, or a refusal; so do the others.
        """

    async def read_part(self, group: str, number: int) -> Stored[PartRecord] | None:
        """The record of one part; None: it is gone.

        Raises:
            UnreadableRecordError: It cannot be read.
        """

    async def read_callback(self, group: str) -> HeldCallback | None:
        """The callback, while it is held; None: it has run, or was withdrawn."""

    def read_outcomes(self, group: str, number: int) -> AsyncIterator[StoredOutcome]:
        """What is stored of the outcomes of one part, in no order.

        Raises:
            UnreadableRecordError: A record cannot be read.
        """

    async def write(self, change: Change) -> tuple[dict[int, int], int]:
        """Store a change.

        Returns:
            The new sequences of its parts; and that of the record of the group, 0 if that does not change.

        Raises:
            RevisionConflictError: A record or the callback is not at its sequence; nothing was stored.
            ServerUnavailableError: No answer; it was stored, or not.
        """


class JetStreamGroupStore:
    """Implements `GroupStore` on JetStream."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection, self._namespace = connection, namespace

    @property
    def largest(self) -> int:
        """The largest body of a message, in bytes."""
        return self._connection.max_payload - HEADROOM_BYTES

    async def read_group(self, group: str) -> Stored[GroupRecord] | None:
        """See `GroupStore`."""
        subject = self._namespace.group_subject(group)
        stored = await self._read(_group, subject)
        if stored is not None and not _fits(stored.record):
            raise _unreadable(subject, "its parts do not fit its children")
        return stored

    async def read_part(self, group: str, number: int) -> Stored[PartRecord] | None:
        """See `GroupStore`."""
        subject = self._namespace.group_part_subject(group, number)
        stored = await self._read(_part, subject)
        if stored is not None and len(stored.record.statuses) not in (0, len(stored.record.children)):
            raise _unreadable(subject, "it has not one status for each of its children")
        return stored

    async def _read(self, decoder: msgspec.json.Decoder[T], subject: str) -> Stored[T] | None:
        message = await read_message(self._connection, self._namespace.later_stream, last_by_subj=subject)
        if message is None:
            return None
        try:
            return Stored(decoder.decode(message.body), message.sequence)
        except msgspec.MsgspecError as error:
            raise _unreadable(subject, error) from error

    async def read_callback(self, group: str) -> HeldCallback | None:
        """See `GroupStore`."""
        subject = self._namespace.delayed_subject(callback_id(group))
        message = await read_message(self._connection, self._namespace.later_stream, last_by_subj=subject)
        if message is None or not (target := message.headers.get(SCHEDULE_TARGET)):
            return None
        return HeldCallback(message.sequence, target, message.headers, message.body)

    async def read_outcomes(self, group: str, number: int) -> AsyncIterator[StoredOutcome]:
        """See `GroupStore`."""
        pattern = self._namespace.group_outcomes_subject(group, number, "*")
        subjects = await subjects_of(self._connection, self._namespace.later_stream, pattern)
        for begin in range(0, len(subjects), PARALLEL_READS):
            page = subjects[begin : begin + PARALLEL_READS]
            for stored in await asyncio.gather(*(self._read(_outcomes, subject) for subject in page)):
                for outcome in () if stored is None else stored.record.outcomes:
                    yield outcome

    def group_message(self, group: str, stored: Stored[GroupRecord]) -> BatchMessage:
        """Replaces the record of a group, which is at that sequence now; at 0: there is none."""
        ttl = remaining_ttl(stored.record, KEEP_GROUP, self._connection.clock.now())
        return _replacing(self._namespace.group_subject(group), stored, ttl)

    def part_message(self, group: str, record: GroupRecord, number: int, stored: Stored[PartRecord]) -> BatchMessage:
        """Replaces the record of one part, as `group_message`."""
        ttl = remaining_ttl(record, KEEP_OUTCOMES, self._connection.clock.now())
        return _replacing(self._namespace.group_part_subject(group, number), stored, ttl)

    async def write(self, change: Change) -> tuple[dict[int, int], int]:
        """See `GroupStore`."""
        messages = [self.part_message(change.id, change.group, *part) for part in change.parts.items()]
        messages += [self._outcomes_message(change, *outcomes) for outcomes in change.outcomes]
        closing_at = len(messages)
        if change.closing is not None:
            messages.append(self.group_message(change.id, change.closing))
        if change.released is not None:
            messages.append(self._callback_message(change.id, change.released))
        first = await self._publish(messages) - len(messages) + 1
        sequences = {number: first + at for at, number in enumerate(change.parts)}
        return sequences, first + closing_at if change.closing is not None else 0

    async def _publish(self, messages: Sequence[BatchMessage]) -> int:
        """Store all of them, and return the sequence of the last."""
        try:
            if len(messages) > 1:
                return (await publish_batch(self._connection, messages)).seq
            (one,) = messages
            return (await publish(self._connection, one.subject, one.body, one.headers)).seq
        except ApiError as error:
            if error.err_code == WRONG_LAST_SEQUENCE:
                raise RevisionConflictError(messages[0].subject) from None
            raise

    def _outcomes_message(self, change: Change, number: int, first: int, body: bytes) -> BatchMessage:
        ttl = remaining_ttl(change.group, KEEP_OUTCOMES, self._connection.clock.now())
        return BatchMessage(self._namespace.group_outcomes_subject(change.id, number, first), body, {TTL: ttl})

    def _callback_message(self, group: str, held: HeldCallback) -> BatchMessage:
        now = self._connection.clock.now()
        headers = headers_to_fall_due(held.headers, held.sequence, held.target, now)
        if TASK_DUE in headers:
            headers[TASK_DUE] = to_rfc3339(now)
        return BatchMessage(self._namespace.delayed_subject(callback_id(group)), held.body, headers)


def _unreadable(subject: str, why: object) -> UnreadableRecordError:
    return UnreadableRecordError(f"the record {shown(subject)} cannot be read: {why}")


def _fits(record: GroupRecord) -> bool:
    """Whether each part begins after the one before it, and the last has a child."""
    bounds = (*record.starts, record.children)
    return bounds[0] == 0 and all(first < end for first, end in pairwise(bounds))


def _replacing(subject: str, stored: Stored[GroupRecord] | Stored[PartRecord], ttl: str) -> BatchMessage:
    headers = {ROLLUP: "sub", EXPECTED_LAST_SUBJECT_SEQUENCE: str(stored.sequence), TTL: ttl}
    return BatchMessage(subject, msgspec.json.encode(stored.record), headers)
