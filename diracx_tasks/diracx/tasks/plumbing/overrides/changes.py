"""The limits that a configuration sets, and the settings that differ between two configurations.

Meanings are compared, not texts: another layout, another order or a comment changes nothing, and neither does a value
that is written down though the code of the task has the same one. What the code has is known of installed tasks only.

A row without a VO is about all VOs together, save those with a row of their own: a VO has one if the configuration says
something about it that does not follow from the setting for all VOs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.lock_registry import registered_lock_types
from diracx.tasks.plumbing.overrides.configuration import (
    Configuration,
    Entry,
    Limit,
    LimitKind,
    RateLimit,
    names_of,
    type_name,
)
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.schedules import TaskScheduleBase

SHARED: Final = "for all VOs together"
_LIMITS: Final = frozenset(LimitKind)
_DISABLED: Final = "disabled"


class SetLimit(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that is in force. These fields, in this order, are those of `limits` in `config show --json`."""

    task: str | None
    """The task whose executions it limits; None: it limits owners of an object."""
    object: tuple[str, ...] | None
    """The locked type as it is registered here, the key or `default`, and extra parts; None: it limits a task."""
    kind: LimitKind
    vo: str | None
    """The VO whose tasks it counts apart; None: it counts the tasks of all VOs together."""
    limit: int
    window_seconds: float | None
    """None: it limits how many there are at a time."""
    path: str
    """Where it is written, e.g. `limits.Transformation.default`."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A setting that changes. These fields, in this order, are those of `changes` in `config diff --json`."""

    task: str | None
    """None: it is about an object, or about the whole mesh."""
    object: tuple[str, ...] | None
    """As in `SetLimit`."""
    vo: str | None
    """None: all VOs without a row of their own."""
    setting: str
    """`vos`, `enabled`, `schedule`, `rate_limit`, `concurrency_limit`, or `entries.<name>`."""
    before: str | None
    """In words; None: none is set, or it is as in the code of a task that is not installed here."""
    after: str | None


def limits_of(configuration: Configuration, registry: TaskRegistry) -> list[SetLimit]:
    """The limits that a configuration sets, those of tasks first, sorted by what they limit, kind and VO.

    Args:
        registry: The installed tasks, for tasks that are named by their class alone.
    """
    found = []
    for task in sorted(_tasks_named(registry, configuration)):
        for kind in LimitKind:
            for vo in [None, *sorted(_vos_named(task, configuration))]:
                limit = configuration.task_limit(kind, task, vo)
                if limit is not None and limit.vo == (vo or ""):
                    found.append(_set_limit(limit, task=task))
    for place, limits in sorted(configuration.objects.items()):
        for kind in LimitKind:
            if (value := getattr(limits, kind)) is not None:
                found.append(_set_limit(Limit(kind, value, place[0], limits.path), place=_spelled(place)))
    return found


def changes_between(before: Configuration, after: Configuration, registry: TaskRegistry) -> list[Change]:
    """What changes in effect, and for which tasks: first the VOs, then tasks by name, then objects.

    Args:
        registry: The installed tasks.
    """
    return [
        *_changes_of_vos(before, after),
        *_changes_of_tasks(before, after, registry),
        *_changes_of_objects(before, after),
    ]


def limit_in_words(value: RateLimit | int) -> str:
    """E.g. `5`, or `10 in 60 s`."""
    return f"{value.limit} in {value.window_seconds:g} s" if isinstance(value, RateLimit) else str(value)


def _set_limit(limit: Limit, *, task: str | None = None, place: tuple[str, ...] | None = None) -> SetLimit:
    rate = limit.value if isinstance(limit.value, RateLimit) else None
    return SetLimit(
        task=task,
        object=place,
        kind=limit.kind,
        vo=limit.vo or None,
        limit=limit.value if isinstance(limit.value, int) else limit.value.limit,
        window_seconds=None if rate is None else rate.window_seconds,
        path=limit.path,
    )


def _changes_of_vos(before: Configuration, after: Configuration) -> Iterator[Change]:
    words = [None if each.vos is None else ", ".join(each.vos) or "none" for each in (before, after)]
    if words[0] != words[1]:
        yield Change(task=None, object=None, vo=None, setting="vos", before=words[0], after=words[1])


def _changes_of_objects(before: Configuration, after: Configuration) -> Iterator[Change]:
    for place in sorted({*before.objects, *after.objects}):
        for kind in LimitKind:
            values = [getattr(each.objects.get(place), kind, None) for each in (before, after)]
            if values[0] != values[1]:
                words = [None if value is None else limit_in_words(value) for value in values]
                vo = place[0] or None
                yield Change(task=None, object=_spelled(place), vo=vo, setting=kind, before=words[0], after=words[1])


def _spelled(place: tuple[str, ...]) -> tuple[str, ...]:
    """Type, key and parts of a place in `Configuration.objects`, with the type as it is registered."""
    registered = {type_name(each): each for each in registered_lock_types()}
    return registered.get(place[1], place[1]), *place[2:]


