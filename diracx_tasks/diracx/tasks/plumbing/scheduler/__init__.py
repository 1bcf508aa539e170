"""When does each periodic task run next? The scheduler decides; the server holds the coming occurrences.

registry, overrides, VOs -> instances -> planning (pure) -> reconciler -> store; `leadership` chooses who does it
"""

from diracx.tasks.plumbing.scheduler.scheduler import Scheduler, SchedulerSettings

__all__ = ["Scheduler", "SchedulerSettings"]
