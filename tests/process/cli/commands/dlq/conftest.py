"""Fixtures for the tests of `dlq`."""

from __future__ import annotations

import pytest

from support.command_line import CommandLine, OnTheServer
from support.dead_letters import DeadLetterBox


@pytest.fixture
async def box(with_server: CommandLine, on_the_server: OnTheServer) -> DeadLetterBox:
    await on_the_server.set_up()
    return DeadLetterBox(on_the_server.connection, on_the_server.names)
