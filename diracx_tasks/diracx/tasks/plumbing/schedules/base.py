"""When a periodic task runs. Schedules are values: given `after`, the answer is always the same.

Intervals and rules without a DTSTART are anchored at 1970-01-01T00:00:00Z, never at the time when a process
started, so an hourly task stays hourly through restarts.

Cron and RRULE name wall-clock times of a time zone, and clocks are moved. One rule for both:

* a wall-clock time that the clock skips runs once, at the first instant after the gap;
* one that comes twice runs the first time only.

A cron expression that runs in every hour of the day (`*/5 * * * *`, `0 * * * *`) follows real time instead:
it runs whenever the clock on the wall matches, so it neither makes up for a skipped time nor pauses for a
repeated hour.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final

from croniter import croniter

from diracx.tasks.plumbing.exceptions import ScheduleEndedError, TaskDefinitionError
from diracx.tasks.plumbing.schedules.recurrence import parse_recurrence
from diracx.tasks.plumbing.schedules.wall_clock import instant_of, instants_of, transition, wall_of, zone_named

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE: Final = timedelta(minutes=1)
_NICKNAMES: Final = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")


class TaskScheduleBase(ABC):
    """Subclass it, as a frozen dataclass, for a schedule of your own; `str()` is what operators read."""

    @abstractmethod
    def next_occurrence(self, after: datetime | None = None) -> datetime:
        """Tell when to run next.

        Args:
            after: An aware time; None means now.

        Returns:
            The first occurrence strictly after `after`, in UTC. The same `after` gives the same answer.

        Raises:
            ScheduleEndedError: There is no further occurrence.
            ValueError: `after` is naive.
        """


@dataclass(frozen=True)
class IntervalSeconds(TaskScheduleBase):
    """Every so many seconds of real time, at multiples of the interval since 1970-01-01T00:00:00Z.

    Args:
        seconds: The interval, in seconds; rounded to microseconds.

    Raises:
        TaskDefinitionError: The interval is no positive, finite number.
    """

    seconds: float

    def __post_init__(self) -> None:
        try:
            positive = timedelta(seconds=self.seconds) > timedelta(0)
            self.next_occurrence(_EPOCH)
        except (TypeError, ValueError, ArithmeticError, ScheduleEndedError):
            positive = False
        if not positive:
            raise TaskDefinitionError(
                f"IntervalSeconds({self.seconds!r}): the interval must be a positive number of seconds"
            )

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        """Return the next multiple of the interval since the epoch, in UTC."""
        moment = _aware(after)
        interval = timedelta(seconds=self.seconds)
        try:
            return _EPOCH + ((moment - _EPOCH) // interval + 1) * interval
        except OverflowError:
            raise ScheduleEndedError(str(self), moment) from None

    def __str__(self) -> str:
        return f"every {f'{self.seconds:.6f}'.rstrip('0').rstrip('.')} s"


@dataclass(frozen=True)
class CronSchedule(TaskScheduleBase):
    """A cron expression in a time zone.

    When clocks are moved: an expression that names hours (`30 2 * * *`, `0 */2 * * *`) runs once, at the
    first instant after the gap, for all its times that the clock skips, and at a repeated time runs the first
    time only. One that runs in every hour (`*/5 * * * *`) follows real time: nothing for a skipped time, both
    times for a repeated one.

    Args:
        expression: Five fields (minute, hour, day of month, month, day of week), or one of @hourly, @daily,
            @midnight, @weekly, @monthly, @yearly, @annually. A sixth field is refused, since seconds stand
            first in some dialects and last in others: use `IntervalSeconds`. When both day fields are
            restricted, either suffices. H and R are refused: they differ from process to process.
        timezone: An IANA name, e.g. `Europe/Zurich`.

    Raises:
        TaskDefinitionError: The expression does not parse or never comes true, or the zone is unknown.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        fields = self.expression.split()
        if len(fields) != 5 and self.expression not in _NICKNAMES:
            raise TaskDefinitionError(
                f"cron {self.expression!r} has {len(fields)} fields instead of: minute hour day month weekday"
            )
        if any(re.search(r"(?:^|,)[hr]", field, re.IGNORECASE) for field in fields):
            raise TaskDefinitionError(f"cron {self.expression!r}: H and R are not supported; write the number")
        zone_named(self.timezone)
        try:
            self.next_occurrence(_EPOCH)
        except ScheduleEndedError:
            raise TaskDefinitionError(f"cron {self.expression!r} never comes true; check the day and month") from None
        except (ValueError, LookupError) as error:
            raise TaskDefinitionError(f"cron {self.expression!r} cannot be read: {error}") from error

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        """Return the next time that the expression names, in UTC."""
        moment = _aware(after)
        zone = zone_named(self.timezone)
        try:
            if _runs_every_hour(self.expression):
                return self._next_in_real_time(moment, zone)
            return next(at for wall in self._matches(wall_of(moment, zone)) if (at := instant_of(wall, zone)) > moment)
        except (StopIteration, OverflowError):
            raise ScheduleEndedError(str(self), moment) from None

    def _next_in_real_time(self, after: datetime, zone: tzinfo) -> datetime:
        local = after.astimezone(zone)
        following = next(
            at for wall in self._matches(wall_of(after, zone)) for at in instants_of(wall, zone) if at > after
        )
        again = local.replace(fold=1)
        if local.fold == 1 or again.utcoffset() == local.utcoffset():
            return following
        # In the first pass of a repeated hour: the second one starts at an earlier time on the wall.
        turn = transition(after.replace(microsecond=0), again.astimezone(UTC), zone)
        repeated = next(self._matches(wall_of(turn, zone) - _MINUTE)).replace(tzinfo=zone, fold=1)
        return min(following, repeated.astimezone(UTC))

    def _matches(self, after: datetime) -> Iterator[datetime]:
        """Wall-clock times after a wall-clock time; without end, unless 50 years pass without one."""
        # As if in UTC: by its own rule for moved clocks, croniter runs `30 2 * * *` twice in a repeated hour.
        times = croniter(
            self.expression, after.replace(second=0, microsecond=0, tzinfo=UTC), max_years_between_matches=50
        )
        return (moment.replace(tzinfo=None) for moment in times.all_next(datetime))

    def __str__(self) -> str:
        return f"cron {' '.join(self.expression.split())} ({self.timezone})"


