"""When does a periodic task run next? Schedules are values: the same `after` gives the same answer."""

from diracx.tasks.plumbing.schedules.base import CronSchedule, IntervalSeconds, RRuleSchedule, TaskScheduleBase

__all__ = ["CronSchedule", "IntervalSeconds", "RRuleSchedule", "TaskScheduleBase"]
