"""What the dashboard saw itself, where nobody else keeps a history."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from diracx.tasks.dashboard.recent import Recent
from diracx.tasks.plumbing.operations.sampling import QueueSample, Sample

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
QUEUE = "normal-small"


def a_sample(at: datetime, seconds: float) -> Sample:
    """One in which a task succeeded each second."""
    queues = {QUEUE: QueueSample(succeeded=round(seconds), waiting=3)}
    return Sample(at, seconds, queues, 0, 0, {}, leader=True)


class Samples:
    """Gives samples as a sampler does, each since the one before, and none while another is taken."""

    def __init__(self) -> None:
        self.at = NOON
        self.step = 0.0
        self.taken = 0
        self._busy = False

    async def sample(self) -> Sample:
        assert not self._busy, "one after the other"
        self._busy = True
        await asyncio.sleep(0)
        self._busy = False
        self.at += timedelta(seconds=self.step)
        self.taken += 1
        return a_sample(self.at, self.step)


def watching() -> tuple[Recent, Samples]:
    """What looks, and what it sees."""
    samples = Samples()
    return Recent(cast(Any, samples)), samples


async def test_two_who_look_at_once_take_their_samples_one_after_the_other() -> None:
    recent, samples = watching()
    samples.step = 2.0
    await asyncio.gather(recent.look(), recent.look())
    assert samples.taken == 2


async def test_rates_are_those_of_the_last_half_minute() -> None:
    recent, samples = watching()
    assert await recent.look() is None, "one sample has no time"
    samples.step = 2.0
    for _ in range(60):
        latest = await recent.look()
    assert latest is not None
    assert 28 <= latest.seconds <= 34
    assert latest.queues[QUEUE].succeeded == latest.seconds


async def test_a_time_in_which_nobody_looked_tells_no_rate() -> None:
    recent, samples = watching()
    samples.step = 600.0
    assert await recent.look() is None
    assert recent.joined([]) == []


async def test_the_memory_holds_a_day_by_the_minute_and_what_the_mesh_keeps_comes_first() -> None:
    recent, samples = watching()
    samples.step = 30.0
    for _ in range(3 * 2 * 1_440):
        await recent.look()
    own = recent.joined([])
    assert 1_435 <= len(own) <= 1_445
    assert sum(each.queues[QUEUE].succeeded for each in own) == sum(each.seconds for each in own)
    kept = [a_sample(own[-1].at - timedelta(minutes=5), 60.0)]
    joined = recent.joined(kept)
    assert joined[0] is kept[0]
    assert all(each.at > kept[0].at for each in joined[1:])
    assert 4 <= len(joined) <= 7
