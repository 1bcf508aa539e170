"""Three nats-servers on loopback that form one JetStream cluster, and end with this process.

The tests of what a cluster changes and `scripts/chaos --cluster` use it. It is no cluster to keep data in: all servers
share this machine and its disk. `nats/cluster/` has the configuration of three durable servers.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from diracx.tasks.plumbing.embedded.server import EmbeddedServer, EmbeddedServerError

SIZE: Final = 3

_READY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.1
_ANSWER_SECONDS: Final = 2.0
_PORTS: Final = range(10_000, 32_000)
"""Systems give higher ones to outgoing connections, also while a server is away that will listen there again."""


class ClusteredServer(EmbeddedServer):
    """One server of an `EmbeddedCluster`.

    Args:
        name: Its name in the cluster, as `cluster.leader` in the answers of the JetStream API has it.
        monitoring_port: The port for health and state, on loopback.
    """

    def __init__(self, name: str, monitoring_port: int, **options: Any) -> None:
        super().__init__(**options)
        self.name = name
        self._monitoring_port = monitoring_port

    @property
    def is_ready(self) -> bool:
        """Whether it runs, knows the leader of the cluster, and has caught up with the streams that it holds."""
        try:
            return bool(self.monitor("healthz")["status"] == "ok")
        except EmbeddedServerError:
            return False

    def monitor(self, path: str) -> dict[str, Any]:
        """Ask the monitoring endpoint, e.g. for `jsz?streams=true`.

        Raises:
            EmbeddedServerError: It does not run, or does not answer.
        """
        try:
            with closing(HTTPConnection("127.0.0.1", self._monitoring_port, timeout=_ANSWER_SECONDS)) as monitoring:
                monitoring.request("GET", f"/{path}")
                content: dict[str, Any] = json.load(monitoring.getresponse())
        except (OSError, HTTPException, ValueError) as error:
            raise EmbeddedServerError(f"{self.name} does not answer on /{path}: {error}") from error
        return content


class EmbeddedCluster:
    """Servers with JetStream on 127.0.0.1 that form one cluster, as a context manager.

        with EmbeddedCluster() as cluster:
            async with JetStreamBroker.connect(cluster.url) as broker: ...

    Streams have the replicas that `assets(namespace, replicas=3)` or `setup --replicas 3` gives them.

    Args:
        size: The number of servers, an odd one.
        store_dir: The directory with a store for each server; None takes temporary ones.
        sync_interval: As for `EmbeddedServer`.
        extra_config: More lines for the configuration of each server.
    """

    def __init__(
        self,
        *,
        size: int = SIZE,
        store_dir: str | os.PathLike[str] | None = None,
        sync_interval: str | None = None,
        extra_config: str = "",
    ) -> None:
        # Routes and monitoring need ports that are known before a server starts.
        free = free_ports(3 * size)
        routes, monitoring, clients = free[:size], free[size : 2 * size], free[2 * size :]
        self.route_urls = [f"nats://127.0.0.1:{port}" for port in routes]
        """Where each server listens for the others, in the order of `servers`."""
        urls = ", ".join(f'"{url}"' for url in self.route_urls)
        self.servers = [
            ClusteredServer(
                f"server-{place}",
                monitoring[place - 1],
                port=clients[place - 1],
                store_dir=None if store_dir is None else Path(store_dir) / f"server-{place}",
                sync_interval=sync_interval,
                extra_config=(
                    f"server_name: server-{place}\n"
                    f"http: 127.0.0.1:{monitoring[place - 1]}\n"
                    f"cluster {{ name: embedded, listen: 127.0.0.1:{routes[place - 1]}, routes: [{urls}] }}\n"
                    f"{extra_config}"
                ),
            )
            for place in range(1, size + 1)
        ]
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """The URLs of all servers, separated by commas; valid also while some do not run."""
        return ",".join(server.url for server in self.servers)

    def start(self) -> None:
        """Start all servers, and wait until the cluster is ready.

        Raises:
            EmbeddedServerError: A server did not start, or the cluster was not ready in time.
        """
        with ThreadPoolExecutor(len(self.servers)) as threads:
            for started in [threads.submit(self._stack.enter_context, server) for server in self.servers]:
                started.result()
        self.wait_ready()

    def wait_ready(self, timeout: float = _READY_SECONDS) -> None:
        """Wait until all servers run and have caught up.

        Raises:
            EmbeddedServerError: Some have not within `timeout` seconds; the text names them.
        """
        deadline = time.monotonic() + timeout
        while behind := [server.name for server in self.servers if not server.is_ready]:
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"not ready after {timeout:g} s: {', '.join(behind)}")
            time.sleep(_POLL_SECONDS)

    def server(self, name: str) -> ClusteredServer:
        """The server with this name.

        Raises:
            KeyError: There is none.
        """
        return {server.name: server for server in self.servers}[name]

    def meta_leader(self) -> ClusteredServer | None:
        """The leader of the cluster, which creates streams and consumers; None: none is elected."""
        for server in self.servers:
            try:
                leader = server.monitor("jsz").get("meta_cluster", {}).get("leader")
            except EmbeddedServerError:
                continue
            if leader:
                return self.server(leader)
        return None

    def close(self) -> None:
        """End all servers, and remove temporary files. Safe to call again."""
        self._stack.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self.close()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on at this moment, and that no outgoing connection is given meanwhile."""
    with ExitStack() as stack:
        found: list[int] = []
        for port in random.sample(_PORTS, len(_PORTS)):
            if len(found) == count:
                break
            with suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
        return found
