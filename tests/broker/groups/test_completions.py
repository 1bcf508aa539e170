"""Groups of children to their end, on a real server: one letter for each child, and one callback after the last."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.execution.job import Discarded, Outcome
from diracx.tasks.plumbing.groups.completions import GroupCompletions
from diracx.tasks.plumbing.groups.records import Ended, callback_id, child_id
from diracx.tasks.plumbing.groups.store import Change, JetStreamGroupStore
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.stream_messages import purge_subject, read_message
from diracx.tasks.plumbing.wire.envelope import MSG_ID
from diracx.tasks.plumbing.worker.isolation import POISON_AFTER_CRASHES
from diracx.tasks.testing import wait_until
from support.deliveries import leave_crashes
from support.group_tasks import After, Child, Mortal, after_callback, called, completed, delayed
from support.groups import overwrite, store_group
from support.measuring import context_of, links_of, measuring, parent_of
from support.mesh import TaskMesh

HOUR = timedelta(hours=1)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@asynccontextmanager
async def writes(mesh: TaskMesh, group: str) -> AsyncIterator[Counter[str]]:
    """How often each record of a group was published, tries that were refused included."""
    counted: Counter[str] = Counter()
    prefix = mesh.namespace.group_subject(group)

    def count(message: Received) -> None:
        counted[message.subject.removeprefix(prefix)] += 1

    subscription = await mesh.connection.client.listen(f"{prefix}.>", count)
    await mesh.connection.client.flush()
    yield counted
    await mesh.connection.client.flush()
    await mesh.connection.client.leave(subscription)


@pytest.mark.parametrize(("children", "most"), [(1, 1), (60, 20), (1_000, 150)])
async def test_children_of_one_worker_share_writes_and_the_callback_follows_the_last(
    mesh: TaskMesh, children: int, most: int
) -> None:
    group = await store_group(mesh, [Child()] * children, After())
    async with writes(mesh, group.id) as counted:
        await mesh.burst(slots=100)
    assert await group.letters() == "s" * children
    assert counted.total() == counted[".part.0"] <= most
    record = await group.record()
    assert (record.ended, record.ended_parts) == (Ended.COMPLETE, (0,))
    outcomes = await after_callback(mesh)
    assert [each.status for each in outcomes] == ["succeeded"] * children
    assert outcomes[-1].id == child_id(group.id, children - 1)
    assert not await delayed(mesh)


async def test_the_only_slot_of_a_worker_is_free_for_the_next_child_while_one_is_counted(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, write = 0, JetStreamGroupStore.write

    class Counted(Child):
        async def execute(self) -> None:
            nonlocal begun
            begun += 1

    async def held(self: JetStreamGroupStore, change: Change) -> tuple[dict[int, int], int]:
        # When the fourth has begun, the second and the third have ended: they go together into the next write.
        await wait_until(lambda: begun > 3, description="three more children have begun")
        return await write(self, change)

    monkeypatch.setattr(JetStreamGroupStore, "write", held)
    mesh.register(Counted)
    group = await store_group(mesh, [Counted()] * 100, After())
    async with writes(mesh, group.id) as counted:
        await mesh.burst(slots=1)
    assert await group.letters() == "s" * 100
    assert counted[".part.0"] < 100, "no two children shared a write"
    assert len(await after_callback(mesh)) == 100


async def test_several_workers_share_a_part_without_a_storm(mesh: TaskMesh) -> None:
    children = 600
    group = await store_group(mesh, [Child()] * children, After())
    async with writes(mesh, group.id) as tries:
        await asyncio.gather(*(mesh.burst(slots=10) for _ in range(4)))
    assert await group.letters() == "s" * children
    assert tries[".part.0"] < children, "they contend in vain"
    assert len(await after_callback(mesh)) == children


async def test_a_group_of_several_parts_ends_with_its_last_part(mesh: TaskMesh) -> None:
    group = await store_group(mesh, [Child(fails=index % 7 == 0) for index in range(50)], After(), part_size=8)
    await asyncio.gather(*(mesh.burst(slots=5) for _ in range(3)))
    record = await group.record()
    assert (record.ended, record.ended_parts) == (Ended.COMPLETE, (0, 1, 2, 3, 4, 5, 6))
    outcomes = await after_callback(mesh)
    assert [each.index for each in outcomes if each.status == "failed"] == list(range(0, 50, 7))
    assert {each.error.message for each in outcomes if each.error} == {"it was told to"}


async def test_however_a_child_ends_it_counts(mesh: TaskMesh) -> None:
    mesh.allows_residue = True  # the dead letters
    group = await store_group(
        mesh,
        [Child(), Child(fails=True), Mortal(fails=True), Child(), Child(), Child(), Child()],
        After(),
        queued=False,
    )
    ids = {index: {"Task-Group": f"{group.id}:{index}", "Task-Id": child_id(group.id, index)} for index in range(7)}
    named = {index: headers | {"Task-Name": "test:Child"} for index, headers in ids.items()}
    *_, poison = await mesh.publish_by_hand(
        (named[0], b"{}"),
        (named[1], b'{"fails": true}'),
        (ids[2] | {"Task-Name": "test:Mortal"}, b'{"fails": true}'),
        (named[3] | {"Task-Expires": "2020-01-01T00:00:00Z"}, b"{}"),
        (named[4], b"no JSON"),
        (ids[5] | {"Task-Name": "test:Nowhere"}, b"{}"),
        (named[6], b"{}"),
    )
    await leave_crashes(mesh, poison, POISON_AFTER_CRASHES)
    async with mesh.working(unknown_tries=1):
        await wait_until(lambda: called, description="the callback has run")
    ((_, outcomes),) = called
    assert [(each.status, each.error and each.error.type) for each in outcomes] == [
        ("succeeded", None),
        ("failed", "ValueError"),
        ("failed", "ValueError"),
        ("expired", "TaskExpiredError"),
        ("failed", "TaskNeverRanError"),
        ("failed", "TaskNeverRanError"),
        ("failed", "TaskNeverRanError"),
    ]


async def test_a_child_that_comes_again_after_its_completion_changes_nothing(mesh: TaskMesh) -> None:
    group = await store_group(mesh, [Child(), Child()], After())
    await mesh.burst()
    await after_callback(mesh)
    before = await mesh.state(mesh.namespace.later_stream)
    headers = {"Task-Name": "test:Child", "Task-Group": f"{group.id}:1", MSG_ID: "again"}
    await mesh.publish_by_hand((headers, b'{"fails": true}'))
    await mesh.burst()
    assert await group.letters() == "ss"
    assert (await mesh.state(mesh.namespace.later_stream))["last_seq"] == before["last_seq"]
    assert len(called) == 1


async def test_the_callback_runs_at_the_end_of_the_time_and_sees_who_is_missing(mesh: TaskMesh) -> None:
    group = await store_group(mesh, [Child(), Child()], After(), ttl=timedelta(seconds=0.3), queued=False)
    await completed(group, GroupCompletions(group.store, mesh.connection.clock), 1)
    assert [each.status for each in await after_callback(mesh)] == ["missing", "succeeded"]
    await completed(group, GroupCompletions(group.store, mesh.connection.clock), 0)
    assert ((await group.record()).ended, len(called)) == (Ended.EXPIRED, 1)
    await mesh.burst()
    assert len(called) == 1


async def test_children_of_a_group_that_is_over_are_settled(mesh: TaskMesh, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await store_group(mesh, [Child()] * 20, After(), group="gone")
    await purge_subject(mesh.connection, mesh.namespace.later_stream, f"{mesh.namespace.name}.group.>")
    await mesh.broker.cancel(callback_id("gone"))
    await mesh.burst()
    assert [line for line in caplog.messages if "gone" in line] == [
        "the group gone is over, and its records are gone: further completions change nothing"
    ]


@pytest.mark.parametrize(
    ("which", "body", "why"),
    [
        ("", b"no JSON", "cannot be read: JSON is malformed"),
        ("", b'{"spawned":"2026-12-01T06:00:00Z","ttl_seconds":1,"children":3,"starts":[0,9],"callback":"a:B"}', "fit"),
        (
            "",
            b'{"spawned":"2026-12-01T06:00:00Z","ttl_seconds":1e300,"children":3,"starts":[0],"callback":"a:B"}',
            "ttl",
        ),
        (
            "",
            b'{"spawned":"2026-12-01T06:00:00","ttl_seconds":1,"children":3,"starts":[0],"callback":"a:B"}',
            "spawned",
        ),
        (".part.0", b'{"tasks":[],"queues":[],"children":[0,0,0],"statuses":"s"}', "not one status for each"),
        (".part.0", b'{"tasks":[],"queues":[],"children":[0]}', "has not the children that it should have"),
    ],
)
async def test_children_of_a_group_whose_record_cannot_be_read_are_settled_and_the_callback_runs_in_its_time(
    mesh: TaskMesh, which: str, body: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    group = await store_group(mesh, [Child()] * 3, After(), ttl=HOUR)
    await overwrite(mesh, mesh.namespace.group_subject(group.id) + which, body)
    await mesh.burst()
    (line,) = [line for line in caplog.messages if "does not count all completions" in line]
    assert why in line
    assert await group.holds_callback()


async def test_what_callbacks_cannot_read_ends_them_at_once(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    group = await store_group(mesh, [Child()], After())
    await mesh.burst()
    await overwrite(mesh, mesh.namespace.group_outcomes_subject(group.id, 0, 0), b"no JSON")
    await wait_until(mesh.waiting, description="the callback is due")
    outcomes: list[Outcome] = []
    await mesh.burst(on_outcome=lambda _, __, outcome: outcomes.append(outcome))
    (outcome,) = outcomes
    assert isinstance(outcome, Discarded)
    assert "cannot be had" in str(outcome)
    assert "outcomes.0.0 cannot be read" in str(outcome)


async def test_a_child_that_ends_before_its_part_is_marked_as_stored_marks_it(mesh: TaskMesh) -> None:
    group = await store_group(mesh, [Child(), Child()], After(), queued=False)
    assert len((await group.part()).bodies) == 2
    await completed(group, GroupCompletions(group.store, mesh.connection.clock), 0)
    part = await group.part()
    assert (part.stored, part.bodies, part.statuses) == (True, (), "s.")


async def test_values_come_back_as_json_in_as_many_records_as_they_need(mesh: TaskMesh) -> None:
    group = await store_group(mesh, [Child()] * 4, After(), queued=False)
    large = "x" * (mesh.connection.max_payload // 2 - 10_000)
    completions = GroupCompletions(group.store, mesh.connection.clock)
    await completed(group, completions, 0, 1, 2, value=[large])
    await completed(group, completions, 3, value={"a": (1, None)})
    assert sorted(len(each.outcomes) for each in await group.outcome_records()) == [1, 1, 2]
    outcomes = await after_callback(mesh)
    assert [each.value for each in outcomes] == [[large]] * 3 + [{"a": [1, None]}]


async def test_what_is_written_lives_as_long_as_the_group(mesh: TaskMesh) -> None:
    group = await store_group(mesh, [Child()], After(), ttl=HOUR, queued=False)
    await completed(group, GroupCompletions(group.store, mesh.connection.clock), 0, value=1)
    subject, later = mesh.namespace.group_subject(group.id), mesh.namespace.later_stream
    day, hour = 86_400, 3_600
    for name, seconds in ((subject, 7 * day), (f"{subject}.part.0", day), (f"{subject}.outcomes.0.0", day)):
        message = await read_message(mesh.connection, later, last_by_subj=name)
        assert message is not None
        assert abs(int(message.headers["Nats-TTL"].removesuffix("s")) - hour - seconds) <= 5
    await after_callback(mesh)


async def test_the_trace_of_the_parent_goes_on_in_the_children_and_in_the_callback(
    server: EmbeddedServer, namespace: str
) -> None:
    with measuring() as measured:
        async with TaskMesh.open(server.url, namespace) as mesh:
            mesh.register(Child, After)
            await store_group(mesh, [Child()], After(), traceparent=PARENT)
            await mesh.burst()
            await after_callback(mesh)
            await mesh.remove()
    child, after = measured.named("process")
    _, trace, span, _ = PARENT.split("-")
    for one in (child, after):
        assert parent_of(one) == (int(trace, 16), int(span, 16))
        assert links_of(one) == [(int(trace, 16), int(span, 16))]
    assert context_of(child) != context_of(after)
