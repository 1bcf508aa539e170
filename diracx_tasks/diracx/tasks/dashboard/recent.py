"""What the mesh did of late: samples while somebody looks, and those that the mesh keeps of the last day.

The mesh keeps a sample a minute where its scheduler writes them. Without that there is what this process saw itself:
nothing of the time in which nobody looked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.operations.sampling import Load, Sample, Sampler, merged

DAY: Final = timedelta(days=1)
RATE_WINDOW: Final = timedelta(seconds=30)
"""Rates are those of the last samples that cover so much time."""
OLD_SECONDS: Final = 120.0
"""A sample over a longer time tells no rate of now: nobody looked meanwhile."""
MINUTE_SECONDS: Final = 60.0
_HALF_A_MINUTE: Final = timedelta(seconds=30)


class Recent:
    """The samples of one mesh, the latest in fine steps, and those of a day by the minute.

    Args:
        sampler: Makes them, for nobody else.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._fine: deque[Sample] = deque()
        self._minutes: deque[Sample] = deque()
        """What this process saw itself, about one a minute."""
        self._open: list[Sample] = []
        """The samples of the minute that goes on."""

    def look(self, load: Load) -> Sample | None:
        """Take a sample of what was read; return the latest figures over `RATE_WINDOW`.

        Returns:
            None: there is no time to tell rates of.
        """
        self._take(self._sampler.sample_of(load))
        return merged(list(self._fine)) if self._fine else None

    def _take(self, sample: Sample) -> None:
        if 0 < sample.seconds <= OLD_SECONDS:
            self._fine.append(sample)
            self._open.append(sample)
        while self._fine and sample.at - self._fine[0].at > RATE_WINDOW:
            self._fine.popleft()
        if sum(each.seconds for each in self._open) >= MINUTE_SECONDS or (self._open and sample.seconds > OLD_SECONDS):
            self._minutes.append(merged(self._open))
            self._open.clear()
        while self._minutes and sample.at - self._minutes[0].at > DAY:
            self._minutes.popleft()

    def joined(self, kept: Sequence[Sample]) -> list[Sample]:
        """The samples that the mesh keeps, then what this process saw itself, the oldest first."""
        own = [*self._minutes, *([merged(self._open)] if self._open else [])]
        return [*kept, *(sample for sample in own if not kept or sample.at - kept[-1].at > _HALF_A_MINUTE)]
