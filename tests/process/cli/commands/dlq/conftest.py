"""Fixtures for the tests of `dlq`."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.topology import ensure
from support.command_line import CommandLine, OnTheServer
from support.dead_letters import Morgue


@pytest.fixture
async def morgue(with_server: CommandLine, on_the_server: OnTheServer) -> Morgue:
    await ensure(on_the_server.connection, assets(on_the_server.names))
    return Morgue(on_the_server.connection, on_the_server.names)