def _changes_of_tasks(before: Configuration, after: Configuration, registry: TaskRegistry) -> Iterator[Change]:
    classes: dict[str, type[BaseTask]] = {task.name: task.task_class for task in registry}
    named = _tasks_named(registry, before, after)
    joined, left = _vos_joined_and_left(before, after)
    per_vo = {name for name, task_class in classes.items() if issubclass(task_class, PeriodicVoAwareBaseTask)}
    for task in sorted(named | (per_vo if joined or left else set())):
        task_class = classes.get(task)
        common = _settings(before, task, task_class), _settings(after, task, task_class)
        yield from _differences(task, None, *common)
        coming_and_going = joined | left if task in per_vo else set()
        for vo in sorted(_vos_named(task, before, after)):
            own = _settings(before, task, task_class, vo), _settings(after, task, task_class, vo)
            found = _differences(task, vo, *own, common)
            yield from (each for each in found if vo not in coming_and_going or each.setting in _LIMITS)
        for vo in sorted(coming_and_going):
            words = [
                _scheduled(_settings(each, task, task_class, vo)) if vo in (each.vos or ()) else None
                for each in (before, after)
            ]
            if words[0] != words[1]:
                yield Change(task=task, object=None, vo=vo, setting="schedule", before=words[0], after=words[1])


def _vos_joined_and_left(before: Configuration, after: Configuration) -> tuple[set[str], set[str]]:
    # Without `vos:` the VOs come from elsewhere, so nobody can tell which of them are new.
    if before.vos is None or after.vos is None:
        return set(), set()
    return set(after.vos) - set(before.vos), set(before.vos) - set(after.vos)


_Settings = Mapping[str, Any]
"""The settings of a task, or of one VO of it, by name: texts, and a `(value, VO)` for each limit. None: none is set."""


def _settings(
    configuration: Configuration, task: str, task_class: type[BaseTask] | None, vo: str | None = None
) -> _Settings:
    override = configuration.override(task, vo)
    enabled, schedule, by_default = override.enabled, override.schedule, True
    if task_class is not None:
        if issubclass(task_class, PeriodicBaseTask):
            schedule, by_default = schedule or task_class.default_schedule, task_class._enabled
        enabled = by_default if enabled is None else enabled
    found: dict[str, Any] = {
        "enabled": None if enabled is None else "true" if enabled else "false",
        "schedule": None if schedule is None or override.entries is not None else str(schedule),
    }
    for kind in LimitKind:
        limit = configuration.task_limit(kind, task, vo)
        found[kind] = None if limit is None else (limit.value, limit.vo)
    for name, entry in sorted((override.entries or {}).items()):
        off = not override.enables(entry, by_default)
        found[f"entries.{name}"] = _entry_in_words(entry, entry.schedule or schedule, off)
    return found


def _entry_in_words(entry: Entry, schedule: TaskScheduleBase | None, off: bool) -> str:
    parts = [
        "" if schedule is None else str(schedule),
        f"args {msgspec.json.encode(entry.args, order='sorted').decode()}" if entry.args else "",
        _DISABLED if off else "",
    ]
    return "; ".join(filter(None, parts)) or "as the task"


def _scheduled(settings: _Settings) -> str | None:
    """What runs for one VO of a task, in words; None: nothing."""
    if (schedule := settings["schedule"]) is not None:
        return None if settings["enabled"] == "false" else str(schedule)
    entries = {name.partition(".")[2]: words for name, words in settings.items() if name.startswith("entries.")}
    running = [name or "without a name" for name, words in entries.items() if not words.endswith(_DISABLED)]
    return f"entries {', '.join(running)}" if running else None


def _differences(
    task: str,
    vo: str | None,
    before: _Settings,
    after: _Settings,
    common: tuple[_Settings, _Settings] | None = None,
) -> Iterator[Change]:
    """The settings that differ, without those that a VO only has from the settings for all VOs, `common`."""
    for setting in sorted({*before, *after}, key=lambda name: (name.startswith("entries."), name)):
        values = before.get(setting), after.get(setting)
        if values[0] != values[1] and (common is None or values != tuple(each.get(setting) for each in common)):
            words = [_in_words(value, vo) for value in values]
            yield Change(task=task, object=None, vo=vo, setting=setting, before=words[0], after=words[1])


def _in_words(value: Any, vo: str | None) -> str | None:
    if not isinstance(value, tuple):
        return None if value is None else str(value)
    number, own_vo = value
    return limit_in_words(number) + (f" {SHARED}" if vo is not None and not own_vo else "")


def _tasks_named(registry: TaskRegistry, *configurations: Configuration) -> set[str]:
    """The tasks that configurations name: those of a class, where only the class is named."""
    written: set[str] = set()
    for each in configurations:
        written.update(each.tasks, (task for task, _ in each.task_vos))
    whole = {name for name in written if ":" in name}
    by_class: dict[str, set[str]] = {}
    for name in (*whole, *(task.name for task in registry)):
        by_class.setdefault(names_of(name)[1], set()).add(name)
    return whole.union(*(by_class.get(name, {name}) for name in written - whole))


def _vos_named(task: str, *configurations: Configuration) -> set[str]:
    """The VOs of which configurations say something about a task."""
    return {vo for each in configurations for name, vo in each.task_vos if name in names_of(task)}
