"""What the mesh of a run stands on: one server or a cluster of three, and how they are killed and restarted.

On a cluster the servers are killed for what they lead at that moment: each kill takes the leader of the next one of
`roles`. A server that was killed is started again after a random while, and no second one is killed before it runs.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.embedded.cluster import ClusteredServer, EmbeddedCluster
from diracx.tasks.plumbing.embedded.server import EmbeddedServer, EmbeddedServerError
from diracx.tasks.plumbing.wire.names import Namespace
from disturbances import Disturbances, Needs, Outage
from support.cluster import replicated

META: Final = "the meta leader"
AWAY_SECONDS: Final = 1.5
"""A killed server is away for up to this long."""
READY_SECONDS: Final = 60.0
"""A cluster whose server came back is ready within this time, or the run ends with an error."""
_POLL_SECONDS: Final = 0.2


class Servers(ABC):
    """The servers of a run.

    Args:
        disturbances: Each outage is recorded there.
    """

    url: str
    """For clients; of several servers separated by commas."""

    def __init__(self, disturbances: Disturbances) -> None:
        self._disturbances = disturbances

    @abstractmethod
    async def kill(self, choose: random.Random, ready_seconds: float = READY_SECONDS) -> None:
        """Kill a server with SIGKILL, and start it again after a while.

        Args:
            ready_seconds: How long this waits, at most, until the servers are ready again.
        """

    @abstractmethod
    async def restart(self) -> None:
        """Restart all servers in turn with SIGTERM, each when the one before it is ready again."""

    @abstractmethod
    async def settle(self) -> None:
        """Wait until all servers are ready, and every outage has ended."""


class OneServer(Servers):
    """A single server."""

    def __init__(self, server: EmbeddedServer, disturbances: Disturbances) -> None:
        super().__init__(disturbances)
        self._server = server
        self.url = server.url

    async def kill(self, choose: random.Random, ready_seconds: float = READY_SECONDS) -> None:
        """Kill the server, and start it again after a while."""
        await self._away(self._server.kill, choose.uniform(0, AWAY_SECONDS))

    async def restart(self) -> None:
        """Stop the server, and start it again."""
        await self._away(self._server.stop, 0)

    async def settle(self) -> None:
        """Nothing is left to wait for: `kill` and `restart` return when the server listens."""

    async def _away(self, end: Callable[[], None], seconds: float) -> None:
        begun = boottime()
        await asyncio.to_thread(end)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._server.start)
        self._disturbances.server_outages.append(Outage(begun, boottime()))


class ThreeServers(Servers):
    """A cluster."""

    def __init__(self, cluster: EmbeddedCluster, namespace: Namespace, size: str, disturbances: Disturbances) -> None:
        super().__init__(disturbances)
        self._cluster = cluster
        self.url = cluster.url
        names, consumer = namespace, f"{namespace.tasks_stream}/normal-{size}"
        locks, attempts = f"KV_{names.locks_bucket}", f"KV_{names.attempts_bucket}"
        disturbances.needs = Needs(
            normal=(consumer, names.tasks_stream),
            urgent=(f"{names.tasks_stream}/realtime-{size}", names.tasks_stream),
            end=(attempts, f"KV_{names.results_bucket}", names.later_stream, names.dead_letters_stream),
            locks=(locks,),
        )
        self._roles = itertools.cycle([names.later_stream, names.tasks_stream, consumer, locks, attempts, META])
        self._leading: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        """Ends when the elections after the latest outage are over."""
        self._leading.set_result(0.0)
        self._watching: list[asyncio.Task[None]] = []

    async def kill(self, choose: random.Random, ready_seconds: float = READY_SECONDS) -> None:
        """Kill the leader of the next role, once it has one; wait until the cluster is ready, or the time is over."""
        role = next(self._roles)
        server = await self._leader(role)
        await self._away(server, server.kill, role, choose.uniform(0, AWAY_SECONDS))
        await self._wait_ready(ready_seconds, required=ready_seconds >= READY_SECONDS)

    async def restart(self) -> None:
        """Restart the servers in turn."""
        for server in self._cluster.servers:
            await self._away(server, server.stop, "rolling restart", 0)
            await self._wait_ready(READY_SECONDS)

    async def settle(self) -> None:
        """Wait until all servers are ready, and every outage has ended."""
        await self._wait_ready(READY_SECONDS)
        await asyncio.wait_for(asyncio.gather(*self._watching), READY_SECONDS)

    async def _away(self, server: ClusteredServer, end: Callable[[], None], why: str, seconds: float) -> None:
        led, pids = await asyncio.to_thread(self._led_by, server)
        begun = boottime()
        await asyncio.to_thread(end)
        # Its groups may have leaders before it runs again, or long after.
        leading = asyncio.create_task(self._until_led(led), name=f"elections after {server.name}")
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)
        outage = Outage(begun, boottime(), server.name, led, pids, why=why)
        self._watching.append(asyncio.create_task(self._record(outage, leading), name=f"outage of {server.name}"))
        self._leading = leading

    async def _record(self, outage: Outage, leading: asyncio.Task[float]) -> None:
        led_again = await leading
        ended = max(outage.ended, led_again)
        self._disturbances.server_outages.append(replace(outage, ended=ended, led_again=led_again))

    async def _leader(self, role: str) -> ClusteredServer:
        """Wait for the leader of a stream, a consumer or the cluster."""
        while (leader := (await asyncio.to_thread(self._leaders)).get(role)) is None:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(_POLL_SECONDS)
        return leader

    async def _until_led(self, groups: frozenset[str]) -> float:
        """Wait until these streams and consumers have leaders, and return when that was seen."""
        while not groups <= (await asyncio.to_thread(self._leaders)).keys():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(_POLL_SECONDS)
        return boottime()

    async def _wait_ready(self, seconds: float, required: bool = True) -> None:
        """Wait until all servers are ready, and the elections after the latest outage are over."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._leading)
                await asyncio.to_thread(self._cluster.wait_ready, seconds)
        except (TimeoutError, EmbeddedServerError) as error:
            if required:
                raise EmbeddedServerError(f"{seconds:g} s after one was started: {error or 'no leaders'}") from None

    def _leaders(self) -> dict[str, ClusteredServer]:
        """Who leads each stream and consumer by its own account, and the cluster."""
        return {group: server for server in self._cluster.servers for group in _groups_led(server)}

    def _led_by(self, server: ClusteredServer) -> tuple[frozenset[str], frozenset[int]]:
        """What a server leads, and the processes that are connected to it."""
        try:
            connections = server.monitor("connz?limit=10000")["connections"]
        except EmbeddedServerError:
            return frozenset(), frozenset()
        ends = (str(each.get("name", "")).rpartition("/")[2] for each in connections)
        groups = {group for group, leader in self._leaders().items() if leader is server}
        return frozenset(groups), frozenset(int(end) for end in ends if end.isdecimal())


