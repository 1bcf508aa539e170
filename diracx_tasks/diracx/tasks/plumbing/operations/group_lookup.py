"""The groups of a mesh, as an operator sees them: read from their records, and never changed.

A group is read while its children end, record by record: what is counted was true within a moment.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec

from diracx.tasks.plumbing.groups.records import (
    STATUSES,
    WAITING,
    GroupRecord,
    PartRecord,
    callback_id,
    group_id,
)
from diracx.tasks.plumbing.groups.store import JetStreamGroupStore, UnreadableRecordError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.plumbing.jetstream.stream_messages import request_to_count
from diracx.tasks.plumbing.operations.task_document import GroupState
from diracx.tasks.plumbing.wire.names import Namespace

MAX_SPAWNED: Final = 100
"""No more groups of one task are looked up."""
MAX_COUNTED: Final = 5_000
"""Beyond so many records, open groups are not counted: that would take longer than the rest of the status."""


@dataclass(frozen=True, slots=True)
class ChildState:
    """What the records of a group tell of one child."""

    task: str
    """The name of the task."""
    status: str | None
    """How it has ended; None: it has not."""


def child_place(task_id: str) -> tuple[str, int] | None:
    """The id of the group and the index, if this may be the id of a child."""
    group, dash, index = task_id.rpartition("-")
    return (group, int(index)) if dash and group and index.isdecimal() and index.isascii() else None


class GroupReader:
    """Reads groups. Every method raises `ServerUnavailableError` if no answer arrives."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace
        self._records = JetStreamGroupStore(connection, namespace)

    async def state(self, group: str) -> GroupState | None:
        """One group; None: there is none of that id, or its record has expired or cannot be read."""
        record = await self._record(group)
        if record is None:
            return None
        return GroupState(
            id=group,
            parent=record.parent,
            spawned=record.spawned,
            fires=record.spawned + timedelta(seconds=record.ttl_seconds),
            children=record.children,
            counts=await self._counts(group, record),
            callback=record.callback,
            callback_id=callback_id(group),
            ended=record.ended,
            ended_at=record.ended_at,
        )

    async def spawned_by(self, task_id: str) -> list[GroupState]:
        """The groups that a task has spawned, in their order."""
        found: list[GroupState] = []
        while len(found) < MAX_SPAWNED and (group := await self.state(group_id(task_id, len(found)))) is not None:
            found.append(group)
        return found

    async def child(self, group: str, index: int) -> ChildState | None:
        """One child; None: the group has none of that index, or its records have expired."""
        record = await self._record(group)
        if record is None or not index < record.children:
            return None
        number = record.part_of(index)
        part = await self._part(group, number)
        if part is None:
            return None
        letter = (part.statuses or WAITING * len(part.children))[index - record.starts[number]]
        status = STATUSES.get(letter)
        return ChildState(
            task=part.tasks[part.children[index - record.starts[number]]],
            status=None if status is None else str(status),
        )

    async def open_groups(self) -> int | None:
        """How many groups wait for their children; None: there are too many records to count."""
        stream, pattern = self._namespace.later_stream, f"{self._namespace.name}.group.*"
        answer = await self._connection.api(f"STREAM.INFO.{stream}", request_to_count(pattern))
        if (total := int(answer.get("total", 0))) > MAX_COUNTED:
            return None
        found = 0
        if total:
            async for message in read_batches(self._connection, stream, pattern):
                with suppress(msgspec.MsgspecError):  # written by hand; no worker counts its children
                    found += msgspec.json.decode(message.body, type=GroupRecord).ended is None
        return found

    async def _counts(self, group: str, record: GroupRecord) -> dict[str, int]:
        letters: Counter[str] = Counter()
        for number in range(len(record.starts)):
            part = await self._part(group, number)
            if part is None:
                return {}
            letters.update(part.statuses or WAITING * len(part.children))
        return {"waiting": letters[WAITING]} | {str(status): letters[letter] for letter, status in STATUSES.items()}

    async def _record(self, group: str) -> GroupRecord | None:
        try:
            stored = await self._records.read_group(group)
        except UnreadableRecordError:
            return None
        return None if stored is None else stored.record

    async def _part(self, group: str, number: int) -> PartRecord | None:
        try:
            stored = await self._records.read_part(group, number)
        except UnreadableRecordError:
            return None
        return None if stored is None else stored.record
