"""The replicas of a mesh on a server that stands alone, or that does not tell this user."""

from __future__ import annotations

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets, with_replicas
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.replicas import catching_up, read_replicas
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from support.connecting import connect
from support.queues import edit_stream

LIMITED = """
authorization { users: [{ user: limited, password: p, permissions: {
    publish: { allow: ["$JS.API.INFO"] }, subscribe: { allow: ["_INBOX_test.>"] } } }] }
"""


async def metadata_of(connection: Connection, stream: str) -> dict[str, str]:
    metadata: dict[str, str] = (await connection.api(f"STREAM.INFO.{stream}"))["config"]["metadata"]
    return metadata


async def test_on_a_server_that_stands_alone_nothing_is_behind(connection: Connection, topology: Namespace) -> None:
    assert catching_up(await read_replicas(connection, assets(topology))) == []


async def test_what_is_missing_is_left_out(connection: Connection, names: Namespace) -> None:
    assert await read_replicas(connection, assets(names)) == []


async def test_what_this_user_may_not_look_at_is_left_out() -> None:
    with EmbeddedServer(extra_config=LIMITED) as server:
        async with connect(server, user="limited", password="p") as limited:
            assert await read_replicas(limited, assets(Namespace())) == []


async def test_what_watches_replicas_comes_with_several_and_goes_with_one_beside_what_an_operator_set(
    connection: Connection, topology: Namespace
) -> None:
    stream = topology.later_stream
    before = await metadata_of(connection, stream)
    (several,) = (with_replicas(asset, 3) for asset in assets(topology) if asset.name == stream)
    await edit_stream(connection, stream, metadata={**before, **several.config["metadata"], "team": "ops"})
    wanted = [with_replicas(asset, 1) for asset in assets(topology)]
    assert await ensure(connection, wanted) == [f"updated stream {stream}: metadata"]
    assert await metadata_of(connection, stream) == {**before, "team": "ops"}
    assert await ensure(connection, wanted) == []


async def test_a_mesh_that_is_made_with_one_replica_has_nothing_that_watches_replicas(
    connection: Connection, names: Namespace
) -> None:
    await ensure(connection, [with_replicas(asset, 1) for asset in assets(names, 1)])
    metadata = await metadata_of(connection, names.tasks_stream)
    assert not [key for key in metadata if "peer" in key]
