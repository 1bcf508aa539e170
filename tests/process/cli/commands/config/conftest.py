"""Fixtures for the tests of `config`."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from support.command_line import CommandLine, OnTheServer


@pytest.fixture
async def bucket(with_server: CommandLine, on_the_server: OnTheServer) -> ConfigurationBucket:
    """The bucket that the commands of `with_server` read and write."""
    await on_the_server.set_up()
    return ConfigurationBucket(on_the_server.connection, on_the_server.names, author="alice@node1")
