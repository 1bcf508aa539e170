"""Schedules at a fixed interval of real time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from diracx.tasks.plumbing.clock import LATEST_TIME
from diracx.tasks.plumbing.exceptions import ScheduleEndedError, TaskDefinitionError
from diracx.tasks.plumbing.schedules.base import EPOCH, TaskScheduleBase, utc_or_now


@dataclass(frozen=True)
class IntervalSeconds(TaskScheduleBase):
    """Run at multiples of an interval since 1970-01-01T00:00:00Z.

    `IntervalSeconds(3600)` runs on the hour in UTC, `IntervalSeconds(86400)` at midnight in UTC. Clock changes do not
    matter, since the interval is real time.

    Args:
        seconds: The interval, in seconds; more than 0, rounded to microseconds.

    Raises:
        TaskDefinitionError: The interval is not a positive number, or would first run after 2262, which the server
            cannot hold.
    """

    seconds: float

    def __post_init__(self) -> None:
        try:
            possible = timedelta(0) < timedelta(seconds=self.seconds) <= LATEST_TIME - EPOCH
        except (TypeError, ValueError, ArithmeticError):
            possible = False
        if not possible:
            raise TaskDefinitionError(
                f"IntervalSeconds({self.seconds!r}): the interval must be a positive number of seconds, 292 years at "
                "the most"
            )

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        """Return the next multiple of the interval since the epoch, in UTC."""
        moment = utc_or_now(after)
        interval = timedelta(seconds=self.seconds)
        try:
            return EPOCH + ((moment - EPOCH) // interval + 1) * interval
        except OverflowError:
            raise ScheduleEndedError(str(self), moment) from None

    def __str__(self) -> str:
        return f"every {f'{self.seconds:.6f}'.rstrip('0').rstrip('.')} s"
