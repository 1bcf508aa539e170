"""DiracX's own layout of the file, that of its release 0.7 and that of its decision record DX-ADR-001 together.

    common:                                 # all of it may stand below `tasks:`, too
      OwnerReportTask:                      # 0.7: the class of a task
        enabled: true
        rate_limit: 10
        rate_window_seconds: 60
        concurrency_limit: 5
        periodic: {enabled: true, schedule: "0 7 * * *", interval_seconds: 3600}
      periodic-tasks:                       # the decision record: entries of periodic tasks
        SubmitPilots:
          - name: SubmitPilotsCERN
            args: {ce_regex: ".*cern.*"}
            schedule: {class: CronSchedule, arg: "0 */6 * * *"}
            enabled: true
      limits:                               # the decision record: limits by locked type, key and parts
        Task: {SubmitPilots: {ConcurrencyLimiter: {limit: 2}}}
        Transformation: {default: {RateLimiter: {limit: 10, window_seconds: 60}}}
    vo-overrides:
      lhcb: {...}                           # the same for one VO

Rules of DiracX that hold here:

* A value for a VO is merged over the common one, key by key. So a VO may set `rate_limit` and leave the window to the
  common settings. `periodic.schedule` and `periodic.interval_seconds` are one value: a VO that sets either of them
  replaces both. If both are written, `schedule` counts.
* The entries of a VO replace the common ones.
* A key whose value is null is not written.

A rule that does not: DiracX reads an `enabled` that is not written as true. Here it says nothing, so that settings for
a task do not switch on what its class has switched off.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.exceptions import near_names, shown
from diracx.tasks.plumbing.overrides.configuration import Configuration, Entry, Override, RateLimit
from diracx.tasks.plumbing.overrides.limits import DIRACX_LIMITS, WrittenLimits, read_limits, with_limits
from diracx.tasks.plumbing.overrides.reading import (
    arguments,
    below,
    converted,
    fields,
    mapping,
    positive,
    refused,
    schedule,
)
from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds, RRuleSchedule, TaskScheduleBase

COMMON: Final = "common"
VO_OVERRIDES: Final = ("vo-overrides", "vo_overrides")
DIRACX_KEYS: Final = (COMMON, *VO_OVERRIDES)

_PERIODIC_TASKS: Final = "periodic-tasks"
_LIMITS: Final = "limits"
_ENTRY: Final = ("name", "args", "enabled", "schedule")
_SCHEDULES: Final[Mapping[str, tuple[type[TaskScheduleBase], type]]] = {
    "IntervalSeconds": (IntervalSeconds, float),
    "IntervalSecondsSchedule": (IntervalSeconds, float),
    "CronSchedule": (CronSchedule, str),
    "RRuleSchedule": (RRuleSchedule, str),
}


class PeriodicTaskConfig(msgspec.Struct, kw_only=True):
    """The settings for the schedule of one periodic task, as DiracX 0.7 has them."""

    enabled: bool = True
    schedule: str | None = None
    """A cron expression, in UTC."""
    interval_seconds: int | None = None


class TaskOverride(msgspec.Struct, kw_only=True):
    """The settings for one task, as DiracX 0.7 has them."""

    enabled: bool = True
    rate_limit: int | None = None
    """The number of executions in a window."""
    rate_window_seconds: int | None = None
    concurrency_limit: int | None = None
    periodic: PeriodicTaskConfig | None = None


class TasksConfig(msgspec.Struct, kw_only=True):
    """The configuration of tasks, as DiracX 0.7 has it."""

    common: dict[str, TaskOverride] = {}
    """By the name of the class."""
    vo_overrides: dict[str, dict[str, TaskOverride]] = {}
    """By VO, then by the name of the class."""


class _Section(msgspec.Struct, frozen=True):
    """What is written below `common`, or below one VO."""

    path: str
    settings: dict[str, dict[str, Any]]
    """By task: the checked values that are written, by the names of `TaskOverride`; `periodic` likewise."""
    entries: dict[str, dict[str, Entry]]
    limits: WrittenLimits

    def overrides(self, common: _Section | None = None) -> Iterable[tuple[str, Override]]:
        """The settings of each task.

        Args:
            common: The section that this one of a VO is merged over.
        """
        for name in {**self.settings, **self.entries, **self.limits.tasks}:
            override = self._override(name, {} if common is None else common.settings.get(name, {}))
            limits = self.limits.tasks.get(name)
            yield name, override if limits is None else with_limits(override, limits)

    def _override(self, name: str, base: Mapping[str, Any]) -> Override:
        own = self.settings.get(name, {})
        if name in self.settings:
            path = below(self.path, name)
        elif name in self.entries:
            path = below(below(self.path, _PERIODIC_TASKS), name)
        else:
            path = self.limits.tasks[name].path
        periodic = own.get("periodic")
        periodic_path = below(path, "periodic")
        return Override(
            enabled=_enabled(own, base),
            schedule=None if periodic is None else _schedule_of(periodic, periodic_path),
            rate_limit=_rate(own, base, path),
            concurrency_limit=own.get("concurrency_limit"),
            entries=self.entries.get(name),
            path=path,
            periodic_path="" if periodic is None else periodic_path,
        )


def read_diracx_layout(raw: Mapping[str, Any], path: str) -> Configuration:
    """Read a file, but for its `vos`.

    Args:
        raw: The mapping with the keys `common` and `vo-overrides`.
        path: Its path: empty, or `tasks`.

    Raises:
        ConfigurationError: A key is unknown, a value is bad, or one limit is written twice.
    """
    written = fields(raw, path, DIRACX_KEYS)
    spellings = [key for key in VO_OVERRIDES if key in written]
    if len(spellings) > 1:
        raise refused(below(path, spellings[1]), f"the same as {below(path, spellings[0])}; keep one of them")
    common = _section(written.get(COMMON), below(path, COMMON), "")
    sections: dict[str, _Section] = {}
    for spelling in spellings:
        vos_path = below(path, spelling)
        for vo, section in mapping(written[spelling], vos_path).items():
            sections[vo] = _section(section, below(vos_path, vo), vo)
    _refuse_lone_windows(common, sections.values())
    tasks = dict(common.overrides())
    task_vos = {(name, vo): each for vo, section in sections.items() for name, each in section.overrides(common)}
    objects = dict(common.limits.objects)
    for section in sections.values():
        objects.update(section.limits.objects)
    return Configuration(tasks=tasks, task_vos=task_vos, objects=objects)


def _section(raw: Any, path: str, vo: str) -> _Section:
    written = mapping(raw, path)
    entries_path = below(path, _PERIODIC_TASKS)
    return _Section(
        path,
        {
            name: _settings(settings, below(path, name))
            for name, settings in written.items()
            if name not in (_PERIODIC_TASKS, _LIMITS)
        },
        {
            name: _entries(entries, below(entries_path, name))
            for name, entries in mapping(written.get(_PERIODIC_TASKS), entries_path).items()
        },
        read_limits(written.get(_LIMITS), below(path, _LIMITS), vo, DIRACX_LIMITS),
    )


def _settings(raw: Any, path: str) -> dict[str, Any]:
    written = fields(raw, path, TaskOverride.__struct_fields__)
    if "periodic" in written:
        periodic_path = below(path, "periodic")
        written["periodic"] = fields(written["periodic"], periodic_path, PeriodicTaskConfig.__struct_fields__)
    converted(written, TaskOverride, path)
    for key in ("rate_limit", "rate_window_seconds", "concurrency_limit"):
        if key in written:
            positive(written[key], below(path, key))
    return written


def _enabled(own: Mapping[str, Any], base: Mapping[str, Any]) -> bool | None:
    """Whether a task is enabled, by its own two keys and, where one is missing, those of the common settings."""
    if "enabled" not in own and "enabled" not in own.get("periodic", {}):
        return None
    task = own.get("enabled", base.get("enabled"))
    periodic = own.get("periodic", {}).get("enabled", base.get("periodic", {}).get("enabled"))
    return task is not False and periodic is not False


def _rate(own: Mapping[str, Any], base: Mapping[str, Any], path: str) -> RateLimit | None:
    if "rate_limit" not in own and "rate_window_seconds" not in own:
        return None
    limit = own.get("rate_limit", base.get("rate_limit"))
    window = own.get("rate_window_seconds", base.get("rate_window_seconds"))
    if limit is None:
        return None
    if window is None:
        raise refused(below(path, "rate_limit"), "has no window; write e.g. `rate_window_seconds: 60` beside it")
    return RateLimit(limit, window)


def _refuse_lone_windows(common: _Section, sections: Collection[_Section]) -> None:
    for section in (common, *sections):
        bounded = (common, *sections) if section is common else (common, section)
        for name, own in section.settings.items():
            limited = any("rate_limit" in each.settings.get(name, {}) for each in bounded)
            if "rate_window_seconds" in own and not limited:
                where = below(below(section.path, name), "rate_window_seconds")
                raise refused(where, "bounds nothing; write `rate_limit` beside it")


def _schedule_of(periodic: Mapping[str, Any], path: str) -> TaskScheduleBase | None:
    if (cron := periodic.get("schedule")) is not None:
        return schedule(lambda: CronSchedule(cron), below(path, "schedule"))
    if (interval := periodic.get("interval_seconds")) is not None:
        return schedule(lambda: IntervalSeconds(interval), below(path, "interval_seconds"))
    return None


def _entries(raw: Any, path: str) -> dict[str, Entry]:
    if not isinstance(raw, list) or not raw:
        raise refused(path, "write a list of entries, e.g. `- args: {...}`; to switch the task off, `enabled: false`")
    found: dict[str, Entry] = {}
    for index, written in enumerate(raw):
        name, entry = _entry(written, f"{path}[{index}]")
        if name in found:
            named = f"is named {name!r} like" if name else "has no name like"
            raise refused(entry.path, f"{named} {found[name].path}; give it a `name` of its own")
        found[name] = entry
    return found


def _entry(raw: Any, path: str) -> tuple[str, Entry]:
    written = mapping(raw, path)
    for key in written:
        if key not in _ENTRY and "args" in written and written["args"] is None:
            raise refused(below(path, key), f"an argument stands below `args`; write it at {path}.args.{key}")
    written = fields(raw, path, _ENTRY)
    return converted(written.get("name", ""), str, below(path, "name")), Entry(
        args=arguments(written.get("args"), below(path, "args")),
        enabled=converted(written.get("enabled"), bool | None, below(path, "enabled")),
        schedule=_entry_schedule(written["schedule"], below(path, "schedule")) if "schedule" in written else None,
        path=path,
    )


def _entry_schedule(raw: Any, path: str) -> TaskScheduleBase:
    written = fields(raw, path, ("class", "arg"))
    if written.keys() != {"class", "arg"}:
        raise refused(path, 'write `class` and `arg`, e.g. {class: CronSchedule, arg: "0 7 * * *"}')
    name = converted(written["class"], str, below(path, "class"))
    if name not in _SCHEDULES:
        near = near_names(name, _SCHEDULES) or _SCHEDULES
        raise refused(below(path, "class"), f"no schedule is named {shown(name)!r}; write {' or '.join(near)}")
    schedule_class, kind = _SCHEDULES[name]
    arg = converted(written["arg"], kind, below(path, "arg"))
    make: Any = schedule_class
    return schedule(lambda: make(arg), path)
