"""The plots of the overview: what the mesh did in the last hour, or in the last day."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from diracx.tasks.dashboard import words
from diracx.tasks.dashboard.plots import Plot, Series
from diracx.tasks.plumbing.operations.sampling import QueueSample, Sample, added, in_steps, percentile


@dataclass(frozen=True, slots=True)
class Span:
    """A time that the plots cover."""

    name: str
    text: str
    step: timedelta
    steps: int


SPANS: Final = {
    "hour": Span("hour", "last hour", timedelta(minutes=1), 60),
    "day": Span("day", "last day", timedelta(minutes=15), 96),
}


def plots(samples: Sequence[Sample], now: datetime, span: Span) -> list[Plot]:
    """The plots of the samples in a span up to now."""
    # Steps begin at full minutes, so that a sample stays in its step.
    length = span.step.total_seconds()
    end = datetime.fromtimestamp((now.timestamp() // length + 1) * length, UTC)
    start = end - span.step * span.steps
    steps = in_steps(samples, start, end, span.steps)
    times = [start + span.step * (at + 0.5) for at in range(span.steps)]
    # A step that has only begun has no sample yet: the one before tells of now.
    last = -1 if steps[-1] is not None else -2

    def line(name: str, style: str, value: Callable[[Sample], float | None]) -> Series:
        values = [None if sample is None else value(sample) for sample in steps]
        return Series(name, style, values, values[last])

    def plot(title: str, write: Callable[[float | None], str], *series: Series) -> Plot:
        return Plot(title, start, end, times, series, write)

    return [plot(title, write, *(line(*each) for each in lines)) for title, write, lines in _PLOTS]


def _queues(sample: Sample) -> Iterator[QueueSample]:
    yield from sample.queues.values()


def _rate(sample: Sample, count: Callable[[QueueSample], int]) -> float | None:
    return sum(map(count, _queues(sample))) / sample.seconds if sample.seconds > 0 else None


def _wait(sample: Sample) -> list[int]:
    return added(queue.wait for queue in _queues(sample))


_Line = tuple[str, str, Callable[[Sample], float | None]]
"""The name of a line, its class, and its value in a sample."""

_PLOTS: Final[Sequence[tuple[str, Callable[[float | None], str], Sequence[_Line]]]] = (
    (
        "Throughput",
        words.rate,
        (
            ("submitted", "s5", lambda sample: _rate(sample, lambda queue: queue.submitted)),
            ("done", "s2", lambda sample: _rate(sample, lambda queue: queue.succeeded)),
        ),
    ),
    (
        "Failures",
        words.rate,
        (
            ("retried", "s4", lambda sample: _rate(sample, lambda queue: queue.retried)),
            ("failed for good", "s1", lambda sample: _rate(sample, lambda queue: queue.dead + queue.dropped)),
            ("dead letters", "s3", lambda sample: _rate(sample, lambda queue: queue.dead)),
        ),
    ),
    (
        "Queue wait",
        words.duration,
        (
            ("p50", "s1", lambda sample: percentile(_wait(sample), 0.5)),
            ("p95", "s4", lambda sample: percentile(_wait(sample), 0.95)),
        ),
    ),
    (
        "Backlog",
        words.count,
        (
            ("waiting", "s1", lambda sample: sum(queue.waiting for queue in _queues(sample))),
            ("in flight", "s2", lambda sample: sum(queue.in_flight for queue in _queues(sample))),
            ("parked", "s4", lambda sample: sum(queue.parked for queue in _queues(sample))),
        ),
    ),
)
