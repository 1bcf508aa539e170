"""Disturbs a run at random moments."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from diracx.tasks.plumbing.clock import boottime
from disturbances import Disturbances, Span
from seat import Seat
from servers import AWAY_SECONDS, READY_SECONDS, Servers
from support.tcp_proxy import TcpProxy


class Killers:
    """Kills, stops and cuts off processes at random moments.

    Args:
        proxies: One for each seat, or none.
        seconds: The time within which every disturbance begins.
        every: The servers are killed at this interval, in seconds, ready again or not; None: at random moments.
    """

    def __init__(
        self,
        servers: Servers,
        seats: Sequence[Seat],
        proxies: Sequence[TcpProxy],
        disturbances: Disturbances,
        seconds: float,
        choose: random.Random,
        every: float | None = None,
    ) -> None:
        self._servers = servers
        self._seats = seats
        self._proxies = proxies
        self._disturbances = disturbances
        self._seconds = seconds
        self._choose = choose
        self._every = every

    async def run(self, *, workers: int, server: int, restarts: int, stops: int, cuts: int) -> None:
        """Carry out each disturbance the given number of times."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._times(workers, self._kill_a_worker), name="worker kills")
            kills = self._times(server, self._kill_a_server) if self._every is None else self._kill_steadily(server)
            group.create_task(kills, name="server kills")
            group.create_task(self._times(restarts, self._servers.restart), name="restarts of servers")
            group.create_task(self._times(stops, self._stop_a_worker), name="stops")
            group.create_task(self._times(cuts, self._cut_a_connection), name="cuts")

    async def _times(self, count: int, disturb: Callable[[], Awaitable[None]]) -> None:
        started = boottime()
        for moment in sorted(self._choose.uniform(0, self._seconds) for _ in range(count)):
            await asyncio.sleep(max(0.0, started + moment - boottime()))
            await disturb()

    async def _kill_a_worker(self) -> None:
        while not self._choose.choice(self._seats).kill():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.05)

    async def _kill_a_server(self, ready_seconds: float = READY_SECONDS) -> None:
        await self._servers.kill(self._choose, ready_seconds)

    async def _kill_steadily(self, count: int) -> None:
        assert self._every is not None
        for _ in range(count):
            begun = boottime()
            # A server that has not caught up in time must not delay the next kill.
            await self._kill_a_server(max(0.0, self._every - AWAY_SECONDS))
            await asyncio.sleep(max(0.0, begun + self._every - boottime()))

    async def _stop_a_worker(self) -> None:
        past_the_lease = self._disturbances.ack_wait + self._choose.uniform(0.5, 2)
        await self._choose.choice(self._seats).stop_for(past_the_lease)

    async def _cut_a_connection(self) -> None:
        place = self._choose.randrange(len(self._proxies))
        seat, begun = self._seats[place], boottime()
        pids = {seat.pid}
        # From shorter than a lease to well past it.
        seconds = self._choose.uniform(0.5, 2) * self._disturbances.ack_wait
        await self._proxies[place].cut(seconds, silently=self._choose.random() < 0.5)
        for pid in pids | {seat.pid}:
            if pid is not None:
                self._disturbances.cuts.setdefault(pid, []).append(Span(begun, boottime()))
