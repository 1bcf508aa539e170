"""Naks with a delay leave together, at each full tenth of a second, in all workers of a mesh.

The server finds due messages by a scan of all unsettled messages of a queue, and each nak with a delay postpones the
next scan until 10 ms later (`processNak` in consumer.go of nats-server 2.15). So when more than about a hundred such
naks come in a second, one by one, there is no scan for as long as that lasts: neither a retry nor a message of a
killed worker is redelivered. A failing database does that to a mesh. With naks in batches, and none in between, there
is room for ten scans a second, however many naks there are.

Invariants:

- The flush follows the wall clock, so all workers flush together without talking to each other. Clocks some
  milliseconds apart make the batch that much longer; a clock that is wrong altogether costs its worker nothing.
- A delay counts from the call of `send`, so waiting for the flush makes no retry later. A delay shorter than the
  flush interval does not wait.
- The lease is checked again at the flush. A message that waits here is no longer in flight and gets no heartbeat.
- No nak waits across a reconnect. A server that was killed may have forgotten the delivery and have given the message
  to another worker, and the nak would redeliver it from under that one. The naks of retries lose nothing by that:
  ack_replay.py sends them again, because the attempt record keeps every worker from executing the message before its
  time. Any other message, e.g. one that waits for a lock, is redelivered when `ack_wait` is over.

Crash point: a message whose nak had not left is redelivered when its lease lapses. If its task failed, the attempt
record holds the time before which no worker executes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.worker.leases import Lease

logger = logging.getLogger("diracx.tasks.worker")

FLUSH_INTERVAL: Final = timedelta(seconds=0.1)
"""Long beside the 10 ms that a scan needs before it, and short beside any delay that a person would notice."""


class NakBatcher:
    """The delayed naks of one worker that have not left yet.

    Args:
        connection: The one that the messages came on.
        interval: The time between two flushes.
        clock: Counts the delays.
    """

    def __init__(self, connection: Connection, interval: timedelta = FLUSH_INTERVAL, clock: Clock = boottime) -> None:
        self._connection = connection
        self._interval = interval
        self._clock = clock
        self._waiting: list[tuple[Lease, float, int]] = []
        """The lease, the end of the delay on the clock, and the generation of the connection at the call of `send`."""
        self._timer: asyncio.TimerHandle | None = None

    def send(self, lease: Lease, delay: timedelta) -> None:
        """Nak a message: the server redelivers it no earlier than after `delay`.

        Raises:
            ServerUnavailableError: No connection, and `delay` is too short to wait for the flush.
        """
        if delay <= self._interval:
            lease.nak(delay)
            return
        self._waiting.append((lease, self._clock() + delay.total_seconds(), self._connection.generation))
        self._schedule_flush()

    def close(self) -> None:
        """Send the naks that still wait: the worker ends."""
        self._flush()

    def _schedule_flush(self) -> None:
        if self._timer is None:
            seconds = self._interval.total_seconds()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds - time.time() % seconds, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        generation = self._connection.generation if self._connection.is_connected else None
        dropped = 0
        for lease, until, sent_in in waiting:
            if sent_in != generation:
                dropped += 1
            elif lease.remaining > 0:
                lease.nak(timedelta(seconds=max(0.0, until - self._clock())))
        if dropped:
            logger.debug("%d messages are not given back: the connection they came on was lost", dropped)
