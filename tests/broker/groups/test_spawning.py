"""Groups as they are spawned: stored wholly or not at all, and once, whoever dies when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import pytest

from diracx.tasks.plumbing.callbacks import spawn_with_callback
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import MalformedTaskError, SendTaskError, TaskDefinitionError
from diracx.tasks.plumbing.groups import enqueuer
from diracx.tasks.plumbing.groups.enqueuer import GroupEnqueuer
from diracx.tasks.plumbing.groups.records import Ended, callback_id
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, delete_message
from diracx.tasks.plumbing.wire.times import from_rfc3339
from diracx.tasks.testing import wait_until
from support.dying import Died, dying
from support.mesh import TaskMesh
from support.queues import edit_stream
from support.sample_tasks import Greet
from support.spawned import (
    ALL,
    After,
    Child,
    UrgentChild,
    as_parent,
    children,
    ids,
    in_queues,
    later,
    part_of,
    record_of,
)

T = TypeVar("T")

LEFT = 3
"""The messages of a group of one part once its children are stored: its record, its callback, its part."""


@pytest.fixture
async def mesh(mesh: TaskMesh) -> TaskMesh:
    """With tasks that spawn and are spawned; no worker ends them."""
    mesh.register(*ALL)
    mesh.allows_residue = True
    return mesh


async def spawned_later(mesh: TaskMesh) -> int:
    return int((await mesh.state(mesh.namespace.later_stream))["messages"])


async def shorten_window(mesh: TaskMesh) -> None:
    """Have the queues tell duplicates for 0.1 s only. Before the first message: the server has a timer running then."""
    await edit_stream(mesh.connection, mesh.namespace.tasks_stream, duplicate_window=100_000_000)


async def forget_duplicates(mesh: TaskMesh) -> None:
    """Wait until queues with a short window have forgotten the ids of all messages that they have stored so far."""
    subject, probe = f"{mesh.namespace.name}.tasks.background.small", {"Nats-Msg-Id": "a probe"}
    await publish(mesh.connection, subject, b"{}", probe)

    async def forgotten() -> bool:
        ack = await publish(mesh.connection, subject, b"{}", probe)
        if not ack.duplicate:
            await delete_message(mesh.connection, mesh.namespace.tasks_stream, ack.seq)
        return not ack.duplicate

    await wait_until(forgotten, description="the queues have forgotten the probe")
    first = (await mesh.stored(mesh.namespace.tasks_stream, subject))[0]
    await delete_message(mesh.connection, mesh.namespace.tasks_stream, first.sequence)


async def test_children_are_in_their_queues_and_the_callback_is_held(mesh: TaskMesh) -> None:
    tasks = [Child(0), UrgentChild(1, "x"), Child(2)]
    group = await spawn_with_callback(tasks, After("last"), redis=object(), ttl_seconds=60, labels={"vo": "lhcb"})
    stored = {each.headers["Task-Id"]: each for each in await mesh.stored(mesh.namespace.tasks_stream)}
    assert list(stored) == ids(group, 3)
    ns = mesh.namespace.name
    assert [(each.subject, each.body) for each in stored.values()] == [
        (f"{ns}.tasks.normal.large", b'{"n":0,"text":""}'),
        (f"{ns}.tasks.realtime.medium", b'{"n":1,"text":"x"}'),
        (f"{ns}.tasks.normal.large", b'{"n":2,"text":""}'),
    ]
    assert [each.headers["Task-Group"] for each in stored.values()] == [f"{group}:{index}" for index in range(3)]
    assert {each.headers["Task-Labels"] for each in stored.values()} == {'{"vo":"lhcb"}'}
    record, part = await record_of(mesh, group), await part_of(mesh, group)
    assert record is not None
    assert (record.children, record.starts, record.callback, record.parent) == (3, (0,), "test:After", None)
    assert (part.stored, part.bodies, part.waiting) == (True, (), 3)
    held = await later(mesh, mesh.namespace.delayed_subject(callback_id(group)))
    assert held is not None
    assert held.body == b'{"note":"last"}'
    assert held.headers["Task-Callback"] == group
    assert from_rfc3339(held.headers["Nats-Schedule"].removeprefix("@at ")) == record.spawned + timedelta(seconds=60)
    assert held.headers["Nats-Schedule-Target"] == f"{ns}.due.normal.large"
    # The message for a worker is gone.
    assert await spawned_later(mesh) == LEFT


async def test_a_group_is_kept_for_a_time_after_its_callback_has_run_at_the_latest(mesh: TaskMesh) -> None:
    group = await spawn_with_callback([Child(0)], After(), ttl_seconds=60)
    day = 86_400
    record = await later(mesh, mesh.namespace.group_subject(group))
    part = await later(mesh, mesh.namespace.group_part_subject(group, 0))
    assert record is not None
    assert part is not None
    assert record.headers["Nats-TTL"] == f"{7 * day + 60}s"
    assert day < int(part.headers["Nats-TTL"].removesuffix("s")) <= day + 60


async def test_without_children_the_callback_runs_at_once(mesh: TaskMesh) -> None:
    group = await spawn_with_callback([], After("alone"))
    await wait_until(mesh.waiting, description="the callback is due", timeout=20)
    (callback,) = await mesh.stored(mesh.namespace.tasks_stream)
    assert (callback.headers["Task-Id"], callback.headers["Task-Callback"]) == (callback_id(group), group)
    record = await record_of(mesh, group)
    assert record is not None
    assert record.ended is Ended.COMPLETE
    assert record.ended_at == record.spawned


async def test_the_callback_runs_when_the_time_to_live_is_over(mesh: TaskMesh) -> None:
    group = await spawn_with_callback([UrgentChild(0)], After(), ttl_seconds=1)

    async def due() -> bool:
        return await in_queues(mesh) == [*ids(group, 1), callback_id(group)]

    await wait_until(due, description="the callback is due, after the child", timeout=20)


async def test_workers_store_the_children_of_several_parts(mesh: TaskMesh) -> None:
    tasks = [*children(1_000), *(UrgentChild(n) for n in range(1_000, 1_003))]
    group = await spawn_with_callback(tasks, After())
    # Of these tasks the workers know none, so they stay.
    unknown = {"registry": type(mesh.registry)(), "unknown_delay": timedelta(minutes=5)}
    async with mesh.working(size="large", **unknown), mesh.working(size="medium", **unknown):

        async def stored() -> bool:
            return {*ids(group, 1_003)} <= {*await in_queues(mesh)}

        await wait_until(stored, description="all children are in their queues", timeout=20)
        await wait_until(lambda: no_storing_message(mesh), description="the messages of the parts are settled")
    assert sorted(await in_queues(mesh)) == sorted(ids(group, 1_003))
    assert [(await part_of(mesh, group, number)).stored for number in (0, 1)] == [True, True]


async def no_storing_message(mesh: TaskMesh) -> bool:
    messages = await mesh.stored(mesh.namespace.tasks_stream)
    return all("Task-Part" not in message.headers for message in messages)


@pytest.mark.parametrize("lives", range(9))
async def test_a_parent_killed_at_any_point_has_one_group_when_it_runs_again(
    server: EmbeddedServer, mesh: TaskMesh, lives: int
) -> None:
    async with dying(server.url, lives) as connection:
        broker = JetStreamBroker(connection, mesh.namespace, mesh.registry)
        if lives == 8:
            await as_parent(lambda: broker.spawn(children(2), After()))
            assert connection.sent == 8  # so no step is left out here
        else:
            with pytest.raises(Died):
                await as_parent(lambda: broker.spawn(children(2), After()))
    assert await spawned_later(mesh) == (0 if lives < 4 else LEFT + (lives < 8))
    assert await in_queues(mesh) == (ids("0192-0", 2) if lives >= 6 else [])
    assert await as_parent(lambda: mesh.broker.spawn(children(2), After())) == "0192-0"
    assert await in_queues(mesh) == ids("0192-0", 2)
    assert (await part_of(mesh, "0192-0")).stored
    # The message for a worker, if it was left, falls due and changes nothing.
    assert await spawned_later(mesh) == LEFT + (4 <= lives < 8)


@pytest.mark.parametrize("lives", range(6))
async def test_a_worker_killed_at_any_point_leaves_the_rest_of_a_part_to_the_next(
    server: EmbeddedServer, mesh: TaskMesh, lives: int
) -> None:
    async with dying(server.url, 4) as connection:
        with pytest.raises(Died):
            await JetStreamBroker(connection, mesh.namespace, mesh.registry).spawn(children(2), After())
    (group,) = {
        each.subject.split(".")[2]
        for each in await mesh.stored(mesh.namespace.later_stream, f"{mesh.namespace.name}.group.")
    }
    async with dying(server.url, lives) as connection:
        worker = GroupEnqueuer(connection, mesh.namespace)
        if lives == 5:
            assert await worker.store_part(group, 0)
        else:
            with pytest.raises(Died):
                await worker.store_part(group, 0)
    assert await GroupEnqueuer(mesh.connection, mesh.namespace).store_part(group, 0)
    assert await in_queues(mesh) == ids(group, 2)
    assert (await part_of(mesh, group)).stored


async def unmarked(server: EmbeddedServer, mesh: TaskMesh) -> str:
    """A group whose spawner died after it had stored the children, before it marked them as stored."""
    async with dying(server.url, 6) as connection:
        broker = JetStreamBroker(connection, mesh.namespace, mesh.registry)
        with pytest.raises(Died):
            await as_parent(lambda: broker.spawn(children(2), After()))
    assert not (await part_of(mesh, "0192-0")).stored
    return "0192-0"


def old(mesh: TaskMesh) -> GroupEnqueuer:
    """A store for which every part is older than the queues tell duplicates."""
    return GroupEnqueuer(mesh.connection, mesh.namespace, search_after=timedelta(-1))


async def end(mesh: TaskMesh, group: str, statuses: str) -> None:
    """Have the first children of the only part end: their completions are written, and their messages acked."""
    subject = mesh.namespace.group_part_subject(group, 0)
    message = await later(mesh, subject)
    assert message is not None
    part = msgspec.structs.replace(await part_of(mesh, group), statuses=statuses)
    expected = {"Nats-Expected-Last-Subject-Sequence": str(message.sequence), "Nats-Rollup": "sub"}
    await publish(mesh.connection, subject, msgspec.json.encode(part), expected)
    for message, status in zip(await mesh.stored(mesh.namespace.tasks_stream), statuses, strict=False):
        if status != ".":
            await delete_message(mesh.connection, mesh.namespace.tasks_stream, message.sequence)


@pytest.mark.parametrize(("statuses", "left"), [("", [0, 1]), ("s.", [1]), ("sf", [])])
async def test_after_the_window_for_duplicates_children_that_wait_or_have_ended_are_not_stored_again(
    server: EmbeddedServer, mesh: TaskMesh, statuses: str, left: list[int]
) -> None:
    await shorten_window(mesh)
    group = await unmarked(server, mesh)
    await forget_duplicates(mesh)
    if statuses:
        await end(mesh, group, statuses)
    assert await old(mesh).store_part(group, 0)
    assert await in_queues(mesh) == [f"{group}-{index}" for index in left]
    part = await part_of(mesh, group)
    assert (part.stored, part.bodies, part.statuses) == (True, (), statuses)


async def test_after_the_window_children_that_a_replica_does_not_have_yet_are_not_stored_again(
    server: EmbeddedServer, mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lagging(*args: object) -> AsyncIterator[StoredMessage]:
        none: list[StoredMessage] = []
        for message in none:
            yield message

    monkeypatch.setattr(enqueuer, "read_batches", lagging)
    monkeypatch.setattr(Connection, "in_cluster", True)
    await shorten_window(mesh)
    group = await unmarked(server, mesh)
    await forget_duplicates(mesh)
    assert await old(mesh).store_part(group, 0)
    assert await in_queues(mesh) == ids(group, 2)


async def test_after_the_window_children_that_were_never_stored_are_stored(
    server: EmbeddedServer, mesh: TaskMesh
) -> None:
    async with dying(server.url, 4) as connection:
        broker = JetStreamBroker(connection, mesh.namespace, mesh.registry)
        with pytest.raises(Died):
            await as_parent(lambda: broker.spawn(children(2), After()))
    await mesh.broker.spawn([Child(7)], After())  # of another group, in the same queue
    assert await old(mesh).store_part("0192-0", 0)
    assert (await in_queues(mesh))[1:] == ids("0192-0", 2)


@pytest.mark.parametrize(("statuses", "left"), [("", [0, 1]), ("s.", [1]), ("ss", [])])
async def test_a_restarted_server_forgets_ids_and_no_child_is_stored_again(
    own_server: EmbeddedServer, namespace: str, statuses: str, left: list[int]
) -> None:
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        mesh.register(*ALL)
        group = await unmarked(own_server, mesh)
        if statuses:
            await end(mesh, group, statuses)
        own_server.kill()
        await asyncio.to_thread(own_server.start)
        assert await mesh.connection.wait_connected(20)
        assert await as_parent(lambda: mesh.broker.spawn(children(2), After())) == group
        assert await in_queues(mesh) == [f"{group}-{index}" for index in left]


async def test_a_group_that_is_spawned_with_other_tasks_stays_as_it_was_and_a_line_says_so(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    group = await as_parent(lambda: mesh.broker.spawn(children(2), After("first")))
    assert await as_parent(lambda: mesh.broker.spawn(children(2), After("first"))) == group
    assert not caplog.messages
    assert await as_parent(lambda: mesh.broker.spawn(children(3), After("second"))) == group
    (line,) = caplog.messages
    assert line.startswith("the group 0192-0 of 0192 stays as it was spawned first, with 2 children and test:After")
    assert await in_queues(mesh) == ids(group, 2)
    held = await later(mesh, mesh.namespace.delayed_subject(callback_id(group)))
    assert held is not None
    assert held.body == b'{"note":"first"}'


async def test_a_group_that_has_ended_stays_ended_when_its_parent_runs_again(mesh: TaskMesh) -> None:
    group = await as_parent(lambda: mesh.broker.spawn([], After()))
    await wait_until(mesh.waiting, description="the callback is due", timeout=20)
    before = await mesh.state(mesh.namespace.later_stream)
    assert await as_parent(lambda: mesh.broker.spawn([], After())) == group
    assert (await mesh.state(mesh.namespace.later_stream))["last_seq"] == before["last_seq"]
    assert await in_queues(mesh) == [callback_id(group)]


async def test_a_full_queue_delays_the_children_and_nothing_is_lost(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    stream = mesh.namespace.tasks_stream
    await mesh.edit_stream(stream, max_bytes=400)
    group = await as_parent(lambda: mesh.broker.spawn(children(2), After()))
    assert f"the stream {stream} is full" in caplog.text
    assert "are left to a worker" in caplog.text
    assert await in_queues(mesh) == []
    with pytest.raises(SendTaskError, match=f"the stream {stream} is full"):
        await GroupEnqueuer(mesh.connection, mesh.namespace).store_part(group, 0)
    await mesh.edit_stream(stream, max_bytes=-1)
    assert await GroupEnqueuer(mesh.connection, mesh.namespace).store_part(group, 0)
    assert await in_queues(mesh) == ids(group, 2)


async def test_what_is_refused_stores_nothing(mesh: TaskMesh) -> None:
    for some, callback, error in (
        ([Child(0), Child("one")], After(), MalformedTaskError),  # type: ignore[arg-type]
        ([Child(0), Greet("a")], After(), TaskDefinitionError),
        ([Child(0), Child(1, "x" * 1_100_000)], After(), SendTaskError),
        ([Child(0)], After("x" * 1_100_000), SendTaskError),
    ):
        with pytest.raises(error, match=r"^(child 1|the callback): "):
            await spawn_with_callback(some, callback)
    with pytest.raises(ValueError, match="ttl_seconds"):
        await spawn_with_callback([Child(0)], After(), ttl_seconds=0)
    assert await spawned_later(mesh) == await mesh.waiting() == 0


async def test_a_stream_that_takes_no_groups_yet_is_an_error_with_the_remedy(mesh: TaskMesh) -> None:
    stream = mesh.namespace.later_stream
    subjects = (await mesh.connection.api(f"STREAM.INFO.{stream}"))["config"]["subjects"]
    await mesh.edit_stream(stream, subjects=[each for each in subjects if ".group." not in each])
    with pytest.raises(
        SendTaskError,
        match=rf"\.group\..* did not take the group: {stream} is there without .* `diracx-task-run setup`",
    ):
        await spawn_with_callback([Child(0)], After())
    assert await spawned_later(mesh) == await mesh.waiting() == 0


async def test_a_refused_batch_is_an_error_that_names_the_group(mesh: TaskMesh) -> None:
    await mesh.edit_stream(mesh.namespace.later_stream, max_msg_size=64)
    with pytest.raises(SendTaskError, match=r"group\..* did not take the group: JetStream says: "):
        await spawn_with_callback([Child(0)], After())


async def test_a_group_is_spawned_from_the_event_loop_of_another_thread(mesh: TaskMesh) -> None:
    def in_a_thread() -> str:
        return asyncio.run(as_parent(lambda: spawn_with_callback(children(2), After())))

    async with asyncio.timeout(20):
        assert await asyncio.to_thread(in_a_thread) == "0192-0"
    assert await in_queues(mesh) == ids("0192-0", 2)


async def test_groups_whose_records_are_gone_leave_nothing_to_store(mesh: TaskMesh) -> None:
    store = GroupEnqueuer(mesh.connection, mesh.namespace)
    group = await spawn_with_callback([Child(0)], After())
    assert not await store.store_part(group, 1)
    for subject in (mesh.namespace.group_part_subject(group, 0), mesh.namespace.group_subject(group)):
        message = await later(mesh, subject)
        assert message is not None
        await delete_message(mesh.connection, mesh.namespace.later_stream, message.sequence)
        assert not await store.store_part(group, 0)


async def test_a_part_written_by_hand_is_refused_in_one_line(mesh: TaskMesh) -> None:
    store = GroupEnqueuer(mesh.connection, mesh.namespace)
    group = await spawn_with_callback([Child(0)], After())
    subject, part = mesh.namespace.group_part_subject(group, 0), await part_of(mesh, group)
    odd: list[tuple[Any, str]] = [
        ({"tasks": 3}, "cannot be read: "),
        (msgspec.structs.replace(part, stored=False), f"part 0 of the group {group} is broken: "),
        (msgspec.structs.replace(part, stored=False, queues=("high.large",)), "is broken: 'high' is not a valid"),
    ]
    for body, text in odd:
        await publish(mesh.connection, subject, msgspec.json.encode(body), {"Nats-Rollup": "sub"})
        with pytest.raises(MalformedTaskError, match=text):
            await store.store_part(group, 0)
