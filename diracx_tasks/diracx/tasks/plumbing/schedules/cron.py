"""Schedules by a cron expression in a time zone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from heapq import merge
from typing import Final

from diracx.tasks.plumbing.clock import LATEST_TIME
from diracx.tasks.plumbing.exceptions import ScheduleEndedError, TaskDefinitionError
from diracx.tasks.plumbing.schedules.base import EPOCH, TaskScheduleBase, utc_or_now
from diracx.tasks.plumbing.schedules.cron_fields import CronFields, parse_cron
from diracx.tasks.plumbing.schedules.wall_clock import find_transition, first_instant, instants, load_zone, wall_time

_MOMENT: Final = timedelta(microseconds=1)
# 29 February on one weekday comes after 40 years at the latest.
_MAX_YEARS_WITHOUT_MATCH: Final = 50


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
        expression: Five fields: minute, hour, day of month, month, weekday; or one of @hourly, @daily, @midnight,
            @weekly, @monthly, @yearly, @annually. If neither day field is `*` or `?`, a day that matches either one
            counts. `cron_fields` has the grammar, with `L`, `LW`, `15W`, `fri#2` and `L5`. A sixth field is refused,
            since some dialects put seconds first and others last: use `IntervalSeconds`. H and R are refused, since
            they differ from process to process.
        timezone: An IANA name, e.g. `Europe/Zurich`.

    Raises:
        TaskDefinitionError: The expression does not parse or never comes true, or the time zone is unknown.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if not isinstance(self.expression, str):
            raise TaskDefinitionError(f"cron {self.expression!r}: the expression must be a text, e.g. '30 2 * * *'")
        load_zone(self.timezone)
        try:
            self.next_occurrence(EPOCH)
        except ScheduleEndedError:
            raise TaskDefinitionError(f"cron {self.expression!r} never comes true; check the day and month") from None
        except ValueError as error:
            raise TaskDefinitionError(f"cron {self.expression!r} {error}") from error

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        """Return the next time at which the wall clock matches, in UTC."""
        moment = utc_or_now(after)
        fields = parse_cron(self.expression)
        zone = load_zone(self.timezone)
        if moment >= LATEST_TIME:
            raise ScheduleEndedError(str(self), moment)
        try:
            if fields.every_hour:
                return _next_in_real_time(fields, moment, zone)
            matches = (first_instant(wall, zone) for wall in _matches(fields, wall_time(moment, zone)))
            return next(instant for instant in matches if instant > moment)
        except (StopIteration, OverflowError):
            raise ScheduleEndedError(str(self), moment) from None

    def __str__(self) -> str:
        return f"cron {' '.join(self.expression.split())} ({self.timezone})"


def _next_in_real_time(fields: CronFields, after: datetime, zone: tzinfo) -> datetime:
    local = after.astimezone(zone)
    wall = wall_time(after, zone)
    matches = _matches(fields, wall)
    following = next(at for match in matches for at in instants(match, zone) if at > after)
    again = local.replace(fold=1)
    if local.fold == 1 or again.utcoffset() == local.utcoffset():
        return following
    # In the first pass of a repeated hour. The second pass starts at an earlier wall-clock time.
    turn = find_transition(after.replace(microsecond=0), again.astimezone(UTC), zone)
    repeated = next(_matches(fields, wall_time(turn, zone) - _MOMENT))
    if repeated > wall:
        return following
    return min(following, repeated.replace(tzinfo=zone, fold=1).astimezone(UTC))


def _matches(fields: CronFields, after: datetime) -> Iterator[datetime]:
    """Yield matching wall-clock times after one, in order; endless, unless 50 years pass without a match.

    croniter gets the wall clock without its time zone: its own rule for clock changes is another one.
    """
    # Only now: a process without such a schedule saves 1.3 MB.
    from croniter import croniter

    start = after.replace(second=0, microsecond=0)
    return merge(
        *(
            croniter(expression, start, max_years_between_matches=_MAX_YEARS_WITHOUT_MATCH).all_next(datetime)
            for expression in fields.alternatives
        )
    )
