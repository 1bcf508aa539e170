"""Which schedules there are: each periodic task, and each VO of those that run per VO."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from diracx.tasks.plumbing.base_task import PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.overrides.overrides import Configuration
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.scheduler.planning import Rule
from diracx.tasks.plumbing.scheduler.state import ScheduleKey


@dataclass(frozen=True, slots=True)
class Instance:
    """One schedule and what it publishes."""

    key: ScheduleKey
    rule: Rule
    priority: Priority
    size: Size
    body: bytes
    why_not: str | None = None
    """Why it is not enabled."""
    words: str = field(init=False)
    """The schedule in words."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", str(self.rule.schedule))


def instances_of(
    registry: TaskRegistry, configuration: Configuration, vos: Iterable[str]
) -> dict[ScheduleKey, Instance]:
    """Every schedule that should be there, the disabled ones included."""
    names = sorted(set(vos))
    found = {}
    for task in registry:
        kind = task.task_class
        if not issubclass(kind, PeriodicBaseTask):
            continue
        for vo in names if issubclass(kind, PeriodicVoAwareBaseTask) else [""]:
            key = ScheduleKey(task.name, vo)
            found[key] = _instance(task, kind, key, configuration)
    return found


def instance_without_vo(registry: TaskRegistry, key: ScheduleKey) -> Instance | None:
    """How to end a schedule whose VO is not there any more; None when the task is not installed here or has no VOs.

    What is not installed here may be installed where another scheduler runs, and is left alone.
    """
    for task in registry:
        kind = task.task_class
        if task.name == key.task and key.vo and issubclass(kind, PeriodicVoAwareBaseTask):
            rule = Rule(kind.default_schedule, enabled=False)
            return Instance(key, rule, kind.priority, kind.size, b"", "the VO is not there any more")
    return None


def _instance(
    task: RegisteredTask, kind: type[PeriodicBaseTask], key: ScheduleKey, configuration: Configuration
) -> Instance:
    override = configuration.override(key.task, key.vo or None)
    schedule = override.schedule or kind.default_schedule
    why_not = "disabled by the configuration" if override.enabled is False else None
    body = b""
    try:
        body = task.codec.encode(task.codec.from_arguments([], {"vo": key.vo} if key.vo else {}))
    except (MalformedTaskError, msgspec.MsgspecError) as error:
        why_not = f"it cannot be made without arguments: {error}"
    return Instance(key, Rule(schedule, why_not is None), kind.priority, kind.size, body, why_not)
