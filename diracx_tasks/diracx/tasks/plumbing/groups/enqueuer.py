"""Storing groups: the group itself, all or nothing, and then the children of each part in their queues.

    1. one atomic batch into the stream `later`: the record of the group, the callback (held until the time to live is
       over), each part with the bodies of its children, and for each part a message that has a worker store them
    2. for each part, one atomic batch into the queues: its children
    3. the part is marked as stored, and loses the bodies

A group of one part is stored by whoever spawns it: the message of 1 is due half a minute later, and is deleted after 3.
Of a group of several parts it is due at once, and workers do 2 and 3.

Crash points:

    before 1, or within it      nothing is stored; a parent that runs again spawns the group
    after 1                     the message of the part falls due, and a worker does 2 and 3; a parent that runs again
                                finds the record of the group, and stores nothing twice
    after 2                     the children have ids of their own (`Nats-Msg-Id`), so the queues refuse the batch
                                within their duplicate window of 2 minutes. Later a child that has ended shows in the
                                part, and one that has not is found in its queue
    after 3                     the message of the part falls due, and changes nothing
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypeVar

import msgspec

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import (
    SendTaskError,
    ServerError,
    ServerUnavailableError,
    shown,
)
from diracx.tasks.plumbing.groups.records import (
    GroupRecord,
    PartRecord,
    callback_id,
    part_id,
    place,
)
from diracx.tasks.plumbing.groups.spawning import NewGroup, child_headers
from diracx.tasks.plumbing.groups.store import Change, JetStreamGroupStore, Stored, UnreadableRecordError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import (
    DUPLICATE_MESSAGE_ID,
    STORE_FAILED,
    WRONG_LAST_SEQUENCE,
    ApiError,
    PermissionDeniedError,
    stream_full_text,
)
from diracx.tasks.plumbing.jetstream.headers import EXPECTED_LAST_SUBJECT_SEQUENCE, schedule_headers
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.plumbing.jetstream.publish import BatchMessage, publish_batch, until_answered
from diracx.tasks.plumbing.jetstream.stream_messages import delete_message, read_messages
from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from diracx.tasks.plumbing.observability.telemetry import current
from diracx.tasks.plumbing.wire.envelope import MSG_ID, TASK_GROUP, TASK_ID, TASK_NAME, TASK_PART, TRACEPARENT, Envelope
from diracx.tasks.plumbing.wire.names import Namespace

logger = logging.getLogger("diracx.tasks.groups")

T = TypeVar("T")

STORE_CHILDREN: Final = "diracx:StoreChildren"
"""The name of the message that has a worker store the children of a part."""

FALLBACK: Final = timedelta(seconds=30)
"""How long whoever spawns a group of one part has time to store its children, before a worker does."""
SEARCH_AFTER: Final = timedelta(seconds=90)
"""The children of a part that is older may have been stored longer ago than the queues tell duplicates, 2 minutes."""

_TRIES: Final = 5
_RECONNECT_SECONDS: Final = 10.0
_AT_ONCE_SECONDS: Final = 10.0
"""How long whoever spawns a group waits for its children to be stored; less than `FALLBACK`."""


class GroupEnqueuer:
    """Stores the groups that are spawned in one namespace, and their children in the queues.

    Args:
        search_after: See `SEARCH_AFTER`.
    """

    def __init__(self, connection: Connection, namespace: Namespace, *, search_after: timedelta = SEARCH_AFTER) -> None:
        self._connection = connection
        self._namespace = namespace
        self._records = JetStreamGroupStore(connection, namespace)
        self._search_after = search_after
        self._may_delete = True
        """Whether this user may delete a message of a part; producers may not."""
        self._telemetry = current()

    async def spawn(self, group: NewGroup, timeout: float) -> None:
        """Store a group, unless it was stored before.

        Args:
            timeout: The limit for all tries, in seconds.

        Raises:
            SendTaskError: It was not stored, or is not known to be.
        """
        with self._publish_span(group) as headers:
            if (traceparent := headers.get(TRACEPARENT)) is not None:
                group = replace(group, record=msgspec.structs.replace(group.record, traceparent=traceparent))
            first = await self._store_group(group, timeout)
        if first is None:
            await self._keep_to_what_is_stored(group)
        elif len(group.parts) == 1:
            await self._store_at_once(group, first + 2)

    @contextmanager
    def _publish_span(self, group: NewGroup) -> Iterator[dict[str, str]]:
        """One span for the group. In its headers, the children and the callback get the trace."""
        headers = {TASK_ID: group.id, TASK_NAME: group.record.callback}
        if self._telemetry is None:
            yield headers
            return
        size = sum(len(bytes(body)) for part in group.parts for body in part.bodies)
        with self._telemetry.publishing(self._namespace.group_subject(group.id), headers, size):
            yield headers

    async def _store_group(self, group: NewGroup, timeout: float) -> int | None:
        """The sequence of its first message; None: its record was there before."""
        subject, stream = self._namespace.group_subject(group.id), self._namespace.later_stream
        messages = list(self._group_messages(group))

        async def send(seconds: float) -> int | None:
            try:
                ack = await publish_batch(self._connection, messages, timeout=seconds)
            except ApiError as error:
                if error.err_code == WRONG_LAST_SEQUENCE:
                    return None
                raise
            return ack.seq - len(messages) + 1

        return await until_answered(self._connection, stream, subject, send, timeout=timeout, what="the group")

    def _group_messages(self, group: NewGroup) -> Iterator[BatchMessage]:
        names, record = self._namespace, group.record
        new = {EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}
        yield self._records.group_message(group.id, Stored(record, 0))
        at_the_latest = record.spawned + timedelta(seconds=record.ttl_seconds if group.parts else 0)
        let_go = schedule_headers(at_the_latest, names.due_subject(*group.callback.queue))
        held = names.delayed_subject(callback_id(group.id))
        yield BatchMessage(held, group.callback.body, group.callback_headers() | let_go | new)
        due = record.spawned + (FALLBACK if len(group.parts) == 1 else timedelta(0))
        for number, part in enumerate(group.parts):
            yield self._records.part_message(group.id, record, number, Stored(part, 0))
            yield self._storing_message(group.id, number, part, due)

    def _storing_message(self, group: str, number: int, part: PartRecord, due: datetime) -> BatchMessage:
        """The message that has a worker store the children of a part. The worker is one of the first child's size."""
        identity = part_id(group, number)
        headers = Envelope(name=STORE_CHILDREN, id=identity, submitted=self._connection.clock.now()).to_headers()
        del headers[MSG_ID]
        headers |= {TASK_PART: place(group, number), EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}
        target = self._namespace.due_subject(*_queue(part, part.children[0]))
        return BatchMessage(self._namespace.delayed_subject(identity), b"{}", headers | schedule_headers(due, target))

    async def _keep_to_what_is_stored(self, group: NewGroup) -> None:
        """The group was stored before, by an earlier execution of its parent. What that one stored stands."""
        if group.record.parent is None:
            return  # an earlier try of this very spawn, whose answer was lost; the message of its part is due soon
        try:
            known = await self._records.read_group(group.id)
        except ServerError as error:
            raise SendTaskError(f"the group {shown(group.id)} is not known to be stored: {error}") from error
        if known is None:
            callback = self._namespace.delayed_subject(callback_id(group.id))
            raise SendTaskError(
                f"the group {shown(group.id)} was not stored: something of an earlier group of that id is left, and "
                f"its record is not; purge {shown(callback)} from {self._namespace.later_stream}"
            )
        stored = known.record
        if stored.digest != group.record.digest:
            logger.warning(
                "the group %s of %s stays as it was spawned first, with %d children and %s as its callback: this "
                "execution gave others, which are not stored",
                *(shown(group.id), shown(group.record.parent), stored.children, stored.callback),
            )
        if len(stored.starts) == 1 and stored.ended is None:
            await self._in_doubt(self.store_part(group.id, 0))

    async def _in_doubt(self, work: Awaitable[T]) -> T | None:
        """Await what a worker does a moment later if it fails here: the group is stored."""
        try:
            async with asyncio.timeout(_AT_ONCE_SECONDS):
                return await work
        except TimeoutError:
            error: Exception | str = f"no answer within {_AT_ONCE_SECONDS:g} s"
        except (ServerError, SendTaskError, UnreadableRecordError) as failure:
            error = failure
        logger.warning("the children of a group are left to a worker, which stores them in their queues: %s", error)
        return None

    async def _store_at_once(self, group: NewGroup, sequence: int) -> None:
        """Store the children of the only part, and delete its message, which is the next one."""
        part = group.parts[0]
        stored = await self._in_doubt(self._store_new(group, part, sequence))
        if not stored or not self._may_delete:
            return  # the message falls due, and a worker finds the children stored
        try:
            await delete_message(self._connection, self._namespace.later_stream, sequence + 1)
        except PermissionDeniedError:
            self._may_delete = False
        except ServerError as error:
            logger.debug("the message of a part stays until it is due: %s", error)

    async def _store_new(self, group: NewGroup, part: PartRecord, sequence: int) -> bool:
        """Store the children of a part that nobody else has stored yet. Returns whether the part is marked."""
        await self._store_children(group.id, group.record, 0, part)
        with suppress(PermissionDeniedError):  # a producer may not read what completions have made of the part
            return await self._mark(group.id, group.record, 0, Stored(part, sequence))
        return False

    async def is_second_firing(self, group: str, fired: int) -> bool:
        """Whether a callback was let go before, by another message than this one.

        A server that is killed while a schedule fires may fire it again after its restart, as a second message: it
        stores what falls due, and removes the schedule a moment later.

        Args:
            fired: The sequence of this message in the stream `later`.

        Raises:
            ServerError: That is not known.
        """
        while True:
            try:
                known = await self._records.read_group(group)
            except UnreadableRecordError:
                return False  # its outcomes cannot be read either, which the callback hears of
            if known is None or known.record.fired is not None:
                return known is not None and known.record.fired != fired
            first = msgspec.structs.replace(known.record, fired=fired)
            with suppress(RevisionConflictError):  # a completion, or the other message
                await self._records.write(Change(group, first, closing=Stored(first, known.sequence)))
                return False

    async def store_part(self, group: str, number: int) -> bool:
        """Store the children of one part in their queues, unless they were stored before.

        Returns:
            False when there is nothing to be done any more: the records of the group are gone.

        Raises:
            ServerError: It is not known whether they are stored.
            UnreadableRecordError: A record cannot be read.
        """
        tries_left = _TRIES
        while True:
            try:
                return await self._store_part(group, number)
            except ServerUnavailableError:
                tries_left -= 1
                # Stored or not: that is found out again.
                if not tries_left or not await self._connection.wait_connected(_RECONNECT_SECONDS):
                    raise

    async def _store_part(self, group: str, number: int) -> bool:
        known, stored = await self._records.read_group(group), await self._records.read_part(group, number)
        if known is None or stored is None:
            return False
        record, part = known.record, stored.record
        if part.stored:
            return True
        # A child that has ended was stored.
        if not part.statuses:
            old = self._connection.clock.now() - record.spawned > self._search_after
            if not (old and await self._in_queues(group, record, number, part)):
                now = await self._records.read_part(group, number) if old else stored
                if now is None or now.sequence != stored.sequence:
                    return await self._store_part(group, number)  # the first have ended during the search
                await self._store_children(group, record, number, part)
        await self._mark(group, record, number, stored)
        return True

    async def _in_queues(self, group: str, record: GroupRecord, number: int, part: PartRecord) -> bool:
        """Whether a child of the part is in a queue. They were stored together, and none has ended."""
        first = record.starts[number]
        places = {place(group, index) for index in range(first, first + len(part.children))}
        # On a cluster a replica that lags may not have them yet, and nothing else keeps them from being stored twice.
        # So where the fast search finds none there, the leader is asked.
        for read in (read_batches, read_messages) if self._connection.in_cluster else (read_batches,):
            async for message in read(self._connection, self._namespace.tasks_stream, ">"):
                if message.headers.get(TASK_GROUP) in places:
                    return True
        return False

    async def _store_children(self, group: str, record: GroupRecord, number: int, part: PartRecord) -> None:
        """Store the children, all or none. Nothing happens if they were stored within the last 2 minutes."""
        stream = self._namespace.tasks_stream
        try:
            await publish_batch(self._connection, self._children(group, record, number, part))
        except ApiError as error:
            if error.err_code == STORE_FAILED:
                raise SendTaskError(stream_full_text(stream, error.description)) from error
            if error.err_code != DUPLICATE_MESSAGE_ID:
                raise

    def _children(self, group: str, record: GroupRecord, number: int, part: PartRecord) -> list[BatchMessage]:
        try:
            subjects = [self._namespace.task_subject(*_queue(part, task)) for task in range(len(part.tasks))]
            headers = child_headers(group, record, number, part)
            return [
                BatchMessage(subjects[task], bytes(body), each)
                for task, body, each in zip(part.children, part.bodies, headers, strict=True)
            ]
        except (ValueError, IndexError) as error:
            raise UnreadableRecordError(f"part {number} of the group {shown(group)} is broken: {error}") from error

    async def _mark(self, group: str, record: GroupRecord, number: int, part: Stored[PartRecord]) -> bool:
        """Mark a part as stored. Completions may write it meanwhile. Returns False if they always were quicker."""
        for _ in range(_TRIES):
            marked = Stored(part.record.as_stored(), part.sequence)
            with suppress(RevisionConflictError):
                await self._records.write(Change(group, record, parts={number: marked}))
                return True
            written = await self._records.read_part(group, number)
            if written is None or written.record.stored:
                return True
            part = written
        return False


def _queue(part: PartRecord, task: int) -> tuple[Priority, Size]:
    priority, _, size = part.queues[task].partition(".")
    return Priority(priority), Size(size)
