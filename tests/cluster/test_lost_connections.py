"""The server of a client goes away while a request waits for its answer."""

from __future__ import annotations

import asyncio

from diracx.tasks.plumbing.embedded.cluster import EmbeddedCluster
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.testing import wait_until
from support.tcp_proxy import TcpProxy


async def test_a_request_that_may_be_repeated_is_answered_by_the_next_server(cluster: EmbeddedCluster) -> None:
    first, second, _ = cluster.servers
    async with TcpProxy(first.url) as proxy:
        settings = ConnectionSettings(servers=(proxy.url, second.url))
        # nats-py tries the servers in any order at the first connect.
        async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
            if connection.server != proxy.url:
                await connection.client.leave_server()
                await wait_until(lambda: connection.server == proxy.url, description="it is behind the proxy")
                assert await connection.wait_connected(30)
            generation, sent = connection.generation, connection.client.stats["out_msgs"]
            proxy.block()
            asking = asyncio.create_task(connection.api("INFO"))
            await wait_until(lambda: connection.client.stats["out_msgs"] > sent, description="the request is out")
            proxy.sever()
            assert "limits" in await asking
            assert connection.generation > generation
