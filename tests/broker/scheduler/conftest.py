"""A mesh for schedulers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from support.scheduling import SchedulingMesh


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[SchedulingMesh]:
    async with SchedulingMesh.open(server.url, namespace) as mesh:
        yield mesh
        await mesh.remove()
