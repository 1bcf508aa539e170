"""Fixtures for the tests of the commands."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from support.command_line import CommandLine


@pytest.fixture
def restricted(own_server: EmbeddedServer, extension: CommandLine, namespace: str) -> CommandLine:
    """The command line of a user with no permission but to read the account's information."""
    own_server.extra_config = (
        "authorization { users: [{ user: me, password: secret, permissions: {"
        f'publish: ["$JS.API.INFO"], subscribe: ["_INBOX_{namespace}_operator.>"] }} }}] }}'
    )
    own_server.reload()
    extension.environment |= {
        "DIRACX_TASKS_NATS_URL": own_server.url,
        "DIRACX_TASKS_USER": "me",
        "DIRACX_TASKS_PASSWORD": "secret",
    }
    return extension
