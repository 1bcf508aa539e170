"""Schedules by a recurrence rule (RFC 5545)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from diracx.tasks.plumbing.clock import LATEST_TIME
from diracx.tasks.plumbing.exceptions import ScheduleEndedError, TaskDefinitionError
from diracx.tasks.plumbing.schedules.base import TaskScheduleBase, utc_or_now
from diracx.tasks.plumbing.schedules.recurrence import parse_recurrence
from diracx.tasks.plumbing.schedules.wall_clock import first_instant, wall_time


@dataclass(frozen=True)
class RRuleSchedule(TaskScheduleBase):
    """Run by a recurrence rule of RFC 5545.

        RRuleSchedule("DTSTART;TZID=Europe/Zurich:20260101T060000 RRULE:FREQ=DAILY;INTERVAL=2")

    The occurrences are wall-clock times in the time zone of DTSTART: those of a walk from DTSTART, wherever the rule is
    asked. Without DTSTART it is 1970-01-01T00:00:00Z, in every process. COUNT or UNTIL end the schedule for good.
    It ends in 2262 as well, with what the server can hold. An answer takes some milliseconds, and a rule that never
    comes true is known as such within a second.

    When the clocks change, a time that is skipped runs once, at the first instant after the gap (RFC 5545 would leave
    it out), and a time that comes twice runs the first time only. So write a rule that runs hourly or faster with a
    DTSTART in UTC.

    Args:
        rule: At most one DTSTART and then one RRULE, separated by a newline or a space. DTSTART ends in Z or has a
            TZID. COUNT needs a DTSTART and is 10,000 at the most. UNTIL ends in Z. A number in BYDAY goes with
            FREQ=MONTHLY or YEARLY, and all of its weekdays have one or none. BYEASTER, as in dateutil, is a number of
            days after Easter Sunday. RDATE, EXDATE and EXRULE are not supported.

    Raises:
        TaskDefinitionError: The rule does not parse or never comes true, or the time zone is unknown.
    """

    rule: str

    def __post_init__(self) -> None:
        if not isinstance(self.rule, str):
            raise TaskDefinitionError(f"rrule {self.rule!r} must be a text, e.g. 'FREQ=DAILY'")
        try:
            recurrence = parse_recurrence(self.rule)
            before_start = recurrence.start - timedelta(minutes=1)
            walls = recurrence.wall_times_after(before_start)
            first = next((first_instant(wall, recurrence.zone) for wall in walls), None)
            if first is not None and recurrence.until is not None and first > recurrence.until:
                raise ValueError("UNTIL is before the first occurrence")
        except (ValueError, ArithmeticError) as error:
            raise TaskDefinitionError(f"rrule {self.rule!r} cannot be read: {error}") from error
        if first is None or first > LATEST_TIME:
            raise TaskDefinitionError(
                f"rrule {self.rule!r} never comes true up to {LATEST_TIME.year}, and the server holds no later time; "
                "check its start and its parts"
            )

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
