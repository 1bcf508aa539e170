"""What others do, and what is lost, while a group is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import SendTaskError, ServerUnavailableError
from diracx.tasks.plumbing.execution.execution import Execution
from diracx.tasks.plumbing.groups import enqueuer
from diracx.tasks.plumbing.groups.enqueuer import GroupEnqueuer
from diracx.tasks.plumbing.groups.records import callback_id, part_id
from diracx.tasks.plumbing.groups.spawning import Spawner
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.errors import NotConnectedError, RequestTimeoutError
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import delete_message, purge_subject
from diracx.tasks.plumbing.submitter import current_parent, current_task_id
from support.dying import Died, DyingConnection, dying
from support.mesh import TaskMesh
from support.spawned import ALL, After, children, ids, in_queues, later, part_of, record_of

GROUP = "0192-0"
OLD = timedelta(-1)  # for which every part is old


@pytest.fixture
async def mesh(mesh: TaskMesh) -> TaskMesh:
    mesh.register(*ALL)
    mesh.allows_residue = True
    current_task_id.set("0192")
    current_parent.set(Execution())
    return mesh


@pytest.fixture
async def ours(server: EmbeddedServer, mesh: TaskMesh) -> AsyncIterator[DyingConnection]:
    """The connection of whoever spawns."""
    async with dying(server.url) as connection:
        yield connection


async def spawn(connection: DyingConnection, mesh: TaskMesh) -> str:
    return await JetStreamBroker(connection, mesh.namespace, mesh.registry).spawn(children(2), After())


def part_subject(mesh: TaskMesh) -> str:
    return mesh.namespace.group_part_subject(GROUP, 0)


async def end_first(mesh: TaskMesh) -> None:
    """The first child ends, as its worker writes it."""
    part = msgspec.structs.replace(await part_of(mesh, GROUP), statuses="s.")
    await publish(mesh.connection, part_subject(mesh), msgspec.json.encode(part), {"Nats-Rollup": "sub"})


class Nth:
    """Has something happen before the messages on one subject, from the nth on."""

    def __init__(self, subject: str, first: int, last: int, happens: object) -> None:
        self._subject, self._first, self._last, self._happens = subject, first, last, happens
        self._seen = 0

    async def __call__(self, subject: str) -> None:
        if subject != self._subject:
            return
        self._seen += 1
        if self._first <= self._seen <= self._last:
            if isinstance(self._happens, Exception):
                raise self._happens
            assert callable(self._happens)
            await self._happens()


async def test_a_child_that_ends_before_its_part_is_marked_stays_ended(ours: DyingConnection, mesh: TaskMesh) -> None:
    # The first message on that subject is in the batch of the group.
    ours.before = Nth(part_subject(mesh), 2, 2, lambda: end_first(mesh))
    await spawn(ours, mesh)
    part = await part_of(mesh, GROUP)
    assert (part.stored, part.bodies, part.statuses) == (True, (), "s.")
    assert await later(mesh, mesh.namespace.delayed_subject(part_id(GROUP, 0))) is None


async def test_a_part_that_others_keep_writing_is_left_to_a_worker(ours: DyingConnection, mesh: TaskMesh) -> None:
    ours.before = Nth(part_subject(mesh), 2, 99, lambda: end_first(mesh))
    await spawn(ours, mesh)
    assert not (await part_of(mesh, GROUP)).stored
    assert await later(mesh, mesh.namespace.delayed_subject(part_id(GROUP, 0))) is not None
    assert await GroupEnqueuer(mesh.connection, mesh.namespace).store_part(GROUP, 0)
    assert (await part_of(mesh, GROUP)).stored
    assert await in_queues(mesh) == ids(GROUP, 2)


async def test_a_part_that_a_worker_marks_first_is_left_so(ours: DyingConnection, mesh: TaskMesh) -> None:
    worker = GroupEnqueuer(mesh.connection, mesh.namespace)
    ours.before = Nth(part_subject(mesh), 2, 2, lambda: worker.store_part(GROUP, 0))
    await spawn(ours, mesh)
    assert (await part_of(mesh, GROUP)).stored
    assert await in_queues(mesh) == ids(GROUP, 2)


async def test_a_part_that_is_removed_meanwhile_is_not_written_again(ours: DyingConnection, mesh: TaskMesh) -> None:
    async def remove() -> None:
        await purge_subject(mesh.connection, mesh.namespace.later_stream, part_subject(mesh))

    ours.before = Nth(part_subject(mesh), 2, 2, remove)
    await spawn(ours, mesh)
    assert await later(mesh, part_subject(mesh)) is None


async def test_children_that_end_while_an_old_part_is_searched_are_not_stored_again(
    server: EmbeddedServer, mesh: TaskMesh
) -> None:
    async with dying(server.url, 6) as connection:
        with pytest.raises(Died):
            await spawn(connection, mesh)

    async def end_all() -> None:
        part = msgspec.structs.replace(await part_of(mesh, GROUP), statuses="ss")
        await publish(mesh.connection, part_subject(mesh), msgspec.json.encode(part), {"Nats-Rollup": "sub"})
        for message in await mesh.stored(mesh.namespace.tasks_stream):
            await delete_message(mesh.connection, mesh.namespace.tasks_stream, message.sequence)

    async with dying(server.url) as connection:
        worker = GroupEnqueuer(connection, mesh.namespace, search_after=OLD)
        connection.before = Nth(f"$JS.API.DIRECT.GET.{mesh.namespace.tasks_stream}", 1, 1, end_all)
        assert await worker.store_part(GROUP, 0)
    part = await part_of(mesh, GROUP)
    assert (part.stored, part.statuses) == (True, "ss")
    assert await in_queues(mesh) == []


async def test_a_connection_that_is_lost_while_a_part_is_stored_is_waited_for(
    ours: DyingConnection, mesh: TaskMesh
) -> None:
    await spawn(ours, mesh)
    ours.before = Nth(f"$JS.API.STREAM.MSG.GET.{mesh.namespace.later_stream}", 1, 2, NotConnectedError("lost"))
    assert await GroupEnqueuer(ours, mesh.namespace).store_part(GROUP, 0)
    ours.before = Nth(f"$JS.API.STREAM.MSG.GET.{mesh.namespace.later_stream}", 1, 99, NotConnectedError("lost"))
    with pytest.raises(ServerUnavailableError, match=r"^lost$"):
        await GroupEnqueuer(ours, mesh.namespace).store_part(GROUP, 0)


async def test_a_connection_that_is_lost_before_the_group_is_stored_is_waited_for(
    ours: DyingConnection, mesh: TaskMesh
) -> None:
    ours.before = Nth(part_subject(mesh), 1, 1, NotConnectedError("lost"))
    assert await spawn(ours, mesh) == GROUP
    assert await in_queues(mesh) == ids(GROUP, 2)


async def test_a_group_whose_stored_one_cannot_be_read_is_an_error(ours: DyingConnection, mesh: TaskMesh) -> None:
    await spawn(ours, mesh)
    current_parent.set(Execution())
    get = f"$JS.API.STREAM.MSG.GET.{mesh.namespace.later_stream}"
    ours.before = Nth(get, 1, 1, RequestTimeoutError(get, 5))
    with pytest.raises(SendTaskError, match=rf"^the group {GROUP} is not known to be stored: no reply from"):
        await spawn(ours, mesh)


async def test_the_rest_of_a_group_whose_record_was_removed_is_an_error_with_the_remedy(
    ours: DyingConnection, mesh: TaskMesh
) -> None:
    await spawn(ours, mesh)
    await purge_subject(mesh.connection, mesh.namespace.later_stream, mesh.namespace.group_subject(GROUP))
    current_parent.set(Execution())
    callback = mesh.namespace.delayed_subject(callback_id(GROUP))
    with pytest.raises(SendTaskError, match=rf"^the group {GROUP} was not stored: .*; purge {callback} from "):
        await spawn(ours, mesh)
    await purge_subject(mesh.connection, mesh.namespace.later_stream, callback)
    await purge_subject(mesh.connection, mesh.namespace.later_stream, part_subject(mesh))
    current_parent.set(Execution())
    assert await spawn(ours, mesh) == GROUP
    assert await record_of(mesh, GROUP) is not None


async def test_a_message_of_a_part_that_cannot_be_deleted_stays_until_it_is_due(
    ours: DyingConnection, mesh: TaskMesh
) -> None:
    delete = f"$JS.API.STREAM.MSG.DELETE.{mesh.namespace.later_stream}"
    ours.before = Nth(delete, 1, 1, RequestTimeoutError(delete, 5))
    assert await spawn(ours, mesh) == GROUP
    assert await later(mesh, mesh.namespace.delayed_subject(part_id(GROUP, 0))) is not None


async def test_a_server_that_does_not_answer_leaves_the_children_to_a_worker(
    ours: DyingConnection, mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(enqueuer, "_AT_ONCE_SECONDS", 0.1)
    ours.before = Nth(part_subject(mesh), 2, 2, asyncio.Event().wait)
    assert await spawn(ours, mesh) == GROUP
    assert "are left to a worker, which stores them in their queues: no answer within 0.1 s" in caplog.text


@pytest.mark.parametrize(("happens_before", "stored"), [(1, []), (2, ids(GROUP, 2))])
async def test_a_write_that_the_server_refuses_leaves_the_part_to_a_worker(
    ours: DyingConnection, mesh: TaskMesh, caplog: pytest.LogCaptureFixture, happens_before: int, stored: list[str]
) -> None:
    names = mesh.namespace
    subject, stream = (
        (names.task_subject(Priority.NORMAL, Size.LARGE), names.tasks_stream)
        if happens_before == 1
        else (part_subject(mesh), names.later_stream)
    )
    ours.before = Nth(subject, happens_before, happens_before, lambda: mesh.edit_stream(stream, max_msg_size=64))
    assert await spawn(ours, mesh) == GROUP
    assert "are left to a worker, which stores them in their queues: JetStream says: " in caplog.text
    assert await in_queues(mesh) == stored
    await mesh.edit_stream(stream, max_msg_size=-1)
    assert await GroupEnqueuer(mesh.connection, names).store_part(GROUP, 0)
    assert await in_queues(mesh) == ids(GROUP, 2)


async def test_an_answer_that_was_lost_is_no_second_group(ours: DyingConnection, mesh: TaskMesh) -> None:
    current_task_id.set(None)
    spawner = Spawner(mesh.registry, ours.max_payload, datetime.now(UTC))
    group = await spawner.new_group(children(2), After(), 60, None, None)
    store = GroupEnqueuer(ours, mesh.namespace)
    for _ in range(2):  # as the broker repeats it
        await store.spawn(group, 10)
    assert await in_queues(mesh) == ids(group.id, 2)
    assert ours.sent == 8 + 4
