"""What is spawned: the tasks of a group as they are checked, encoded and divided into parts, before anything is stored.

Ids come from the parent and from how many groups it has spawned before, so a parent that runs again makes the same
group. `enqueuer` stores it.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, Final
from uuid import uuid4

import msgspec

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import MalformedTaskError, SendTaskError, TaskDefinitionError
from diracx.tasks.plumbing.groups.records import (
    MAX_TTL_SECONDS,
    Ended,
    GroupRecord,
    PartRecord,
    callback_id,
    child_id,
    group_id,
    place,
)
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.submitter import current_parent, current_task_id
from diracx.tasks.plumbing.wire.envelope import DEAD_LETTER_BYTES, MSG_ID, TASK_GROUP, TASK_ID, TASK_NAME, Envelope

MAX_CHILDREN: Final = 100_000
MAX_PART_CHILDREN: Final = 1_000
"""As many as one atomic batch stores in the queues."""
MAX_PARTS: Final = 499
"""An atomic batch has 1,000 messages: the record of the group, the callback, and two for each part."""

_PART_ROOM_BYTES: Final = 4_096
"""What a part leaves free of the server's `max_payload`: for its headers, and for a letter for each child."""
_HEADER_ROOM_BYTES: Final = 1_024
"""For the headers that a child gets besides those of its envelope: of the batch, and the server's own."""
_CHILD_BYTES: Final = 8
"""What a part has of a child besides its body."""
_TASK_BYTES: Final = 32
"""What it has of a task besides its name."""


@dataclass(frozen=True, slots=True)
class EncodedTask:
    """A task that was checked."""

    name: str
    queue: tuple[Priority, Size]
    body: bytes
    keep_result: float | None
    """How long its class keeps its result, in seconds."""


@dataclass(frozen=True, slots=True)
class NewGroup:
    """A group that is not stored yet."""

    id: str
    record: GroupRecord
    parts: tuple[PartRecord, ...]
    callback: EncodedTask

    def callback_headers(self) -> dict[str, str]:
        """The headers of the callback. Without `Nats-Msg-Id`, which would refuse it when it is let go."""
        record = self.record
        envelope = Envelope(
            name=record.callback,
            id=callback_id(self.id),
            submitted=record.spawned,
            parent=record.parent,
            callback=self.id,
            keep_result=self.callback.keep_result,
            labels=record.labels,
            traceparent=record.traceparent,
        )
        headers = envelope.to_headers()
        del headers[MSG_ID]
        return headers


@dataclass(frozen=True, slots=True)
class Spawner:
    """Makes groups of tasks of one registry.

    Args:
        max_payload: The largest message that the server takes, in bytes.
        now: The time of the server.
    """

    registry: TaskRegistry
    max_payload: int
    now: datetime

    async def new_group(
        self,
        children: Iterable[BaseTask],
        callback: BaseTask,
        ttl_seconds: float,
        labels: Mapping[str, Any] | None,
        traceparent: str | None,
    ) -> NewGroup:
        """Check and encode a group in the context of whoever spawns it; see `Submitter.spawn`.

        Raises:
            SendTaskError, TaskDefinitionError, MalformedTaskError, ValueError, TypeError: As there.
        """
        group, parent = _identity()
        record = GroupRecord(
            spawned=self.now,
            ttl_seconds=_checked_ttl(ttl_seconds),
            children=0,
            starts=(),
            callback="",
            parent=parent,
            traceparent=traceparent,
            labels=_checked_labels(labels),
        )
        room = self.max_payload - max(DEAD_LETTER_BYTES, _header_bytes(group, record) + _HEADER_ROOM_BYTES)
        last = self._encoded(callback, "the callback", room)
        encoded = await self._encoded_children(children, room)
        parts = self._parts(encoded)
        record = msgspec.structs.replace(
            record,
            children=len(encoded),
            starts=tuple(accumulate((len(part.children) for part in parts[:-1]), initial=0)) if parts else (),
            callback=last.name,
            digest=_digest([*encoded, last]),
            ended=None if encoded else Ended.COMPLETE,
            ended_at=None if encoded else self.now,
        )
        return NewGroup(group, record, parts, last)

    async def _encoded_children(self, children: Iterable[BaseTask], room: int) -> list[EncodedTask]:
        encoded: list[EncodedTask] = []
        for index, child in enumerate(_listed(children)):
            encoded.append(self._encoded(child, f"child {index}", room))
            if not len(encoded) % MAX_PART_CHILDREN:
                await asyncio.sleep(0)  # others share the loop of a small task
        return encoded

    def _parts(self, children: list[EncodedTask]) -> tuple[PartRecord, ...]:
        parts = tuple(_parts(children, self.max_payload - _PART_ROOM_BYTES))
        if len(parts) > MAX_PARTS:
            raise SendTaskError(
                f"the children are {len(parts)} parts of up to {self.max_payload} bytes, and a group has at most "
                f"{MAX_PARTS}: store their data elsewhere, or spawn several groups"
            )
        return parts

    def _encoded(self, task: BaseTask, which: str, room: int) -> EncodedTask:
        try:
            registered = self.registry.of(task)
            body = registered.codec.encode(task)
        except TaskDefinitionError as error:
            raise TaskDefinitionError(f"{which}: {error}") from error
        except MalformedTaskError as error:
            raise MalformedTaskError(f"{which}: {error}") from error
        if len(body) > room:
            raise SendTaskError(
                f"{which}: the fields of {registered.name} are {len(body)} bytes as JSON, over the {room} that leave "
                f"room for headers within the server's max_payload, {self.max_payload}: store the data elsewhere, and "
                "spawn where it is"
            )
        return EncodedTask(registered.name, registered.queue, body, registered.task_class.result_ttl_seconds)