@dataclass(frozen=True)
class RRuleSchedule(TaskScheduleBase):
    """A recurrence rule of RFC 5545: `DTSTART;TZID=Europe/Zurich:20260101T060000 RRULE:FREQ=DAILY`.

    DTSTART and the rule are separated by a newline or a space. Without DTSTART the rule starts at
    1970-01-01T00:00:00Z. The times are those on the wall in DTSTART's zone: when clocks are moved, a time
    that is skipped runs once, at the first instant after the gap (RFC 5545 would leave it out), and a
    repeated one the first time only; so write a rule that runs hourly or faster with a DTSTART in UTC. COUNT
    and UNTIL end it for good.

    Args:
        rule: One RRULE and at most one DTSTART, which ends in Z or has a TZID. COUNT needs a DTSTART and is
            10,000 at the most, since each answer counts from there; UNTIL ends in Z. BYSETPOS goes with
            weeks and longer. RDATE, EXDATE and EXRULE are not supported.

    Raises:
        TaskDefinitionError: The rule does not parse, or never comes true, or the zone is unknown.
    """

    rule: str

    def __post_init__(self) -> None:
        try:
            recurrence = parse_recurrence(self.rule)
            first = instant_of(next(recurrence.walls_after(recurrence.start - _MINUTE)), recurrence.zone)
            if recurrence.until is not None and first > recurrence.until:
                raise ValueError("UNTIL is before the first occurrence")
        except StopIteration:
            raise TaskDefinitionError(f"rrule {self.rule!r} never comes true; check its parts") from None
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            raise TaskDefinitionError(f"rrule {self.rule!r} cannot be read: {error}") from error

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        """Return the next time that the rule names, in UTC."""
        moment = _aware(after)
        recurrence = parse_recurrence(self.rule)
        try:
            walls = recurrence.walls_after(wall_of(moment, recurrence.zone))
            following = next(at for wall in walls if (at := instant_of(wall, recurrence.zone)) > moment)
        except (StopIteration, OverflowError):
            raise ScheduleEndedError(str(self), moment) from None
        if recurrence.until is not None and following > recurrence.until:
            raise ScheduleEndedError(str(self), moment)
        return following

    def __str__(self) -> str:
        return f"rrule {' '.join(self.rule.split())}"


def _aware(after: datetime | None) -> datetime:
    if after is None:
        return datetime.now(UTC)
    if after.tzinfo is None:
        raise ValueError(f"{after.isoformat()} has no time zone; use e.g. datetime.now(UTC)")
    return after.astimezone(UTC)


@lru_cache(maxsize=4096)
def _runs_every_hour(expression: str) -> bool:
    hours = croniter.expand(expression)[0][1]
    return "*" in hours or set(hours) == set(range(24))
