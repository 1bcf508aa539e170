"""A message whose task has ended need not keep its slot while its end is written."""

from __future__ import annotations

import asyncio
from typing import Any

from diracx.tasks.plumbing.worker.in_flight import MAX_WITHOUT_SLOT, InFlight
from diracx.tasks.plumbing.worker.leases import Lease
from diracx.tasks.plumbing.worker.slots import Slots
from diracx.tasks.testing import wait_until
from support.clock import ManualClock
from support.deliveries import fake_delivery


class Writing:
    """Stands for the processor: the end of each task is being written until `written`."""

    def __init__(self) -> None:
        self.written = asyncio.Event()
        self.free_slot: Any = None

    async def process(self, lease: Lease) -> None:
        self.free_slot(lease)
        self.free_slot(lease)  # changes nothing
        await self.written.wait()


class Prompt:
    """Stands for the processor: no task awaits anything, and each looks at its lease."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Any]] = []

    async def process(self, lease: Lease) -> None:
        self.seen.append((lease.task, lease.task and lease.task.done()))


class Ignoring:
    """Stands for the leases and the isolation gate."""

    def drop(self, lease: Lease) -> None:
        """Nothing."""

    def message_ended(self) -> None:
        """Nothing."""


async def test_a_slot_is_free_while_the_end_of_its_task_is_written_but_not_for_any_number_of_messages() -> None:
    slots, writing, ignoring, clock = Slots(3), Writing(), Ignoring(), ManualClock(1_000.0)
    in_flight = InFlight(ignoring, slots, ignoring, writing)  # type: ignore[arg-type]
    writing.free_slot = in_flight.free_slot
    leases = [Lease(fake_delivery(None, number), 0, 2_000, clock) for number in range(MAX_WITHOUT_SLOT + 2)]
    for lease in leases:
        assert slots.take()
        in_flight.start(lease)
        await asyncio.sleep(0)
    assert [lease.has_slot for lease in leases] == [False] * MAX_WITHOUT_SLOT + [True] * 2
    assert slots.busy == 2
    writing.written.set()
    await wait_until(lambda: in_flight.processed == len(leases), description="all have ended")
    assert slots.busy == 0
    assert slots.take()
    last = Lease(fake_delivery(None, 999), 0, 2_000, clock)
    in_flight.start(last)
    await wait_until(lambda: in_flight.processed > len(leases), description="it has ended")
    assert (last.has_slot, slots.busy) == (False, 0), "there is room for messages without a slot again"


async def test_a_task_that_awaits_nothing_has_ended_and_freed_its_slot_when_it_was_started() -> None:
    slots, prompt, ignoring, clock = Slots(1), Prompt(), Ignoring(), ManualClock(1_000.0)
    in_flight = InFlight(ignoring, slots, ignoring, prompt)  # type: ignore[arg-type]
    lease = Lease(fake_delivery(None, 1), 0, 2_000, clock)
    assert slots.take()
    in_flight.start(lease)
    assert (in_flight.processed, slots.free) == (1, 1)
    assert prompt.seen == [(lease.task, False)], "the lease knows its asyncio task from the first step on"
    assert lease.task is not None
    assert lease.task.done()
