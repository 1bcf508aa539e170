"""Our layout of the file. Every key is optional.

    vos: [lhcb, atlas]
    tasks:
      lollygag:OwnerReportTask:             # or the name of the class alone
        enabled: true
        schedule: {cron: "0 7 * * *", timezone: Europe/Zurich}
        rate_limit: {limit: 10, window_seconds: 60}
        concurrency_limit: 5
        entries:                            # a periodic task with several schedules
          SubmitPilotsCERN: {args: {ce_regex: ".*cern.*"}, schedule: {interval: 7200}, enabled: true}
        vos:
          atlas: {enabled: false, entries: {...}}
    limits:                                 # by locked type, for limiters in the code
      Transformation:
        default: {concurrency_limit: 10}
        "12345": {concurrency_limit: 5}
      StorageElement:
        "CERN-DST":
          RemoveFile: {rate_limit: {limit: 3, window_seconds: 60}}
    vo_limits:                              # the same for one VO
      lhcb:
        Transformation: {...}

A key set for a VO wins over the same key set for the task, and that wins over the task's code. The entries of a VO
replace the common ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.overrides.configuration import Configuration, Entry, Override
from diracx.tasks.plumbing.overrides.limits import OUR_LIMITS, read_limits, with_limits
from diracx.tasks.plumbing.overrides.reading import (
    arguments,
    below,
    converted,
    fields,
    mapping,
    refused,
    schedule,
)
from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds, RRuleSchedule, TaskScheduleBase

OUR_KEYS: Final = ("tasks", "limits", "vo_limits")

_SETTINGS: Final = ("enabled", "schedule", *OUR_LIMITS.keys, "entries")
_ENTRY: Final = ("args", "enabled", "schedule")


class _Schedule(msgspec.Struct, frozen=True):
    """The YAML of a schedule: exactly one of `cron`, `interval` and `rrule`."""

    cron: str | None = None
    interval: float | None = None
    """In seconds."""
    rrule: str | None = None
    timezone: str | None = None
    """The time zone of `cron`."""

    def schedule(self) -> TaskScheduleBase:
        given = [name for name in ("cron", "interval", "rrule") if getattr(self, name) is not None]
        if len(given) != 1:
            raise TaskDefinitionError(f"write one of cron, interval (seconds) and rrule, not {len(given)}")
        if self.timezone is not None and self.cron is None:
            raise TaskDefinitionError("timezone goes with cron; an rrule has it in its DTSTART")
        if self.cron is not None:
            return CronSchedule(self.cron, "UTC" if self.timezone is None else self.timezone)
        if self.rrule is not None:
            return RRuleSchedule(self.rrule)
        return IntervalSeconds(self.interval or 0)


def read_our_layout(file: Mapping[str, Any]) -> Configuration:
    """Read a file, but for its `vos`.

    Args:
        file: The mapping with the keys `OUR_KEYS`.

    Raises:
        ConfigurationError: A key is unknown, a value is bad, or one limit is written twice.
    """
    tasks: dict[str, Override] = {}
    task_vos: dict[tuple[str, str], Override] = {}
    for task, settings in mapping(file.get("tasks"), "tasks").items():
        path = below("tasks", task)
        written = fields(settings, path, (*_SETTINGS, "vos"))
        tasks[task] = _override(written, path)
        vos_path = below(path, "vos")
        for vo, of_vo in mapping(written.get("vos"), vos_path).items():
            task_vos[task, vo] = _override(fields(of_vo, below(vos_path, vo), _SETTINGS), below(vos_path, vo))
    limits = read_limits(file.get("limits"), "limits", "", OUR_LIMITS)
    for task, found in limits.tasks.items():
        tasks[task] = with_limits(tasks.get(task), found)
    objects = dict(limits.objects)
    for vo, of_types in mapping(file.get("vo_limits"), "vo_limits").items():
        limits = read_limits(of_types, below("vo_limits", vo), vo, OUR_LIMITS)
        objects.update(limits.objects)
        for task, found in limits.tasks.items():
            task_vos[task, vo] = with_limits(task_vos.get((task, vo)), found)
    return Configuration(tasks=tasks, task_vos=task_vos, objects=objects)


def _override(written: dict[str, Any], path: str) -> Override:
    limits = OUR_LIMITS.limits(written, path)
    return Override(
        enabled=converted(written.get("enabled"), bool | None, below(path, "enabled")),
        schedule=_schedule(written.get("schedule"), below(path, "schedule")),
        rate_limit=limits.rate_limit,
        concurrency_limit=limits.concurrency_limit,
        entries=_entries(written["entries"], below(path, "entries")) if "entries" in written else None,
        path=path,
    )


def _schedule(raw: Any, path: str) -> TaskScheduleBase | None:
    if raw is None:
        return None
    written: _Schedule = converted(fields(raw, path, _Schedule.__struct_fields__), _Schedule, path)
    return schedule(written.schedule, path)


def _entries(raw: Any, path: str) -> dict[str, Entry]:
    found = {name: _entry(entry, below(path, name)) for name, entry in mapping(raw, path).items()}
    if not found:
        raise refused(path, "names no entry; to switch the task off, write `enabled: false`")
    return found


def _entry(raw: Any, path: str) -> Entry:
    written = fields(raw, path, _ENTRY)
    return Entry(
        args=arguments(written.get("args"), below(path, "args")),
        enabled=converted(written.get("enabled"), bool | None, below(path, "enabled")),
        schedule=_schedule(written.get("schedule"), below(path, "schedule")),
        path=path,
    )
