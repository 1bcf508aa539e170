"""The schedules of a mesh: one for each periodic task, and one for each VO of a VO-aware periodic task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from diracx.tasks.plumbing.base_task import PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.scheduler.planning import Rule
from diracx.tasks.plumbing.scheduler.state import ScheduleKey


@dataclass(frozen=True, slots=True)
class Instance:
    """One schedule, and the task message that each of its occurrences publishes."""

    key: ScheduleKey
    rule: Rule
    priority: Priority
    size: Size
    body: bytes
    """The fields of the task as JSON; empty if the task cannot be created."""
    disabled_reason: str | None = None
    """Why the schedule is disabled; None if it is enabled."""
    description: str = field(init=False)
    """The schedule in words, e.g. `every 3600 s`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "description", str(self.rule.schedule))


def instances_of(
    registry: TaskRegistry, configuration: Configuration, vos: Iterable[str]
) -> dict[ScheduleKey, Instance]:
    """Every schedule of the installed tasks for these VOs, the disabled ones included."""
    names = sorted(set(vos))
    found = {}
    for task in registry:
        task_class = task.task_class
        if not issubclass(task_class, PeriodicBaseTask):
            continue
        for vo in names if issubclass(task_class, PeriodicVoAwareBaseTask) else [""]:
            key = ScheduleKey(task.name, vo)
            found[key] = _instance(task, task_class, key, configuration)
    return found


def instance_of_removed_vo(registry: TaskRegistry, key: ScheduleKey) -> Instance | None:
    """A disabled instance that ends the schedule of a VO that was removed.

    Returns:
        None if the task is not VO-aware, or is not installed here. It may be installed where another scheduler runs, so
        its schedule is left alone.
    """
    for task in registry:
        task_class = task.task_class
        if task.name == key.task and key.vo and issubclass(task_class, PeriodicVoAwareBaseTask):
            rule = Rule(task_class.default_schedule, enabled=False)
            return Instance(key, rule, task_class.priority, task_class.size, b"", "the VO was removed")
    return None


def _instance(
    task: RegisteredTask, task_class: type[PeriodicBaseTask], key: ScheduleKey, configuration: Configuration
) -> Instance:
    override = configuration.override(key.task, key.vo or None)
    schedule = override.schedule or task_class.default_schedule
    disabled_reason = "disabled by the configuration" if override.enabled is False else None
    body = b""
    try:
        body = task.codec.encode(task.codec.from_arguments([], {"vo": key.vo} if key.vo else {}))
    except (MalformedTaskError, msgspec.MsgspecError) as error:
        disabled_reason = f"it cannot be made without arguments: {error}"
    rule = Rule(schedule, enabled=disabled_reason is None)
    return Instance(key, rule, task_class.priority, task_class.size, body, disabled_reason)
