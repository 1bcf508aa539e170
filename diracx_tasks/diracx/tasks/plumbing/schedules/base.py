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

import inspect
import re
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Final

from diracx.tasks.plumbing.exceptions import TaskDefinitionError

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


class TaskScheduleBase(ABC):
    """When a periodic task runs. Subclass it, as a frozen dataclass, for a schedule of your own.

    Operators read `str(schedule)` in `diracx-task-run schedule list`. The scheduler takes another text for another
    schedule, so the text must be the same in every process. Define `__str__`, or leave it to the default, which names
    the class and its public attributes:

        @dataclass(frozen=True)
        class EveryFullMoon(TaskScheduleBase):
            def next_occurrence(self, after: datetime | None = None) -> datetime: ...

            def __str__(self) -> str:
                return "every full moon"

    `next_occurrence` may also take no parameter, as in DiracX, and answer from now. It may then give another answer
    each time. The scheduler asks it once for each occurrence: when it begins, and whenever an occurrence has fallen
    due, in whichever process leads by then. It never knows more than one occurrence ahead, so it cannot tell which ones
    were missed while no scheduler ran, and catches up with none. Two occurrences are a second apart at the least.
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

    def __str__(self) -> str:
        kind = type(self)
        if kind.__repr__ is not object.__repr__:
            text = repr(self)
        else:
            values = (f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
            text = f"{kind.__qualname__}({', '.join(values)})"
        return _ADDRESS.sub("", text)


def answers_from_now(schedule: TaskScheduleBase) -> bool:
    """Whether `next_occurrence` takes no `after`.

    Raises:
        TaskDefinitionError: It requires other parameters, or is async.
    """
    method = schedule.next_occurrence
    signature = inspect.signature(method)
    if not inspect.iscoroutinefunction(method):
        for arguments in ((EPOCH,), ()):
            try:
                signature.bind(*arguments)
            except TypeError:
                continue
            return not arguments
    kind = "is async" if inspect.iscoroutinefunction(method) else f"takes ({', '.join(signature.parameters)})"
    raise TaskDefinitionError(
        f"{type(schedule).__qualname__}.next_occurrence {kind}; write `def next_occurrence(self, after=None)`, or "
        "`def next_occurrence(self)` if it answers from now"
    )


def utc_or_now(after: datetime | None) -> datetime:
    """Return an aware time in UTC; None becomes now.

    Raises:
        ValueError: The time is naive, or out of range in UTC.
    """
    if after is None:
        return datetime.now(UTC)
    if after.tzinfo is None:
        raise ValueError(f"{after.isoformat()} has no time zone; use e.g. datetime.now(UTC)")
    try:
        return after.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{after.isoformat()} is out of range: years go from 1 to 9999 in UTC") from None
