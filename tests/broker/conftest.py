"""A mesh for each test, removed at its end: the space that its streams reserve would fill a shared server.

`mesh` is one with a broker, in which what a test leaves behind without saying so fails it. `topology` is the bare
streams, consumers and buckets, and `names` their names before they exist.
"""

from __future__ import annotations

import asyncio
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
from support.mesh import Mesh


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[Mesh]:
    async with Mesh.open(server.url, namespace) as mesh:
        yield mesh
        try:
            if not mesh.leaves_something_behind:
                await _see_that_nothing_is_left(mesh)
        finally:
            await mesh.remove()


async def _see_that_nothing_is_left(mesh: Mesh) -> None:
    residue: dict[str, int] = {}

    async def nothing_is_left() -> bool:
        residue.clear()
        residue.update(await mesh.residue())
        return not residue

    try:
        # The server takes acks in a queue of its own, a moment after they were sent.
        await wait_until(nothing_is_left, description="nothing is left behind", timeout=5)
    except AssertionError:
        pytest.fail(f"left behind: {residue}", pytrace=False)


@pytest.fixture
async def connection(server: EmbeddedServer) -> AsyncIterator[Connection]:
    """A connection of this test to the shared server."""
    settings = ConnectionSettings(servers=(server.url,))
    async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as opened:
        yield opened


@pytest.fixture
async def names(connection: Connection, namespace: str) -> AsyncIterator[Namespace]:
    """The names of a mesh that does not exist; what the test creates of it is removed."""
    yield Namespace(namespace)
    streams = (await connection.api("STREAM.NAMES")).get("streams") or []
    ours = [name for name in streams if name.removeprefix("KV_").lower().startswith(f"{namespace}_")]
    await asyncio.gather(*(connection.api(f"STREAM.DELETE.{name}") for name in ours))


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