def _groups_led(server: ClusteredServer) -> list[str]:
    try:
        return groups_led(server.name, server.monitor("jsz?consumers=true"))
    except EmbeddedServerError:
        return []


def groups_led(name: str, state: Mapping[str, Any]) -> list[str]:
    """The streams that a server leads by its own account, the consumers as `<stream>/<consumer>`, and the cluster."""
    accounts = state.get("account_details") or []
    led = [META] if state.get("meta_cluster", {}).get("leader") == name else []
    for stream in (stream for account in accounts for stream in account.get("stream_detail") or []):
        if _leads(name, stream):
            led.append(stream["name"])
        consumers = stream.get("consumer_detail") or []
        led += (f"{stream['name']}/{each['name']}" for each in consumers if _leads(name, each))
    return led


def _leads(name: str, detail: Mapping[str, Any]) -> bool:
    # A server that has just started names itself, without a group, until it takes part in the group.
    cluster = detail.get("cluster") or {}
    return cluster.get("leader") == name and "raft_group" in cluster


@asynccontextmanager
async def started(cluster: bool, namespace: Namespace, size: str, disturbances: Disturbances) -> AsyncIterator[Servers]:
    """Run the servers during the block: on a cluster every stream and bucket has three replicas."""
    if not cluster:
        async with EmbeddedServer(sync_interval="always") as server:
            yield OneServer(server, disturbances)
        return
    three = EmbeddedCluster(sync_interval="always")
    try:
        await asyncio.to_thread(three.start)
        async with replicated(three.url, namespace.name):
            pass
        yield ThreeServers(three, namespace, size, disturbances)
    finally:
        await asyncio.to_thread(three.close)
