"""Groups on a server with the accounts of `nats/`: who may spawn them, and who stores their children."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import SendTaskError
from diracx.tasks.plumbing.groups.enqueuer import GroupEnqueuer
from diracx.tasks.plumbing.groups.records import part_id
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from support.dying import dying
from support.mesh import TaskMesh
from support.secured import connected, secured_server, settings_for
from support.spawned import After, children, ids, in_queues, later, part_of, registry

NAMES = Namespace()


@pytest.fixture(scope="module")
def secured() -> Iterator[EmbeddedServer]:
    with secured_server(NAMES.name) as server:
        yield server


@pytest.fixture
async def mesh(secured: EmbeddedServer) -> AsyncIterator[TaskMesh]:
    """What an operator sees."""
    async with connected(secured, NAMES.name, "operator") as connection:
        await ensure(connection, assets(NAMES), tolerant=False)
        mesh = TaskMesh(JetStreamBroker(connection, NAMES, registry()))
        yield mesh
        await mesh.remove()


def broker_of(connection: Connection) -> JetStreamBroker:
    return JetStreamBroker(connection, NAMES, registry())


@pytest.mark.parametrize("role", ["producer", "worker", "operator"])
async def test_who_may_submit_may_spawn(
    secured: EmbeddedServer, mesh: TaskMesh, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(secured, NAMES.name, role) as connection:
        broker = broker_of(connection)
        first, second = [await broker.spawn(children(2), After()) for _ in range(2)]
    assert await in_queues(mesh) == [*ids(first, 2), *ids(second, 2)]
    for group in (first, second):
        assert (await part_of(mesh, group)).stored
        left = await later(mesh, mesh.namespace.delayed_subject(part_id(group, 0)))
        # A producer may not delete it. It falls due, and a worker finds that nothing is to be done.
        assert (left is not None) == (role == "producer")
    assert "ermission" not in caplog.text


@pytest.mark.parametrize("role", ["scheduler", "observer"])
async def test_others_may_not(secured: EmbeddedServer, mesh: TaskMesh, role: str) -> None:
    async with connected(secured, NAMES.name, role) as connection:
        with pytest.raises(SendTaskError, match=r"group\..* did not take the group: no permission for publish"):
            await broker_of(connection).spawn(children(2), After())
    assert (await mesh.state(mesh.namespace.later_stream))["messages"] == await mesh.waiting() == 0


async def test_a_producer_leaves_a_part_that_has_changed_to_a_worker(
    secured: EmbeddedServer, mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    settings, inbox = settings_for(secured, NAMES.name, "producer"), NAMES.inbox_prefix("producer")
    async with dying(settings, inbox_prefix=inbox) as connection:
        seen = 0

        async def end_first(subject: str) -> None:
            nonlocal seen
            seen += ".part." in subject
            if ".part." in subject and seen == 2:
                (child, _) = await in_queues(mesh)
                part = msgspec.structs.replace(await part_of(mesh, child.removesuffix("-0")), statuses="s.")
                await mesh.connection.request(subject, msgspec.json.encode(part), headers={"Nats-Rollup": "sub"})

        connection.before = end_first
        group = await broker_of(connection).spawn(children(2), After())
    assert not (await part_of(mesh, group)).stored
    assert await later(mesh, mesh.namespace.delayed_subject(part_id(group, 0))) is not None
    assert not caplog.messages
    async with connected(secured, NAMES.name, "worker") as worker:
        assert await GroupEnqueuer(worker, NAMES).store_part(group, 0)
    assert (await part_of(mesh, group)).stored


async def test_a_worker_may_look_for_the_children_of_an_old_part(secured: EmbeddedServer, mesh: TaskMesh) -> None:
    group = await mesh.broker.spawn(children(1_001), After())
    async with connected(secured, NAMES.name, "worker") as connection:
        worker = GroupEnqueuer(connection, NAMES, search_after=timedelta(-1))
        assert await worker.store_part(group, 1)
        assert await worker.store_part(group, 0)
    stored = [each for each in await in_queues(mesh) if "-part-" not in each]  # whose messages are due as well
    assert stored == [*ids(group, 1, first=1_000), *ids(group, 1_000)]
