"""Checks a configuration against the tasks that are installed here.

`parse` knows the form of a configuration. This module knows whether it fits the classes: whether the arguments of an
entry are fields, whether a task has a schedule at all, and what the class itself says (`validate_config`).

What is not installed here may be installed where workers run, so it is a warning. The rest is an error: it could never
take effect.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from diracx.tasks.plumbing.base_task import PeriodicBaseTask, PeriodicVoAwareBaseTask, TaskConfig
from diracx.tasks.plumbing.exceptions import MalformedTaskError, near_names
from diracx.tasks.plumbing.lock_registry import registered_lock_types
from diracx.tasks.plumbing.overrides.configuration import Configuration, Entry, Override, names_of, type_name
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.wire.failure import message_of

_ANY_VO = "vo"
"""Stands for a VO where none is known."""


class Problems(msgspec.Struct, frozen=True):
    """One line for each problem. Each line begins with the path of the setting."""

    errors: list[str]
    """The configuration must not be put in force."""
    warnings: list[str]


def problems(configuration: Configuration, registry: TaskRegistry) -> Problems:
    """Check a configuration against the installed tasks and locked types.

    Args:
        configuration: A parsed one.
        registry: The installed tasks.
    """
    errors: list[str] = []
    warnings: list[str] = []
    for name, path in configuration.paths_of_tasks.items():
        found = [task for task in registry if name in names_of(task.name)]
        if not found:
            known = [task.name if ":" in name else names_of(task.name)[1] for task in registry]
            near = near_names(name, known)
            warnings.append(f"{path}: no task of that name is installed here{_did_you_mean(near)}")
        for task in found:
            errors += _errors_of_task(configuration, name, task)
    warnings += _unknown_types(configuration)
    warnings += _unknown_vos(configuration)
    return Problems(list(dict.fromkeys(errors)), list(dict.fromkeys(warnings)))


def _errors_of_task(configuration: Configuration, name: str, task: RegisteredTask) -> Iterator[str]:
    common = configuration.tasks.get(name)
    of_vos = {vo: override for (named, vo), override in configuration.task_vos.items() if named == name}
    for override in (common, *of_vos.values()):
        if override is not None and not task.periodic:
            yield from _schedules(override, f"{task.name} is not periodic, so it has no schedule; remove it")
    if not issubclass(task.task_class, PeriodicBaseTask):
        return
    if not issubclass(task.task_class, PeriodicVoAwareBaseTask):
        for override in of_vos.values():
            yield from _schedules(override, f"{task.name} does not run once per VO; write it for the task", True)
        of_vos = {}
    if common is not None:
        others = [vo for vo in configuration.vos or () if vo not in of_vos or of_vos[vo].entries is None]
        yield from _errors_of_entries(common.entries or {}, task, others or [_ANY_VO])
        yield from _refused_by_class(task.task_class, common)
    for vo, override in of_vos.items():
        yield from _errors_of_entries(override.entries or {}, task, [vo])
        yield from _refused_by_class(task.task_class, configuration.override(task.name, vo))


def _schedules(override: Override, problem: str, enabled: bool = False) -> Iterator[str]:
    """Yield a line for each setting of a schedule.

    Args:
        override: The settings.
        problem: Why they cannot have it.
        enabled: Whether `enabled` is one of them.
    """
    if override.periodic_path:
        yield f"{override.periodic_path}: {problem}"
    elif override.schedule is not None:
        yield f"{override.path}.schedule: {problem}"
    elif enabled and override.enabled is not None:
        yield f"{override.path}.enabled: {problem}"
    for entry in (override.entries or {}).values():
        yield f"{entry.path}: {problem}"


def _errors_of_entries(entries: Mapping[str, Entry], task: RegisteredTask, vos: Iterable[str]) -> Iterator[str]:
    vo_aware = issubclass(task.task_class, PeriodicVoAwareBaseTask)
    for entry in entries.values():
        path = f"{entry.path}.args"
        if vo_aware and "vo" in entry.args:
            yield f"{path}.vo: the scheduler sets the VO; write the entry below the VO that it is for"
            continue
        for vo in vos if vo_aware else ("",):
            try:
                args = {**entry.args, "vo": vo} if vo_aware else entry.args
                task.codec.encode(task.codec.from_arguments([], args))
            except MalformedTaskError as error:
                yield f"{path}: {' '.join(str(error).split())}"


def _refused_by_class(task_class: type[PeriodicBaseTask], override: Override) -> Iterator[str]:
    """Ask the class. What it raises is its answer, whatever it is: the code of an author may raise anything."""
    config = [_task_config(name, entry, override, task_class) for name, entry in override.schedules.items()]
    check: Callable[[list[TaskConfig]], object] = task_class.validate_config
    try:
        answer = check(config)
    except (Exception, SystemExit) as error:
        text = " ".join(message_of(error).split()) or type(error).__name__
        yield f"{override.path}: {task_class.__name__} refuses it: {text}"
        return
    if inspect.iscoroutine(answer):
        answer.close()
        yield f"{override.path}: {task_class.__name__}.validate_config is async, so it cannot be asked; write `def`"


def _task_config(name: str, entry: Entry, override: Override, task_class: type[PeriodicBaseTask]) -> TaskConfig:
    return TaskConfig(
        name=name,
        args=entry.args,
        enabled=override.enables(entry, task_class._enabled),
        schedule=entry.schedule or override.schedule or task_class.default_schedule,
    )


def _unknown_types(configuration: Configuration) -> Iterator[str]:
    known = {type_name(each): each for each in registered_lock_types()}
    for place, limits in configuration.objects.items():
        if place[1] not in known:
            path = limits.path.removesuffix("." + ".".join(place[2:]))
            near = near_names(place[1], known)
            hint = _did_you_mean([known[name] for name in near])
            yield f"{path}: no locked type of that name is installed here{hint}"


def _unknown_vos(configuration: Configuration) -> Iterator[str]:
    if configuration.vos is None:
        return
    named = {place[0]: limits.path for place, limits in configuration.objects.items() if place[0]}
    named |= {vo: override.path for (_, vo), override in configuration.task_vos.items()}
    for vo, path in named.items():
        if vo not in configuration.vos:
            yield f"{path}: {vo} is not one of `vos`{_did_you_mean(near_names(vo, configuration.vos))}"


def _did_you_mean(near: list[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""
