"""The occurrences of periodic tasks between two times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final

from diracx.tasks.plumbing.base_task import PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.scheduler.instances import Instance, instances_of
from diracx.tasks.plumbing.scheduler.planning import next_after

MAX_OCCURRENCES: Final = 1_000


def chosen(registry: TaskRegistry, classes: Iterable[type[PeriodicBaseTask]]) -> list[RegisteredTask]:
    """The periodic tasks of these classes; of all classes if none is given.

    Raises:
        TaskDefinitionError: One of the classes is no periodic task that is installed.
    """
    periodic = {task.task_class: task for task in registry if task.periodic}
    wanted = list(classes)
    for each in wanted:
        if not isinstance(each, type):
            raise TaskDefinitionError(
                f"{each!r} is no class; name the classes of tasks, e.g. tick(SyncOwnersTask, to=...)"
            )
        if each not in periodic:
            raise TaskDefinitionError(
                f"{each!r} is no installed periodic task; list its class in pyproject.toml and install the package "
                "again, or write `mesh.registry.add(name, task_class)`"
            )
    return [task for task_class, task in periodic.items() if not wanted or task_class in wanted]


def occurrences(
    tasks: Iterable[RegisteredTask],
    configuration: Configuration,
    vos: Iterable[str] | None,
    after: datetime | None,
    to: datetime,
) -> list[tuple[datetime, list[Instance]]]:
    """What falls due after one time, up to and including another, in order.

    Args:
        vos: The virtual organisations; None: those of the configuration.
        after: The time of the tick before; None: right before `to`.
        to: The last time.

    Raises:
        ValueError: As for `Mesh.tick`.
    """
    if not isinstance(to, datetime) or to.utcoffset() is None:
        raise ValueError(f"tick(to={to!r}): give an aware datetime, e.g. datetime(2027, 1, 1, tzinfo=UTC)")
    if after is not None and to <= after:
        raise ValueError(f"tick(to={to.isoformat()}): the tick before went to {after.isoformat()}, give a later time")
    begin = to - timedelta(microseconds=1) if after is None else after
    listed = list(tasks)
    found: list[tuple[datetime, Instance]] = []
    for instance in instances_of(listed, configuration, _vos(listed, configuration, vos)).values():
        if not instance.body:
            raise ValueError(f"{instance.key} is not scheduled: {instance.disabled_reason}")
        if instance.rule.enabled:
            found += ((due, instance) for due in _dues(instance, begin, to))
        if len(found) > MAX_OCCURRENCES:
            raise ValueError(
                f"tick(to={to.isoformat()}) has more than {MAX_OCCURRENCES} occurrences since {begin.isoformat()}, "
                f"many of {instance.key}; name the classes, or tick to an earlier time first"
            )
    found.sort(key=lambda each: each[0])
    return [(due, [instance for _, instance in group]) for due, group in groupby(found, key=lambda each: each[0])]


def _vos(tasks: list[RegisteredTask], configuration: Configuration, vos: Iterable[str] | None) -> Iterable[str]:
    if isinstance(vos, str):
        raise ValueError(f"vos is the text {vos!r}; give a list, [{vos!r}]")
    if vos is not None:
        return vos
    if configuration.vos is None:
        aware = [task.name for task in tasks if issubclass(task.task_class, PeriodicVoAwareBaseTask)]
        if aware:
            raise ValueError(f"{aware[0]} runs once for each VO: name them, e.g. tick(..., vos=['lhcb'])")
    return configuration.vos or ()


def _dues(instance: Instance, after: datetime, to: datetime) -> Iterator[datetime]:
    if instance.rule.from_now:
        raise ValueError(
            f"{instance.key}: {instance.rule.words} answers from now, so no tick can tell its occurrences; submit the "
            "task instead"
        )
    count = 0
    while count <= MAX_OCCURRENCES:
        following = next_after(instance.rule.schedule, after)
        if following is None or following > to:
            return
        yield following
        after, count = following, count + 1
