"""Naks with a delay leave together, at each full tenth of a second, in all workers of a mesh.

The server finds what is due by a scan of everything of a queue that is not settled, and each nak with a delay puts its
next scan off until 10 ms later (`processNak` in the consumer.go of nats-server 2.15). So where more than about a
hundred come in a second, one by one, there is no scan: neither a retry is delivered, nor what a killed worker had in
hand, for as long as it goes on. That is what a failing database does to a mesh. With naks in clumps, and nothing
between two of them, there is room for a scan ten times a second, however many there are.

The beat is that of the wall clock, so that workers keep it together without a word. Clocks that are some milliseconds
apart make the clump as much wider; a clock that is wrong altogether costs its worker nothing.

A delay counts from when it was asked for, so what waits for the beat comes back no later; what is shorter than a beat
does not wait. The lease is looked at again when the nak leaves. A message that waits here is not in hand any more, and
nobody beats it.

What a crash leaves behind: a message whose nak had not left comes back when its lease lapses, and if it failed, its
record has the time before which nobody executes it. While there is no connection they wait for it, as long as their
leases hold.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.worker.leases import Lease

logger = logging.getLogger("diracx.tasks.worker")

BEAT: Final = timedelta(seconds=0.1)
"""Long beside the 10 ms that a scan needs before it, and short beside any delay that somebody would notice."""


class DelayedNaks:
    """Those of one worker that have yet to leave.

    Args:
        beat: How far apart they leave.
        clock: By which the delays are counted.
    """

    def __init__(self, beat: timedelta = BEAT, clock: Clock = boottime) -> None:
        self._beat = beat
        self._clock = clock
        self._waiting: list[tuple[Lease, float]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def send(self, lease: Lease, delay: timedelta) -> None:
        """Have a message delivered again, no earlier than after `delay`.

        Raises:
            ServerUnavailableError: No connection, and a delay too short to wait for one.
        """
        if delay <= self._beat:
            lease.delivery.nak(delay)
            return
        self._waiting.append((lease, self._clock() + delay.total_seconds()))
        self._await_beat()

    async def close(self) -> None:
        """Send what still waits: the worker ends. Without a connection it is left to the leases."""
        if self._leaving is not None:
            await asyncio.wait([self._leaving])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._leave()

    def _await_beat(self) -> None:
        if self._timer is None:
            seconds = self._beat.total_seconds()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds - time.time() % seconds, self._on_beat)

    def _on_beat(self) -> None:
        self._timer = None
        if self._leaving is None or self._leaving.done():
            self._leaving = asyncio.create_task(self._leave(), name="delayed naks")
            self._leaving.add_done_callback(self._left)
        else:
            self._await_beat()

    def _left(self, leaving: asyncio.Task[None]) -> None:
        if not leaving.cancelled() and self._waiting:
            self._await_beat()

    async def _leave(self) -> None:
        waiting, self._waiting = self._waiting, []
        for index, (lease, until) in enumerate(waiting):
            if lease.remaining <= 0:
                continue
            try:
                lease.delivery.nak(timedelta(seconds=max(0.0, until - self._clock())))
            except ServerUnavailableError as error:
                logger.debug("%d messages wait to be given back: %s", len(waiting) - index, error)
                self._waiting[:0] = waiting[index:]
                return
