"""The schedules of a mesh: one for each periodic task, for each VO of a VO-aware one, and for each entry of either."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.base_task import PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import MalformedTaskError, TaskDefinitionError, UnknownTaskError
from diracx.tasks.plumbing.overrides.configuration import Configuration, Entry, Override
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.scheduler.planning import Rule
from diracx.tasks.plumbing.scheduler.state import ScheduleKey

OFF_BY_DEFAULT: Final = "off by default: `_enabled = False` in the code; the configuration may switch it on"


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
    removed: bool = False
    """Whether neither the code nor the configuration has it any more, so that nothing of it has to stay."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of its entry."""
        found: dict[str, Any] = msgspec.json.decode(self.rule.arguments or b"{}")
        return found


def instances_of(
    registry: Iterable[RegisteredTask], configuration: Configuration, vos: Iterable[str]
) -> dict[ScheduleKey, Instance]:
    """Every schedule of the installed tasks for these VOs, the disabled ones included."""
    names = sorted(set(vos))
    found = {}
    for task in registry:
        task_class = task.task_class
        if not issubclass(task_class, PeriodicBaseTask):
            continue
        for vo in names if issubclass(task_class, PeriodicVoAwareBaseTask) else [""]:
            override = configuration.override(task.name, vo or None)
            for name, entry in override.schedules.items():
                key = ScheduleKey(task.name, vo, name)
                found[key] = _instance(task, task_class, key, override, entry)
    return found


def removed_instances(
    registry: Iterable[RegisteredTask],
    known: Iterable[ScheduleKey],
    wanted: Mapping[ScheduleKey, Instance],
    *,
    vos_known: bool,
) -> list[Instance]:
    """Disabled instances that end known schedules whose VO or entry was removed.

    The schedules of a task that is not installed here are left alone: it may be installed where another scheduler
    runs (see `ScheduleReconciler.forget_gone`). So are those of a VO-aware task that name no VO, and the reverse:
    another version runs there.

    Args:
        vos_known: Whether the VOs are known. If not, no schedule of a VO has been removed.
    """
    vo_aware: dict[str, type[PeriodicBaseTask]] = {}
    plain: dict[str, type[PeriodicBaseTask]] = {}
    for task in registry:
        if issubclass(task.task_class, PeriodicBaseTask):
            group = vo_aware if issubclass(task.task_class, PeriodicVoAwareBaseTask) else plain
            group[task.name] = task.task_class
    vos = {(key.task, key.vo) for key in wanted}
    found = []
    for key in known:
        task_class = (vo_aware if key.vo else plain).get(key.task)
        if key in wanted or task_class is None or (key.vo and not vos_known):
            continue
        reason = "its entry was removed" if not key.vo or (key.task, key.vo) in vos else "the VO was removed"
        rule = Rule(task_class.default_schedule, enabled=False)
        found.append(Instance(key, rule, task_class.priority, task_class.size, b"", reason, removed=True))
    return found


def has_task(registry: TaskRegistry, key: ScheduleKey) -> bool:
    """Whether the task of a schedule is installed, and runs for each VO if the key names one, or for none.

    A task that is installed and cannot be loaded counts as there: it may be mended.
    """
    try:
        task_class = registry.get(key.task).task_class
    except UnknownTaskError:
        return False
    except TaskDefinitionError:
        return True
    if not issubclass(task_class, PeriodicBaseTask):
        return False
    return issubclass(task_class, PeriodicVoAwareBaseTask) == bool(key.vo)


def _instance(
    task: RegisteredTask, task_class: type[PeriodicBaseTask], key: ScheduleKey, override: Override, entry: Entry
) -> Instance:
    schedule = entry.schedule or override.schedule or task_class.default_schedule
    disabled_reason = _disabled_reason(task_class, override, entry)
    body = arguments = b""
    try:
        arguments = _arguments(entry)
        body = _body(task, key.vo, entry)
    except (MalformedTaskError, msgspec.MsgspecError) as error:
        problem = f"{entry.path}.args: {error}" if entry.args else f"it cannot be made without arguments: {error}"
        disabled_reason = problem
    rule = Rule(schedule, enabled=disabled_reason is None, arguments=arguments)
    return Instance(key, rule, task_class.priority, task_class.size, body, disabled_reason)


def _disabled_reason(task_class: type[PeriodicBaseTask], override: Override, entry: Entry) -> str | None:
    if override.enables(entry, task_class._enabled):
        return None
    if override.enabled is False:
        return "disabled by the configuration"
    return OFF_BY_DEFAULT if entry.enabled is None else f"disabled by the configuration: {entry.path}"


def _arguments(entry: Entry) -> bytes:
    """The arguments of an entry as JSON; empty if it has none. The order of the keys in the file does not matter."""
    try:
        return msgspec.json.encode(entry.args, order="sorted") if entry.args else b""
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedTaskError(str(error)) from error


def _body(task: RegisteredTask, vo: str, entry: Entry) -> bytes:
    if vo and "vo" in entry.args:
        raise MalformedTaskError("the scheduler gives `vo`; leave it out")
    return task.codec.encode(task.codec.from_arguments([], {**entry.args, "vo": vo} if vo else entry.args))
