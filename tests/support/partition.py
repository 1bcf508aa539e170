"""A cluster whose servers can be cut off from each other, while their clients still reach them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import permutations
from typing import Final

from diracx.tasks.plumbing.embedded.cluster import ClusteredServer, EmbeddedCluster
from support.tcp_proxy import TcpProxy

# Nobody listens there. By their real addresses the servers would go round the proxies.
NO_ADDRESS: Final = "127.0.0.1:1"


class PartitionableCluster(EmbeddedCluster):
    """Three servers; all routes between them pass through proxies on the event loop of the test."""

    def __init__(self) -> None:
        super().__init__()
        self._proxies: dict[tuple[str, str], TcpProxy] = {}
        """By the names of the server that connects, and of the one that it connects to."""

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[PartitionableCluster]:
        """Start the servers, and end them at the end of the block."""
        cluster = cls()
        async with AsyncExitStack() as stack:
            for server in cluster.servers:
                told = server.extra_config.replace("cluster {", f'cluster {{ advertise: "{NO_ADDRESS}",')
                server.extra_config = told
            for one, (other, url) in permutations(zip(cluster.servers, cluster.route_urls, strict=True), 2):
                proxy = await stack.enter_async_context(TcpProxy(url))
                cluster._proxies[one[0].name, other.name] = proxy
                one[0].extra_config = one[0].extra_config.replace(url, proxy.url)
            try:
                # The proxies need the event loop meanwhile.
                await asyncio.to_thread(cluster.start)
                yield cluster
            finally:
                await asyncio.to_thread(cluster.close)

    def cut_off(self, server: ClusteredServer) -> None:
        """Drop the routes of one server, and refuse new ones."""
        for names, proxy in self._proxies.items():
            if server.name in names:
                proxy.sever()

    def mend(self) -> None:
        """Let all routes pass again."""
        for proxy in self._proxies.values():
            proxy.unblock()
