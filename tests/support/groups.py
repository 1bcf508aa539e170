"""Groups that are stored by hand, record by record: complete, or with parts that are odd or missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.groups.records import (
    GroupRecord,
    OutcomesRecord,
    PartRecord,
    StoredOutcome,
    callback_id,
    child_id,
    place,
)
from diracx.tasks.plumbing.groups.store import JetStreamGroupStore
from diracx.tasks.plumbing.jetstream.headers import schedule_headers
from diracx.tasks.plumbing.jetstream.publish import MAX_BATCH_MESSAGES, BatchMessage, publish, publish_batch
from diracx.tasks.plumbing.jetstream.stream_messages import read_message, subjects_of
from diracx.tasks.plumbing.wire.envelope import MSG_ID, Envelope
from support.mesh import TaskMesh

DAY = timedelta(days=1)


@dataclass
class StoredGroup:
    """A group in the streams of a mesh."""

    mesh: TaskMesh
    id: str
    children: Sequence[BaseTask]
    store: JetStreamGroupStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = JetStreamGroupStore(self.mesh.connection, self.mesh.namespace)

    async def record(self) -> GroupRecord:
        """Its record."""
        stored = await self.store.read_group(self.id)
        assert stored is not None
        return stored.record

    async def part(self, number: int = 0) -> PartRecord:
        """The record of one part."""
        stored = await self.store.read_part(self.id, number)
        assert stored is not None
        return stored.record

    async def letters(self) -> str:
        """The letters of all children."""
        parts = [await self.part(number) for number in range(len((await self.record()).starts))]
        return "".join(part.statuses or "." * len(part.children) for part in parts)

    async def outcomes(self, number: int = 0) -> dict[int, StoredOutcome]:
        """What is stored of the outcomes of one part, by index."""
        return {each.index: each async for each in self.store.read_outcomes(self.id, number)}

    async def outcome_records(self) -> list[OutcomesRecord]:
        """The records of outcomes."""
        later, prefix = self.mesh.namespace.later_stream, self.mesh.namespace.group_subject(self.id)
        subjects = await subjects_of(self.mesh.connection, later, f"{prefix}.outcomes.>")
        read = [await read_message(self.mesh.connection, later, last_by_subj=subject) for subject in sorted(subjects)]
        return [msgspec.json.decode(each.body, type=OutcomesRecord) for each in read if each is not None]

    async def holds_callback(self) -> bool:
        """Whether the callback waits for its time."""
        return await self.store.read_callback(self.id) is not None


async def store_group(
    mesh: TaskMesh,
    children: Sequence[BaseTask],
    callback: BaseTask,
    *,
    group: str = "parent-0",
    part_size: int = 1_000,
    ttl: timedelta = DAY,
    queued: bool = True,
    callback_headers: Mapping[str, str] | None = None,
    traceparent: str | None = None,
) -> StoredGroup:
    """Store a group as a spawner does, in parts of that size.

    Args:
        ttl: How long after now the callback runs at the latest.
        queued: Whether the children are stored in their queues.
        callback_headers: Further headers of the callback.
        traceparent: Of the children and of the callback.
    """
    now = await _now(mesh)
    starts = tuple(range(0, len(children), part_size))
    record = GroupRecord(
        spawned=now,
        ttl_seconds=ttl.total_seconds(),
        children=len(children),
        starts=starts,
        callback=mesh.registry.of(callback).name,
    )
    headers = {**(callback_headers or {}), **({"traceparent": traceparent} if traceparent else {})}
    records = [BatchMessage(mesh.namespace.group_subject(group), msgspec.json.encode(record), {})]
    for number, begin in enumerate(starts):
        records.append(_part_message(mesh, group, number, children[begin : begin + part_size], queued))
    records.append(_callback_message(mesh, group, callback, now + ttl, headers))
    await publish_batch(mesh.connection, records)
    if queued:
        messages = [_child_message(mesh, group, index, child, traceparent) for index, child in enumerate(children)]
        for begin in range(0, len(messages), MAX_BATCH_MESSAGES):
            await publish_batch(mesh.connection, messages[begin : begin + MAX_BATCH_MESSAGES])
    return StoredGroup(mesh, group, children)


async def _now(mesh: TaskMesh) -> datetime:
    await mesh.state(mesh.namespace.later_stream)  # sets the clock
    return mesh.connection.clock.now()


def _callback_message(
    mesh: TaskMesh, group: str, callback: BaseTask, due: datetime, headers: Mapping[str, str]
) -> BatchMessage:
    registered = mesh.registry.of(callback)
    envelope = Envelope(name=registered.name, id=callback_id(group), callback=group, parent="parent")
    held = {**envelope.to_headers(), **headers, **schedule_headers(due, mesh.namespace.due_subject(*registered.queue))}
    del held[MSG_ID]
    return BatchMessage(mesh.namespace.delayed_subject(callback_id(group)), registered.codec.encode(callback), held)


def _part_message(mesh: TaskMesh, group: str, number: int, children: Sequence[BaseTask], stored: bool) -> BatchMessage:
    known = [mesh.registry.of(child) for child in children]
    names = list(dict.fromkeys(each.name for each in known))
    queues = {each.name: ".".join(each.queue) for each in known}
    bodies = (
        ()
        if stored
        else tuple(msgspec.Raw(each.codec.encode(child)) for each, child in zip(known, children, strict=True))
    )
    record = PartRecord(
        tasks=tuple(names),
        queues=tuple(queues[name] for name in names),
        children=tuple(names.index(each.name) for each in known),
        bodies=bodies,
        stored=stored,
    )
    return BatchMessage(mesh.namespace.group_part_subject(group, number), msgspec.json.encode(record), {})


def _child_message(mesh: TaskMesh, group: str, index: int, child: BaseTask, traceparent: str | None) -> BatchMessage:
    registered = mesh.registry.of(child)
    envelope = Envelope(
        name=registered.name,
        id=child_id(group, index),
        parent="parent",
        group=place(group, index),
        traceparent=traceparent,
    )
    subject = mesh.namespace.task_subject(*registered.queue)
    return BatchMessage(subject, registered.codec.encode(child), envelope.to_headers())


async def overwrite(mesh: TaskMesh, subject: str, body: bytes) -> None:
    """Store a record by hand in place of another."""
    await publish(mesh.connection, subject, body, {"Nats-Rollup": "sub"})
