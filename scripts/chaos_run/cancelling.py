"""Cancels children of groups while the run is disturbed."""

from __future__ import annotations

import asyncio
import random

from chaos_tasks import Spawns
from diracx.tasks.plumbing.cancellations.note import Kind
from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.groups.records import child_id
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.operations.cancellation import Canceller, Target
from groups import group_of
from producer import Producer

_RETRY_SECONDS = 0.5


class Operator:
    """Cancels children at random moments, whatever they do at the time.

    Args:
        count: How many.
        children: How many each group has.
    """

    def __init__(
        self, broker: JetStreamBroker, producer: Producer, count: int, children: int, choose: random.Random
    ) -> None:
        self._canceller = Canceller(broker.connection, broker.namespace, by="chaos")
        self._producer = producer
        self._count = count
        self._children = children
        self._choose = choose
        self.cancelled: set[str] = set()
        """The ids of the children."""

    async def run(self, seconds: float) -> None:
        """Cancel them within so many seconds, or as soon as their groups are there."""
        started = boottime()
        async with asyncio.TaskGroup() as group:
            for moment in sorted(self._choose.uniform(0, seconds) for _ in range(self._count)):
                await asyncio.sleep(max(0.0, started + moment - boottime()))
                parents = [
                    task_id for task_id, each in self._producer.submitted.items() if each.kind == Spawns.__name__
                ]
                if parents:
                    child = child_id(group_of(self._choose.choice(parents)), self._choose.randrange(self._children))
                    group.create_task(self._cancel(child), name=f"cancel {child}")

    async def _cancel(self, child: str) -> None:
        self.cancelled.add(child)
        while True:
            try:
                await self._canceller.cancel([Target(Kind.ID, child)])
                return
            except ServerError:
                await asyncio.sleep(_RETRY_SECONDS)
