"""When does a periodic task run next? Schedules are values: the same `after` gives the same answer.

Each class comes from its module when somebody asks for it: a process whose tasks have no schedules does without cron
fields, recurrence rules and time zones. `__init__.pyi` tells the names to type checkers.
"""

from importlib import import_module
from typing import Any, Final

_MODULE_OF: Final = {
    "CronSchedule": "cron",
    "IntervalSeconds": "interval",
    "RRuleSchedule": "rrule",
    "TaskScheduleBase": "base",
}
__all__ = ["CronSchedule", "IntervalSeconds", "RRuleSchedule", "TaskScheduleBase"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
