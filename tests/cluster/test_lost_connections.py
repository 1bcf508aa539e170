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
        async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:

            async def behind_the_proxy() -> bool:
                # nats-py goes to the servers in any order, also to those that the first one has named.
                if connection.is_connected and connection.server != proxy.url:
                    await connection.client.leave_server()
                return connection.is_connected and connection.server == proxy.url

            await wait_until(behind_the_proxy, description="it is behind the proxy", timeout=60)
            generation, sent = connection.generation, connection.client.stats["out_msgs"]
            proxy.block()
            asking = asyncio.create_task(connection.api("INFO"))
            await wait_until(lambda: connection.client.stats["out_msgs"] > sent, description="the request is out")
            proxy.sever()
            assert "limits" in await asking
            assert connection.generation > generation
