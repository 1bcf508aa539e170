"""Relief for a worker whose event loop is held up: its leases and locks are kept from another thread, which answers
operators as well.

The thread has an event loop of its own, and a connection that it opens when the loop is held up and closes when it goes
on. Invariants:

- A heartbeat or a renewal that the worker's loop has under way at that moment does no harm: the server takes each, and
  a lock's newest revision counts.
- A message gets no heartbeat once the worker's loop settles it: `held_up` ends first. A heartbeat that is on its way in
  that very moment may shorten the delay of a nak; the time of a retry stands in its attempt record.

Crash points: as in leases.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final

from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.execution.execution import Execution
from diracx.tasks.plumbing.execution.last_resort import GIVE_BACK_SECONDS, LastResort
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import ReplySubject
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from diracx.tasks.plumbing.worker.in_flight import EXIT_DELAY
from diracx.tasks.plumbing.worker.leases import Lease, LeaseKeeper

logger = logging.getLogger("diracx.tasks.worker")

RETRY_SECONDS: Final = 1.0


class Relief:
    """Keeps the leases and locks of a worker whose loop is held up. Everything here runs on another thread.

    Args:
        connection: The connection of the worker, of which a twin is opened.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: Namespace,
        leases: LeaseKeeper,
        locks: LockKeeper,
        last_resort: LastResort | None,
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._leases = leases
        self._locks = locks
        self._last_resort = last_resort
        self.answering: Callable[[Connection], AbstractAsyncContextManager[None]] = lambda _: nullcontext()
        """Answers the questions of operators through the connection that it is given, during the block."""

    @property
    def due_seconds(self) -> float:
        """Relief is due when the loop was held up for longer: before the next heartbeat, since it has to connect."""
        return self._leases.heartbeat_seconds / 2

    @property
    def lease_seconds(self) -> float:
        """How long a lease holds without a heartbeat."""
        return self._leases.held_seconds

    async def run(self) -> None:
        """Send heartbeats, renew locks and answer operators until cancelled."""
        while True:
            try:
                async with self._connection.twin() as twin, self.answering(twin):
                    logger.info("the event loop is held up: leases and locks are kept from another thread")
                    store = Bucket(twin, self._namespace.locks_bucket)
                    while True:
                        await asyncio.gather(self._leases.relieve(twin), self._locks.renew_due(store))
                        await asyncio.sleep(self._leases.tick_seconds)
            except Exception as error:
                known = isinstance(error, ServerError)
                logger.warning("the event loop is held up, and its leases lapse: %s", error, exc_info=not known)
                await asyncio.sleep(RETRY_SECONDS)

    async def end_process(self, execution: Execution | None, seconds: float) -> None:
        """Give back the messages in flight, and end the process. The task that holds up the loop counts a crash."""
        if self._last_resort is None:
            return
        guilty = execution.name() if execution is not None else "something"
        self._last_resort.reason = f"{guilty} has held up the event loop for {seconds:.0f} s"
        logger.critical("%s: the process ends", self._last_resort.reason)
        await self.give_back(execution)
        self._last_resort.end()

    async def give_back(self, guilty: Execution | None = None) -> None:
        """Give back the messages in flight, uncounted, within `GIVE_BACK_SECONDS`: the process ends.

        Args:
            guilty: Counts a crash; None: none does.
        """
        leases = [lease for lease in self._leases.all if lease.remaining > 0 and not lease.settling]
        if not leases:
            return
        for lease in leases:
            lease.withdraw("the process ends")  # from now on it gets no heartbeat, and the loop settles nothing
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS), self._connection.twin() as twin:
                attempts = AttemptStore(Bucket(twin, self._namespace.attempts_bucket))
                await asyncio.gather(*(_give_back(lease, twin, attempts, guilty) for lease in leases))
                await twin.client.flush()
        except Exception:
            logger.exception("not every message was given back; the rest return when their leases lapse")


async def _give_back(lease: Lease, twin: Connection, attempts: AttemptStore, guilty: Execution | None) -> None:
    try:
        if lease.attempts is not None:
            if lease.execution is not guilty:
                await attempts.interrupt(lease.attempts)
            elif not lease.attempts.begun_here:
                await attempts.begin(lease.attempts)
        lease.ensure_in_time()
        ReplySubject(twin, lease.delivery.reply).nak(EXIT_DELAY)
    except Exception as error:
        logger.warning("left %s unsettled: %s", lease.describe(), error)
