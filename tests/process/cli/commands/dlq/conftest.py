"""Fixtures for the tests of `dlq`."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.topology import ensure
from support.command_line import CommandLine, OnTheServer
from support.dead_letters import DeadLetterBox


@pytest.fixture
async def box(with_server: CommandLine, on_the_server: OnTheServer) -> DeadLetterBox:
    await ensure(on_the_server.connection, assets(on_the_server.names))
    return DeadLetterBox(on_the_server.connection, on_the_server.names)
