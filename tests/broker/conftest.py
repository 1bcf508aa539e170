"""A mesh for each test, removed at its end: the space that its streams reserve would fill a shared server.

`mesh` has a broker. It fails a test that leaves messages, records or locks behind, unless the test sets
`allows_residue`. `topology` creates the streams, consumers and buckets alone; `names` only names them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.dead_letters import DeadLetterBox
from support.mesh import TaskMesh
from support.queues import remove_mesh


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[TaskMesh]:
    async with TaskMesh.open(server.url, namespace) as mesh:
        yield mesh
        try:
            if not mesh.allows_residue:
                await _fail_on_residue(mesh)
        finally:
            await mesh.remove()


async def _fail_on_residue(mesh: TaskMesh) -> None:
    residue: dict[str, int] = {}

    async def nothing_is_left() -> bool:
        residue.clear()
        residue.update(await mesh.residue())
        return not residue

    try:
        # The server queues acks, and applies them a moment after they were sent.
        await wait_until(nothing_is_left, description="nothing is left behind", timeout=5)
    except AssertionError:
        pytest.fail(f"left behind: {residue}", pytrace=False)


@pytest.fixture
async def connection(server: EmbeddedServer) -> AsyncIterator[Connection]:
    """A connection to the shared server, for this test alone."""
    settings = ConnectionSettings(servers=(server.url,))
    async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as opened:
        yield opened


@pytest.fixture
async def names(connection: Connection, namespace: str) -> AsyncIterator[Namespace]:
    """The names of a mesh that does not exist; streams that the test creates under them are removed."""
    yield Namespace(namespace)
    await remove_mesh(connection, Namespace(namespace))


@pytest.fixture
async def topology(connection: Connection, names: Namespace) -> Namespace:
    """The names of a mesh that exists."""
    await ensure(connection, assets(names))
    return names


@pytest.fixture
def bucket(connection: Connection, topology: Namespace) -> Bucket:
    """The bucket of locks of `topology`."""
    return Bucket(connection, topology.locks_bucket)


@pytest.fixture
def box(connection: Connection, topology: Namespace) -> DeadLetterBox:
    """The dead letters of `topology`."""
    return DeadLetterBox(connection, topology)
