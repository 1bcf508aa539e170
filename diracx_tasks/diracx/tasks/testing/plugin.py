"""The pytest plugin: fixtures `nats_server` and `mesh` for whoever tests tasks."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer, EmbeddedServerError, find_nats_server
from diracx.tasks.testing.mesh import Mesh


@pytest.fixture(scope="session")
def nats_server() -> Iterator[EmbeddedServer]:
    """A real nats-server on a free port of the loopback, for the whole session; see its `url`.

    Without the program the test fails, in one line that says what to install; nothing is skipped.
    """
    try:
        find_nats_server()
    except EmbeddedServerError as error:
        pytest.fail(str(error), pytrace=False)
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
async def mesh(nats_server: EmbeddedServer) -> AsyncIterator[Mesh]:
    """A mesh in a namespace of this test's own, with the installed tasks; needs pytest-asyncio in auto mode.

    `task.schedule()` is bound to it. The test fails if it leaves locks held or messages unsettled.
    """
    async with Mesh.on(nats_server.url, f"test_{secrets.token_hex(6)}") as mesh:
        yield mesh
