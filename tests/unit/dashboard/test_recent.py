"""What the dashboard saw itself, where nobody else keeps a history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from diracx.tasks.dashboard.recent import Recent
from diracx.tasks.plumbing.operations.sampling import Load, QueueSample, Sample

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
QUEUE = "normal-small"
LOAD = Load(NOON, [], 0, 0, [], leader=True)


def a_sample(at: datetime, seconds: float) -> Sample:
    """One in which a task succeeded each second."""
    queues = {QUEUE: QueueSample(succeeded=round(seconds), waiting=3)}
    return Sample(at, seconds, queues, 0, 0, {}, leader=True)


class Samples:
    """Gives samples as a sampler does, each since the one before."""

    def __init__(self) -> None:
        self.at = NOON
        self.step = 0.0

    def sample_of(self, load: Load) -> Sample:
        self.at += timedelta(seconds=self.step)
        return a_sample(self.at, self.step)


def watching() -> tuple[Recent, Samples]:
    """What looks, and what it sees."""
    samples = Samples()
    return Recent(cast(Any, samples)), samples


def test_a_reading_that_a_later_one_has_overtaken_changes_no_rate() -> None:
    recent, samples = watching()
    samples.step = 2.0
    before = recent.look(LOAD)
    samples.step = -1.0
    assert recent.look(LOAD) == before


def test_rates_are_those_of_the_last_half_minute() -> None:
    recent, samples = watching()
    assert recent.look(LOAD) is None, "one sample has no time"
    samples.step = 2.0
    for _ in range(60):
        latest = recent.look(LOAD)
    assert latest is not None
    assert 28 <= latest.seconds <= 34
    assert latest.queues[QUEUE].succeeded == latest.seconds


def test_a_time_in_which_nobody_looked_tells_no_rate() -> None:
    recent, samples = watching()
    samples.step = 600.0
    assert recent.look(LOAD) is None
    assert recent.joined([]) == []


def test_the_memory_holds_a_day_by_the_minute_and_what_the_mesh_keeps_comes_first() -> None:
    recent, samples = watching()
    samples.step = 30.0
    for _ in range(3 * 2 * 1_440):
        recent.look(LOAD)
    own = recent.joined([])
    assert 1_435 <= len(own) <= 1_445
    assert sum(each.queues[QUEUE].succeeded for each in own) == sum(each.seconds for each in own)
    kept = [a_sample(own[-1].at - timedelta(minutes=5), 60.0)]
    joined = recent.joined(kept)
    assert joined[0] is kept[0]
    assert all(each.at > kept[0].at for each in joined[1:])
    assert 4 <= len(joined) <= 7
