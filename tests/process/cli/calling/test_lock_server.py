"""The server for the locks of a `call`: whose it is, and whom it admits."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack

import msgspec
import pytest

from diracx.tasks.cli.calling.lock_server import lock_server
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import AccessRefusedError
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace


async def test_beside_the_dev_of_another_user_a_call_has_a_server_of_its_own_that_admits_nobody_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with EmbeddedServer(password="s3cret") as of_another:
        default = ConnectionSettings(servers=(of_another.address,), by_default=True)
        async with lock_server(default, Namespace(), TaskRegistry()) as connection:
            assert connection.server != of_another.address
            stranger = ConnectionSettings(servers=(connection.server,))
            with pytest.raises(AccessRefusedError):
                async with Connection.open(stranger, name="a test", inbox_prefix="_INBOX_test"):
                    pass
        assert re.search("embedded server serves this call.* authorization refused", capsys.readouterr().err)
        # A server or credentials that the user named are not replaced by others.
        named = msgspec.structs.replace(default, by_default=False)
        with pytest.raises(AccessRefusedError):
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(lock_server(named, Namespace(), TaskRegistry()))