def child_headers(group: str, record: GroupRecord, number: int, part: PartRecord) -> Iterator[dict[str, str]]:
    """The headers of each child of a part, in their order."""
    first = record.starts[number]
    # They differ in four headers. To check and encode the labels for each child would cost more than all the rest.
    shared = _child_envelope(group, record, first).to_headers()
    for index, task in enumerate(part.children, first):
        identity = child_id(group, index)
        yield shared | {
            TASK_NAME: part.tasks[task],
            TASK_ID: identity,
            MSG_ID: identity,
            TASK_GROUP: place(group, index),
        }


def _child_envelope(group: str, record: GroupRecord, index: int) -> Envelope:
    return Envelope(
        name="a:Child",
        id=child_id(group, index),
        submitted=record.spawned,
        parent=record.parent,
        group=place(group, index),
        labels=record.labels,
        traceparent=record.traceparent,
    )


def _header_bytes(group: str, record: GroupRecord) -> int:
    headers = _child_envelope(group, record, MAX_CHILDREN).to_headers()
    return sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def _identity() -> tuple[str, str | None]:
    """The id of the group that this context spawns, and that of its parent."""
    parent, execution = current_task_id.get(), current_parent.get()
    if parent is None or execution is None:
        return uuid4().hex, parent
    number, execution.groups = execution.groups, execution.groups + 1
    return group_id(parent, number), parent


def _checked_ttl(seconds: float) -> float:
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or math.isnan(seconds) or not 0 < seconds <= MAX_TTL_SECONDS:
        raise ValueError(
            f"ttl_seconds is {seconds!r}; write a number of seconds above 0, at most {MAX_TTL_SECONDS}, 365 days"
        )
    return float(seconds)


def _checked_labels(labels: Mapping[str, Any] | None) -> dict[str, Any]:
    if not isinstance(labels, Mapping | None):
        raise MalformedTaskError(f"the labels are a {type(labels).__name__}; write a mapping, name: value")
    return dict(labels or {})


def _listed(children: Iterable[BaseTask]) -> Iterator[BaseTask]:
    if isinstance(children, BaseTask | str | bytes) or not isinstance(children, Iterable):
        raise TypeError(f"the children are a {type(children).__name__}; give a list of tasks")
    for index, child in enumerate(children):
        if index >= MAX_CHILDREN:
            raise ValueError(f"a group has at most {MAX_CHILDREN} children: spawn several groups")
        yield child


def _parts(children: list[EncodedTask], max_bytes: int) -> Iterator[PartRecord]:
    """Divide the children, in their order, into parts of at most 1,000 that fit into one message."""
    some: list[EncodedTask] = []
    names: set[str] = set()
    size = 0
    for child in children:
        costs = _CHILD_BYTES + len(child.body) + (0 if child.name in names else len(child.name) + _TASK_BYTES)
        if some and (len(some) == MAX_PART_CHILDREN or size + costs > max_bytes):
            yield _part(some)
            some, names, size = [], set(), 0
            costs = _CHILD_BYTES + len(child.body) + len(child.name) + _TASK_BYTES
        some.append(child)
        names.add(child.name)
        size += costs
    if some:
        yield _part(some)


def _part(children: list[EncodedTask]) -> PartRecord:
    tasks = {child.name: child.queue for child in children}
    position = {name: at for at, name in enumerate(tasks)}
    return PartRecord(
        tasks=tuple(tasks),
        queues=tuple(f"{priority}.{size}" for priority, size in tasks.values()),
        children=tuple(position[child.name] for child in children),
        bodies=tuple(msgspec.Raw(child.body) for child in children),
    )


def _digest(tasks: Iterable[EncodedTask]) -> str:
    found = hashlib.sha256()
    for task in tasks:
        found.update(b"%b %d %b" % (task.name.encode(), len(task.body), task.body))
    return found.hexdigest()
