"""The replicas of a mesh on a server that stands alone, or that does not tell this user."""

from __future__ import annotations

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.replicas import catching_up, read_replicas
from diracx.tasks.plumbing.wire.names import Namespace
from support.connecting import connect

LIMITED = """
authorization { users: [{ user: limited, password: p, permissions: {
    publish: { allow: ["$JS.API.INFO"] }, subscribe: { allow: ["_INBOX_test.>"] } } }] }
"""


async def test_on_a_server_that_stands_alone_nothing_is_behind(connection: Connection, topology: Namespace) -> None:
    assert catching_up(await read_replicas(connection, assets(topology))) == []


async def test_what_is_missing_is_left_out(connection: Connection, names: Namespace) -> None:
    assert await read_replicas(connection, assets(names)) == []


async def test_what_this_user_may_not_look_at_is_left_out() -> None:
    with EmbeddedServer(extra_config=LIMITED) as server:
        async with connect(server, user="limited", password="p") as limited:
            assert await read_replicas(limited, assets(Namespace())) == []
