"""The slots of a worker: taken, released, and when it is worth pulling more."""

from __future__ import annotations

import asyncio

import pytest

from diracx.tasks.plumbing.worker.slots import Slots
from diracx.tasks.testing import wait_until


async def turn() -> None:
    """Let everything that is ready run."""
    for _ in range(3):
        await asyncio.sleep(0)


def take(slots: Slots, count: int) -> None:
    for _ in range(count):
        assert slots.take()


def test_there_are_no_more_slots_than_were_asked_for() -> None:
    slots = Slots(2)
    assert [slots.take(), slots.take(), slots.take()] == [True, True, False]
    assert (slots.busy, slots.free) == (2, 0)
    slots.release()
    assert (slots.busy, slots.free) == (1, 1)
    assert slots.take()


@pytest.mark.parametrize("total", [0, -1])
def test_a_worker_without_slots_is_refused(total: int) -> None:
    with pytest.raises(ValueError, match=f"at least one slot, not {total}"):
        Slots(total)


async def test_there_is_room_while_half_of_the_slots_are_free() -> None:
    slots = Slots(10)
    await slots.wait_for_room()
    take(slots, 5)
    await slots.wait_for_room()


async def test_room_waits_for_half_of_the_slots() -> None:
    slots = Slots(10)
    take(slots, 10)
    room = asyncio.create_task(slots.wait_for_room())
    await turn()
    for _ in range(4):
        slots.release()
    await turn()
    assert not room.done()
    slots.release()
    await turn()
    assert room.done()


async def test_one_slot_among_many_is_room_enough_after_a_moment() -> None:
    slots = Slots(10)
    take(slots, 10)
    room = asyncio.create_task(slots.wait_for_room())
    await turn()
    slots.release()
    await turn()
    assert not room.done()
    await wait_until(room.done, description="the free slot is not left empty")
    assert slots.free == 1


async def test_a_slot_that_was_free_before_is_room_enough_after_a_moment() -> None:
    slots = Slots(10)
    take(slots, 9)
    room = asyncio.create_task(slots.wait_for_room())
    await turn()
    assert not room.done()
    await wait_until(room.done, description="the free slot is not left empty")


async def test_without_a_free_slot_there_is_no_room_until_it_is_woken() -> None:
    slots = Slots(1)
    take(slots, 1)
    room = asyncio.create_task(slots.wait_for_room())
    await turn()
    assert not room.done()
    slots.wake()
    await turn()
    assert room.done()


async def test_room_can_be_waited_for_again_after_it_was_cancelled() -> None:
    slots = Slots(2)
    take(slots, 2)
    room = asyncio.create_task(slots.wait_for_room())
    await turn()
    room.cancel()
    await turn()
    slots.wake()
    again = asyncio.create_task(slots.wait_for_room())
    await turn()
    assert not again.done()
    slots.release()
    await again


def test_waking_when_nobody_waits_changes_nothing() -> None:
    slots = Slots(1)
    slots.wake()
    assert slots.take()
    slots.release()
    assert slots.free == 1
