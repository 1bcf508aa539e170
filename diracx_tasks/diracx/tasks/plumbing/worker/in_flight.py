"""What a worker has in hand: from the arrival of a message to the moment at which its slot is free again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.wire.envelope import TASK_ID, TASK_NAME
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from diracx.tasks.plumbing.worker.isolation import Solitude
from diracx.tasks.plumbing.worker.leases import Lease, LeaseKeeper
from diracx.tasks.plumbing.worker.processing import Processor
from diracx.tasks.plumbing.worker.slots import Slots

logger = logging.getLogger("diracx.tasks.worker")

# By then this process has ended, and cannot run beside whoever gets the message next.
_SUCCESSION: Final = timedelta(seconds=3)
_CLEAN_UP: Final = 30.0
_LAST_PATIENCE: Final = 5.0


class Hand:
    """The messages in hand of one worker.

    Args:
        full: Whether nothing more is taken, however many slots are free.
    """

    def __init__(
        self, leases: LeaseKeeper, slots: Slots, solitude: Solitude, processor: Processor, full: Callable[[], bool]
    ) -> None:
        self._leases = leases
        self._slots = slots
        self._solitude = solitude
        self._processor = processor
        self._full = full
        self.processed = 0
        """Deliveries carried to an end."""

    def __len__(self) -> int:
        return len(self._leases)

    def receive(self, delivery: Delivery) -> None:
        """Take a message that was just read, or give it back."""
        # The lease first: what is stale or in hand already must not even be given back.
        lease = self._leases.take(delivery)
        if lease is None:
            return
        if self._full() or self._solitude.wanted or not self._slots.take():
            # Not begun, so nothing is counted; somebody with a slot gets it at once.
            self._leases.drop(lease)
            self._give_back(delivery)
            return
        lease.waiting = True
        lease.task = asyncio.create_task(self._carry(lease))

    async def _carry(self, lease: Lease) -> None:
        try:
            await self._processor.process(lease)
        except asyncio.CancelledError:
            if lease.remaining > 0:
                self._give_back(lease.delivery)  # its own worker did not cancel it: the loop ends
            raise
        finally:
            # Not when the task is done, which is known a turn of the loop later: so the next pull leaves with the ack.
            self.processed += 1
            self._leases.drop(lease)
            self._slots.give_back()
            self._solitude.left()

    def _give_back(self, delivery: Delivery) -> None:
        try:
            delivery.nak()
        except ServerUnavailableError as error:
            logger.info("a message was not given back: %s; it returns when its lease lapses", error)

    def running(self) -> list[asyncio.Task[None]]:
        """What executes deliveries now."""
        return [lease.task for lease in self._leases.all if lease.task is not None and not lease.task.done()]

    def executed_by(self, task: asyncio.Task[Any]) -> str | None:
        """What an asyncio task of this worker executes, for a person."""
        for lease in self._leases.all:
            if lease.task is task:
                headers = lease.delivery.headers or {}
                return f"{headers.get(TASK_NAME)} {headers.get(TASK_ID, '')}".strip()
        return None

    def interrupt(self, reason: str) -> None:
        """Cancel whatever still executes; it is given back, uncounted."""
        for lease in self._leases.all:
            lease.interrupt(reason)

    async def wind_down(self, grace: timedelta) -> None:
        """Let what runs end within `grace`, cancel the rest, and give it back."""
        if running := self.running():
            logger.info("stopping: %d tasks have %.0f s to end", len(running), grace.total_seconds())
            await asyncio.wait(running, timeout=grace.total_seconds())
        for patience in (_CLEAN_UP, _LAST_PATIENCE):
            self.interrupt(f"the worker stops, and waits {patience:g} s more")
            if waiting := self.running():
                await asyncio.wait(waiting, timeout=patience)
        if stuck := self.running():
            logger.error("%d tasks take no cancellation; their messages return when their leases lapse", len(stuck))

    async def abandon(self, attempts: AttemptStore) -> None:
        """Give back, uncounted, all that is in hand and still ours: the process is about to end without it."""
        for lease in self._leases.all:
            if lease.settling or lease.remaining <= 0:
                continue
            if lease.attempts is not None:
                await attempts.interrupt(lease.attempts)
            lease.delivery.nak(_SUCCESSION)
