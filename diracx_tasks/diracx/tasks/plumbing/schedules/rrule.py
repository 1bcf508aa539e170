"""Schedules by a recurrence rule (RFC 5545)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from diracx.tasks.plumbing.exceptions import ScheduleEndedError, TaskDefinitionError
from diracx.tasks.plumbing.schedules.base import TaskScheduleBase, utc_or_now
from diracx.tasks.plumbing.schedules.recurrence import parse_recurrence
from diracx.tasks.plumbing.schedules.wall_clock import first_instant, wall_time


@dataclass(frozen=True)
class RRuleSchedule(TaskScheduleBase):
    """Run by a recurrence rule of RFC 5545.

        RRuleSchedule("DTSTART;TZID=Europe/Zurich:20260101T060000 RRULE:FREQ=DAILY;INTERVAL=2")

    The occurrences are wall-clock times in the time zone of DTSTART. Without DTSTART the rule starts at
    1970-01-01T00:00:00Z. COUNT or UNTIL end the schedule for good.

    When the clocks change, a time that is skipped runs once, at the first instant after the gap (RFC 5545 would leave
    it out), and a time that comes twice runs the first time only. So write a rule that runs hourly or faster with a
    DTSTART in UTC.

    Args:
        rule: At most one DTSTART and then one RRULE, separated by a newline or a space. DTSTART ends in Z or has a
            TZID. COUNT needs a DTSTART and is 10,000 at the most, since each answer counts from there. UNTIL ends in Z.
            BYSETPOS needs FREQ=WEEKLY, MONTHLY or YEARLY. RDATE, EXDATE and EXRULE are not supported.

    Raises:
        TaskDefinitionError: The rule does not parse or never comes true, or the time zone is unknown.
    """

    rule: str

    def __post_init__(self) -> None:
        try:
            recurrence = parse_recurrence(self.rule)
            before_start = recurrence.start - timedelta(minutes=1)
            first = first_instant(next(recurrence.wall_times_after(before_start)), recurrence.zone)
            if recurrence.until is not None and first > recurrence.until:
                raise ValueError("UNTIL is before the first occurrence")
        except StopIteration:
            raise TaskDefinitionError(f"rrule {self.rule!r} never comes true; check its parts") from None
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            raise TaskDefinitionError(f"rrule {self.rule!r} cannot be read: {error}") from error

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        """Return the next time of the rule, in UTC."""
        moment = utc_or_now(after)
        recurrence = parse_recurrence(self.rule)
        zone = recurrence.zone
        try:
            candidates = (first_instant(wall, zone) for wall in recurrence.wall_times_after(wall_time(moment, zone)))
            following = next(instant for instant in candidates if instant > moment)
        except (StopIteration, OverflowError):
            raise ScheduleEndedError(str(self), moment) from None
        if recurrence.until is not None and following > recurrence.until:
            raise ScheduleEndedError(str(self), moment)
        return following

    def __str__(self) -> str:
        return f"rrule {' '.join(self.rule.split())}"
