"""Schedules by a cron expression in a time zone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final

from croniter import croniter

from diracx.tasks.plumbing.exceptions import ScheduleEndedError, TaskDefinitionError
from diracx.tasks.plumbing.schedules.base import EPOCH, TaskScheduleBase, utc_or_now
from diracx.tasks.plumbing.schedules.wall_clock import find_transition, first_instant, instants, load_zone, wall_time

_MINUTE: Final = timedelta(minutes=1)
_MAX_YEARS_WITHOUT_MATCH: Final = 50
_NICKNAMES: Final = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")


@dataclass(frozen=True)
class CronSchedule(TaskScheduleBase):
    """Run when the wall clock of a time zone matches a cron expression.

    `CronSchedule("30 2 * * *", "Europe/Zurich")` runs at half past two in Zurich, in summer and in winter.

    When the clocks change:

    * An expression that names hours (`30 2 * * *`, `0 */2 * * *`) runs once, at the first instant after the gap,
      for all of its times that the clock skips. A time that comes twice runs the first time only.
    * An expression that runs in every hour (`*/5 * * * *`) follows real time: a skipped time does not run, and a time
      that comes twice runs twice.

    Args:
        expression: Five fields (minute, hour, day of month, month, day of week), or one of @hourly, @daily,
            @midnight, @weekly, @monthly, @yearly, @annually. If both day fields are restricted, a day that matches
            either one counts. A sixth field is refused, since some dialects put seconds first and others last: use
            `IntervalSeconds`. H and R are refused, since they differ from process to process.
        timezone: An IANA name, e.g. `Europe/Zurich`.

    Raises:
        TaskDefinitionError: The expression does not parse or never comes true, or the time zone is unknown.
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
        load_zone(self.timezone)
        try:
            self.next_occurrence(EPOCH)
        except ScheduleEndedError:
            raise TaskDefinitionError(f"cron {self.expression!r} never comes true; check the day and month") from None
        except (ValueError, LookupError) as error:
            raise TaskDefinitionError(f"cron {self.expression!r} cannot be read: {error}") from error

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        """Return the next time at which the wall clock matches, in UTC."""
        moment = utc_or_now(after)
        zone = load_zone(self.timezone)
        try:
            if _runs_every_hour(self.expression):
                return self._next_in_real_time(moment, zone)
            matches = (first_instant(wall, zone) for wall in self._matches(wall_time(moment, zone)))
            return next(instant for instant in matches if instant > moment)
        except (StopIteration, OverflowError):
            raise ScheduleEndedError(str(self), moment) from None

    def _next_in_real_time(self, after: datetime, zone: tzinfo) -> datetime:
        local = after.astimezone(zone)
        following = next(
            instant
            for wall in self._matches(wall_time(after, zone))
            for instant in instants(wall, zone)
            if instant > after
        )
        again = local.replace(fold=1)
        if local.fold == 1 or again.utcoffset() == local.utcoffset():
            return following
        # In the first pass of a repeated hour. The second pass starts at an earlier wall-clock time.
        turn = find_transition(after.replace(microsecond=0), again.astimezone(UTC), zone)
        repeated = next(self._matches(wall_time(turn, zone) - _MINUTE)).replace(tzinfo=zone, fold=1)
        return min(following, repeated.astimezone(UTC))

    def _matches(self, after: datetime) -> Iterator[datetime]:
        """Yield matching wall-clock times after one, in order; endless, unless 50 years pass without a match."""
        # croniter gets the wall clock as if it were UTC: its own rule for clock changes runs `30 2 * * *` twice in a
        # repeated hour.
        times = croniter(
            self.expression,
            after.replace(second=0, microsecond=0, tzinfo=UTC),
            max_years_between_matches=_MAX_YEARS_WITHOUT_MATCH,
        )
        return (moment.replace(tzinfo=None) for moment in times.all_next(datetime))

    def __str__(self) -> str:
        return f"cron {' '.join(self.expression.split())} ({self.timezone})"


@lru_cache(maxsize=4096)
def _runs_every_hour(expression: str) -> bool:
    hours = croniter.expand(expression)[0][1]
    return "*" in hours or set(hours) == set(range(24))
