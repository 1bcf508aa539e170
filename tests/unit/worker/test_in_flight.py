"""When a message begins, and that it need not keep its slot while the end of its task is written."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.execution.shared_loop import EAGERLY
from diracx.tasks.plumbing.worker.in_flight import MAX_WITHOUT_SLOT, InFlight
from diracx.tasks.plumbing.worker.leases import Lease, LeaseKeeper
from diracx.tasks.plumbing.worker.slots import MIN_AT_ONCE, Slots
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
    """Stands for the processor: no task awaits anything."""

    def __init__(self) -> None:
        self.seen: list[Lease] = []

    async def process(self, lease: Lease) -> None:
        self.seen.append(lease)


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


async def test_what_leaves_slots_free_begins_behind_the_next_pull_but_for_the_first() -> None:
    slots, prompt, ignoring, clock = Slots(MIN_AT_ONCE + 1), Prompt(), Ignoring(), ManualClock(1_000.0)
    in_flight = InFlight(ignoring, slots, ignoring, prompt)  # type: ignore[arg-type]
    leases = [Lease(fake_delivery(None, number), 0, 2_000, clock) for number in range(3)]
    for _ in range(2):
        prompt.seen.clear()
        for lease in leases:
            assert slots.take()
            in_flight.start(lease)
        before_the_pull: list[Lease] = []
        asyncio.get_running_loop().call_soon(lambda: before_the_pull.extend(prompt.seen))  # noqa: B023
        await wait_until(lambda: slots.busy == 0, description="all have ended")
        assert prompt.seen == leases
        assert before_the_pull == leases[:1]


async def test_what_fills_all_slots_begins_together_in_the_next_turn() -> None:
    slots, prompt, ignoring, clock = Slots(3), Prompt(), Ignoring(), ManualClock(1_000.0)
    in_flight = InFlight(ignoring, slots, ignoring, prompt)  # type: ignore[arg-type]
    leases = [Lease(fake_delivery(None, number), 0, 2_000, clock) for number in range(3)]
    for lease in leases:
        assert slots.take()
        in_flight.start(lease)
    assert not prompt.seen, "not within the read"
    await asyncio.sleep(0)
    assert (prompt.seen, in_flight.processed, slots.free) == (leases, 3, 3)


async def test_a_stop_waits_for_what_was_only_just_read() -> None:
    leases, writing = LeaseKeeper(timedelta(seconds=30)), Writing()
    writing.free_slot = lambda _: None
    in_flight = InFlight(leases, Slots(1), Ignoring(), writing)  # type: ignore[arg-type]
    lease = leases.take(fake_delivery(None, 1))
    assert lease is not None
    in_flight.start(lease)
    (running,) = in_flight.running()
    assert running is lease.task
    writing.written.set()
    await running


@pytest.mark.skipif(not EAGERLY, reason="before Python 3.12 each begins on its own")
async def test_what_ends_event_loops_in_one_message_keeps_the_others_from_nothing() -> None:
    begun: list[asyncio.Task[Any] | None] = []

    class Exits(Prompt):
        async def process(self, lease: Lease) -> None:
            await super().process(lease)
            if len(self.seen) == 1:
                begun.append(asyncio.current_task())
                raise SystemExit(3)

    slots, exits, ignoring, clock = Slots(2), Exits(), Ignoring(), ManualClock(1_000.0)
    in_flight = InFlight(ignoring, slots, ignoring, exits)  # type: ignore[arg-type]
    for number in range(2):
        in_flight.start(Lease(fake_delivery(None, number), 0, 2_000, clock))
    with pytest.raises(SystemExit):
        in_flight.running()
    assert begun[0] is not None
    assert isinstance(begun[0].exception(), SystemExit)
    await wait_until(lambda: in_flight.processed == 2, description="both have begun")
