"""Consumers that were empty a moment ago, by a fake clock: skipped, or asked beside the less urgent one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.names import Namespace
from support.clock import ManualClock
from support.pull_client import BACKGROUND, NORMAL, REALTIME, PullClient, labels, pulling

MILLISECOND = 0.001


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
async def puller(connection: Connection, topology: Namespace, clock: ManualClock) -> AsyncIterator[PullClient]:
    """One that has just found realtime empty, and takes what is in normal."""
    async with pulling(connection, topology, clock) as puller:
        await puller.put(NORMAL, "first")
        assert await puller.pull.probe(1) == (1, None)
        await puller.put(NORMAL, *labels("n", 9))
        puller.delivered.clear()
        yield puller


async def test_what_was_empty_less_than_a_millisecond_ago_is_passed_over(
    puller: PullClient, clock: ManualClock
) -> None:
    await puller.put(REALTIME, *labels("r", 3))
    clock.now += 0.9 * MILLISECOND
    assert await puller.pull.probe(4) == (4, None)
    assert puller.bodies == labels("n", 4)


async def test_a_millisecond_later_one_of_the_slots_is_for_it(puller: PullClient, clock: ManualClock) -> None:
    await puller.put(REALTIME, *labels("r", 3))
    clock.now += 1.1 * MILLISECOND
    assert await puller.pull.probe(4) == (4, None)
    assert sorted(puller.bodies) == [*labels("n", 3), "r0"]
    # It was not empty, so its age counts from when it was.
    clock.now += 1 * MILLISECOND
    assert await puller.pull.probe(4) == (4, None)
    assert puller.bodies[4:] == ["r1", "r2", "n3", "n4"]


async def test_found_empty_beside_another_it_counts_as_empty_from_then_on(
    puller: PullClient, clock: ManualClock
) -> None:
    clock.now += 1.1 * MILLISECOND
    assert await puller.pull.probe(4) == (3, None)
    await puller.put(REALTIME, "r")
    clock.now += 0.95 * MILLISECOND
    assert await puller.pull.probe(2) == (2, None)
    assert puller.bodies == labels("n", 5), "more than 2 ms after the first look, and less than 1 ms after the second"


async def test_two_milliseconds_later_all_slots_are_for_it(puller: PullClient, clock: ManualClock) -> None:
    await puller.put(REALTIME, *labels("r", 3))
    clock.now += 2.1 * MILLISECOND
    assert await puller.pull.probe(4) == (4, None)
    assert puller.bodies == ["r0", "r1", "r2", "n0"]


async def test_the_only_slot_is_not_split(puller: PullClient, clock: ManualClock) -> None:
    await puller.put(REALTIME, "r")
    clock.now += 1.1 * MILLISECOND
    assert await puller.pull.probe(1) == (1, None)
    clock.now += 1 * MILLISECOND
    assert await puller.pull.probe(1) == (1, None)
    assert puller.bodies == ["n0", "r"]


async def test_nothing_is_taken_beside_what_is_more_urgent(puller: PullClient, clock: ManualClock) -> None:
    await puller.put(REALTIME, *labels("r", 4))
    clock.now += 1.1 * MILLISECOND
    assert await puller.pull.probe(20) == (10, None)
    # Normal and background are empty since then, realtime for all we know is not.
    clock.now += 1.1 * MILLISECOND
    await puller.put(NORMAL, "n")
    await puller.put(BACKGROUND, "b")
    assert await puller.pull.probe(3) == (3, None)
    assert puller.bodies[10:] == ["r1", "r2", "r3"]


async def test_what_was_looked_at_beside_others_is_not_asked_again_when_all_are_empty(
    puller: PullClient, clock: ManualClock
) -> None:
    assert await puller.pull.probe(9) == (9, None)
    clock.now += 1.1 * MILLISECOND
    sent = puller.connection.client.stats["out_msgs"]
    assert await puller.pull.probe(9) == (0, None)
    assert puller.connection.client.stats["out_msgs"] - sent == 3
