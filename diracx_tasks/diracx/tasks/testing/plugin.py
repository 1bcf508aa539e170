"""The pytest plugin with the fixtures `nats_server` and `mesh`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer, EmbeddedServerError, find_nats_server
from diracx.tasks.testing.mesh import Mesh


@pytest.fixture(scope="session")
def nats_server() -> Iterator[EmbeddedServer]:
    """A real nats-server on a free port of the loopback interface, for the whole session. Its `url` names it, with
    a password of this session: other users of the host cannot submit tasks.

    If the program `nats-server` is not installed, the test fails with one line that names the package; it is not
    skipped.
    """
    try:
        find_nats_server()
    except EmbeddedServerError as error:
        pytest.fail(str(error), pytrace=False)
    # The tasks of a test run as this user, so nobody else on this host may submit any.
    with EmbeddedServer(password=secrets.token_hex()) as server:
        yield server


@pytest.fixture
async def mesh(nats_server: EmbeddedServer) -> AsyncIterator[Mesh]:
    """A mesh in a namespace of this test's own, with the installed tasks. It needs pytest-asyncio in auto mode.

    `task.schedule()` submits to this mesh. The test fails if it leaves locks held or messages unsettled.
    """
    async with Mesh.on(nats_server.url, f"test_{secrets.token_hex(6)}") as mesh:
        yield mesh
