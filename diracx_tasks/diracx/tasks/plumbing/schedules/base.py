"""The interface of all schedules.

Rules that hold for every schedule of this package:

* It is a frozen value. Given `after`, the answer is always the same, in every process.
* Without a start of its own it is anchored at 1970-01-01T00:00:00Z, never at the time when a process started. So an
  hourly task stays hourly through restarts.
* Cron and RRULE name wall-clock times of a time zone. When the clocks change, a wall-clock time that is skipped
  runs once, at the first instant after the gap; a wall-clock time that comes twice runs the first time only.
* The exception is a cron expression that runs in every hour of the day (`*/5 * * * *`, `0 * * * *`). It follows real
  time: it runs whenever the wall clock matches, so it neither makes up for a skipped time nor pauses in a repeated
  hour.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class TaskScheduleBase(ABC):
    """When a periodic task runs. Subclass it, as a frozen dataclass, for a schedule of your own.

    Operators read `str(schedule)` in `diracx-task-run schedule list`, so define `__str__`:

        @dataclass(frozen=True)
        class EveryFullMoon(TaskScheduleBase):
            def next_occurrence(self, after: datetime | None = None) -> datetime: ...

            def __str__(self) -> str:
                return "every full moon"
    """

    @abstractmethod
    def next_occurrence(self, after: datetime | None = None) -> datetime:
        """Return the first occurrence strictly after a time.

        The method must be pure: the same `after` gives the same answer, in every process.

        Args:
            after: An aware time, in any time zone; None means now.

        Returns:
            An aware time in UTC.

        Raises:
            ScheduleEndedError: The schedule has no further occurrence.
            ValueError: `after` is naive.
        """


def utc_or_now(after: datetime | None) -> datetime:
    """Return an aware time in UTC; None becomes now.

    Raises:
        ValueError: The time is naive.
    """
    if after is None:
        return datetime.now(UTC)
    if after.tzinfo is None:
        raise ValueError(f"{after.isoformat()} has no time zone; use e.g. datetime.now(UTC)")
    return after.astimezone(UTC)
