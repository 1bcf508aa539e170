"""The scheduler: decides what comes next; the server holds what is to come.

    registry, configuration, VOs -> instances -> planning -> keeping -> store

One process leads (`leadership`), the others stand by. `planning` is pure; `keeping` says what each crash leaves behind.
"""

from diracx.tasks.plumbing.scheduler.scheduler import Scheduler, SchedulerSettings

__all__ = ["Scheduler", "SchedulerSettings"]
