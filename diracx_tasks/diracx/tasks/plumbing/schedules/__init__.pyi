from diracx.tasks.plumbing.schedules.base import TaskScheduleBase as TaskScheduleBase
from diracx.tasks.plumbing.schedules.cron import CronSchedule as CronSchedule
from diracx.tasks.plumbing.schedules.interval import IntervalSeconds as IntervalSeconds
from diracx.tasks.plumbing.schedules.rrule import RRuleSchedule as RRuleSchedule
