"""When does a periodic task run next? Schedules are values: the same `after` gives the same answer."""

from diracx.tasks.plumbing.schedules.base import TaskScheduleBase
from diracx.tasks.plumbing.schedules.cron import CronSchedule
from diracx.tasks.plumbing.schedules.interval import IntervalSeconds
from diracx.tasks.plumbing.schedules.rrule import RRuleSchedule

__all__ = ["CronSchedule", "IntervalSeconds", "RRuleSchedule", "TaskScheduleBase"]
