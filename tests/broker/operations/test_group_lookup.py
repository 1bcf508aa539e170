"""A group as an operator sees it, by its own id and by those of its parent, its children and its callback."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from diracx.tasks.plumbing.cancellations.note import Kind, Note
from diracx.tasks.plumbing.groups.records import Ended, GroupRecord, PartRecord
from diracx.tasks.plumbing.operations import group_lookup
from diracx.tasks.plumbing.operations.group_lookup import GroupReader
from diracx.tasks.plumbing.operations.status import StatusReader
from diracx.tasks.plumbing.operations.task_document import State
from diracx.tasks.plumbing.wire.envelope import (
    TASK_CALLBACK,
    TASK_ID,
    TASK_NAME,
)
from support.mesh import TaskMesh
from support.recording_tasks import Record
from support.task_lookups import find, put

AT = datetime(2026, 12, 1, 6, tzinfo=UTC)


GROUP = GroupRecord(spawned=AT, ttl_seconds=3_600, children=3, starts=(0, 2), callback="test:Record", parent="parent")


FIRST = PartRecord(tasks=("test:Record",), queues=("normal.small",), children=(0, 0), stored=True, statuses="s.")


SECOND = PartRecord(tasks=("test:Wait",), queues=("normal.small",), children=(0,))


async def test_a_group_tells_how_many_children_have_ended_and_its_parent_its_children_and_callback_name_it(
    mesh: TaskMesh,
) -> None:
    mesh.register(Record)
    mesh.allows_residue = True
    names, group = mesh.namespace, "parent-0"
    await put(mesh, names.group_subject(group), GROUP)
    await put(mesh, names.group_part_subject(group, 0), FIRST)
    await put(mesh, names.group_part_subject(group, 1), SECOND)
    schedule = {"Nats-Schedule": "@at 2099-01-01T00:00:00Z", "Nats-Schedule-Target": f"{names.name}.due.normal.small"}
    callback = {TASK_NAME: "test:Record", TASK_ID: f"{group}-callback", TASK_CALLBACK: group}
    await put(mesh, names.delayed_subject(f"{group}-callback"), {"n": 1}, **schedule, **callback)
    wanted = (group, f"{group}-callback", "parent", f"{group}-0", f"{group}-2", f"{group}-3")
    whole, follows, parent, ended, waits, unknown = [await find(mesh, each) for each in wanted]
    says = "1 of 3 children have ended; test:Record runs after the last one, at 2026-12-01T07:00:00Z at the latest"
    assert (whole.state, whole.parent, whole.why) == (State.GROUP, "parent", [says])
    assert whole.groups[0].counts == {"waiting": 2, "succeeded": 1, "failed": 0, "expired": 0, "cancelled": 0}
    assert (follows.state, follows.callback_of, follows.why) == (State.DELAYED, group, [says])
    assert (parent.state, [each.id for each in parent.groups]) == (State.DONE, [group])
    assert (ended.state, ended.status, ended.task, ended.index) == (State.DONE, "succeeded", "test:Record", 0)
    assert (waits.state, waits.task, waits.index) == (State.DELAYED, "test:Wait", 2)
    assert waits.why[0].startswith(f"it is child 2 of group {group}, and is not stored in its queue yet")
    assert unknown.state is State.UNKNOWN
    await put(mesh, names.group_subject("odd"), "no record")
    assert (await find(mesh, "odd")).state is State.UNKNOWN
    note = Note(kind=Kind.GROUP, key=group, at=AT, by="alice")
    await put(mesh, names.cancelled_subject("group", group), note)
    status = (await StatusReader(mesh.connection, names).read()).status
    assert (status.groups, status.cancelled) == (1, 1)
    cancelled = (await find(mesh, group)).why[0]
    assert cancelled.startswith("alice has cancelled its children at ")
    assert cancelled.endswith("; those in their queues are dropped when their turn comes")
    done = msgspec.structs.replace(GROUP, ended="complete", ended_at=AT, children=3)
    await put(mesh, names.group_subject(group), done, **{"Nats-Rollup": "sub"})
    assert await GroupReader(mesh.connection, names).open_groups() == 0
    assert (await find(mesh, group)).why[1:] == ["all 3 children have ended, and test:Record was let go"]


@pytest.mark.parametrize(
    ("ended", "state", "says"),
    [
        ("complete", State.DONE, "all 3 children have ended, and test:Record was let go"),
        ("expired", State.DONE, "its time was over with 2 of 3 children ended, and test:Record was let go"),
        ("cancelled", State.CANCELLED, "an operator has withdrawn its callback test:Record"),
    ],
)
async def test_a_callback_that_was_let_go_is_known_by_its_group(
    mesh: TaskMesh, ended: Ended, state: State, says: str
) -> None:
    group, names = "parent-0", mesh.namespace
    await put(mesh, names.group_subject(group), msgspec.structs.replace(GROUP, ended=ended, ended_at=AT))
    for number, part in enumerate((FIRST, msgspec.structs.replace(SECOND, statuses="c"))):
        await put(mesh, names.group_part_subject(group, number), part)
    found = await find(mesh, f"{group}-callback")
    assert (found.state, found.task, found.callback_of) == (state, "test:Record", group)
    assert found.why[0] == f"it follows the group {group}: {says}"
    assert found.why[1:] == ["it has ended and kept no result, or moves at this moment"] * (state is State.DONE)


async def test_the_groups_of_a_task_and_odd_records_are_told_as_far_as_they_can_be_read(mesh: TaskMesh) -> None:
    mesh.register(Record)
    mesh.allows_residue = True
    names, empty = mesh.namespace, msgspec.structs.replace(GROUP, children=0, starts=())
    parent = await Record(1).schedule()
    for number in range(2):
        await put(mesh, names.group_subject(f"{parent}-{number}"), empty)
    waits = await find(mesh, parent)
    assert (waits.state, waits.groups) == (State.WAITING, []), "it has not begun"
    await mesh.burst()
    assert [group.id for group in (await find(mesh, parent)).groups] == [f"{parent}-0", f"{parent}-1"]
    # The record of the group outlives those of its parts.
    await put(mesh, names.group_subject("old"), GROUP)
    old = await find(mesh, "old")
    assert (old.state, old.groups[0].counts) == (State.GROUP, {})
    assert (await find(mesh, "old-0")).state is State.UNKNOWN


async def test_groups_are_not_counted_where_that_would_take_long(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_lookup, "MAX_COUNTED", 1)
    mesh.allows_residue = True
    for number in range(2):
        await put(mesh, mesh.namespace.group_subject(f"g-{number}"), GROUP)
    assert await GroupReader(mesh.connection, mesh.namespace).open_groups() is None
