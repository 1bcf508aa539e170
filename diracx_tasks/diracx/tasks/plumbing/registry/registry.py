"""The tasks that are installed, by the name on the wire. Nothing is ever imported by a name from a message."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import TaskDefinitionError, UnknownTaskError
from diracx.tasks.plumbing.registry.extension_priority import diracx_rank, extension_problem
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase
from diracx.tasks.plumbing.schedules import TaskScheduleBase
from diracx.tasks.plumbing.wire.fields import FieldsCodec

TASK_GROUP: Final = "diracx.tasks."
LOCK_TYPES_GROUP: Final = "diracx.lock_object_types"

_Importance = tuple[int, int, int, str]


@dataclass(frozen=True, slots=True)
class RegisteredTask:
    """One installed task class, with what was prepared for it once."""

    name: str
    """`<category>:<ClassName>`."""
    task_class: type[BaseTask]
    codec: FieldsCodec[BaseTask]
    distribution: str
    """What it was installed by; empty for a class that was registered by hand."""
    queue: tuple[Priority, Size]
    """Where it waits: by the class that is executed, also for the one which that replaced."""

    @property
    def periodic(self) -> bool:
        """Whether the scheduler submits it."""
        return issubclass(self.task_class, PeriodicBaseTask)

    @property
    def takes_locks(self) -> bool:
        """Whether the class says anything of locks at all."""
        return self.task_class.execution_locks is not BaseTask.execution_locks


class TaskRegistry:
    """The installed tasks. `problems` tells, a line each, what could not be loaded; it stops nothing else."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._by_name: dict[str, RegisteredTask] = {}
        self._name_of: dict[type, str] = {}
        self._codec_of: dict[type, FieldsCodec[BaseTask]] = {}
        self._broken: dict[str, str] = {}

    @classmethod
    def installed(cls) -> TaskRegistry:
        """Load lock types and tasks from the entry points of what is installed."""
        registry = cls()
        entry_points = importlib.metadata.entry_points()
        for lock_types in entry_points.select(group=LOCK_TYPES_GROUP):
            registry._try_load(lock_types)
        groups = sorted(group for group in entry_points.groups if group.startswith(TASK_GROUP))
        if groups and (problem := extension_problem()):
            registry.problems.append(problem)
        for group in groups:
            registry._load_group(group.removeprefix(TASK_GROUP), list(entry_points.select(group=group)))
        return registry

    def add(self, name: str, task_class: type[BaseTask], distribution: str = "") -> RegisteredTask:
        """Register a class; one that has the name already gives way, but is still submitted under it.

        Raises:
            TaskDefinitionError: The class cannot work as a task.
        """
        check_definition(task_class)
        queue = (task_class.priority, task_class.size)
        task = RegisteredTask(name, task_class, FieldsCodec(task_class), distribution, queue)
        self._by_name[name] = task
        self._codec_of[task_class] = task.codec
        self._name_of[task_class] = name
        return task

    def get(self, name: str) -> RegisteredTask:
        """The task of that name.

        Raises:
            UnknownTaskError: None is installed.
            TaskDefinitionError: It is installed, but could not be loaded.
        """
        task = self._by_name.get(name)
        if task is not None:
            return task
        if name in self._broken:
            raise TaskDefinitionError(self._broken[name])
        raise UnknownTaskError(name, self._by_name)

    def of(self, task: BaseTask) -> RegisteredTask:
        """The registration under which a task is submitted.

        Raises:
            TaskDefinitionError: Its class is not registered.
        """
        name = self._name_of.get(type(task))
        if name is None:
            kind = type(task)
            raise TaskDefinitionError(
                f"{kind.__module__}.{kind.__qualname__} is not registered; list it in pyproject.toml under "
                f'[project.entry-points."diracx.tasks.<category>"] and install the package again'
            )
        registered = self.get(name)
        if registered.task_class is type(task):
            return registered
        # It was replaced by an extension's class: same name and queue on the wire, own fields.
        return replace(registered, task_class=type(task), codec=self._codec_of[type(task)])

    def withdraw(self, name: str, problem: str) -> None:
        """Take a task back that turned out not to work: it is reported, and `get` raises the problem."""
        self._by_name.pop(name, None)
        self._report(name, f"{name}: {problem}")

    def __iter__(self) -> Iterator[RegisteredTask]:
        return iter(sorted(self._by_name.values(), key=lambda task: task.name))

    def __len__(self) -> int:
        return len(self._by_name)

    def _load_group(self, category: str, entry_points: list[importlib.metadata.EntryPoint]) -> None:
        # The least important first: whoever comes later replaces it.
        ranked = sorted((_importance(entry_point), entry_point) for entry_point in entry_points)
        last: dict[str, tuple[_Importance, importlib.metadata.EntryPoint]] = {}
        for importance, entry_point in ranked:
            before = last.get(entry_point.name)
            if before is not None and before[0][:-1] == importance[:-1]:
                self.problems.append(_ambiguity(f"{category}:{entry_point.name}", before[1], entry_point))
            last[entry_point.name] = (importance, entry_point)
            self._load_task(category, entry_point)

    def _load_task(self, category: str, entry_point: importlib.metadata.EntryPoint) -> None:
        name = f"{category}:{entry_point.name}"
        loaded = self._try_load(entry_point, name)
        if loaded is None:
            self._by_name.pop(name, None)
            return
        try:
            self.add(name, loaded, _distribution(entry_point))
            self._broken.pop(name, None)
        except TaskDefinitionError as error:
            # What it was to replace must not run in its stead unnoticed.
            self.withdraw(name, str(error))

    def _try_load(self, entry_point: importlib.metadata.EntryPoint, name: str | None = None) -> Any:
        try:
            return entry_point.load()
        except (Exception, SystemExit) as error:  # whatever an extension's module raises while it is imported
            where = name or f"{entry_point.group} {entry_point.name}"
            self._report(
                where,
                f"{where} ({_distribution(entry_point)}) cannot be loaded from {entry_point.value}: "
                f"{type(error).__name__}: {' '.join(str(error).split())}; {_mend_of_import(error, entry_point)}",
            )
            return None

    def _report(self, name: str, problem: str) -> None:
        self.problems.append(problem)
        self._broken[name] = problem


def check_definition(task_class: Any) -> None:
    """Check what can be known of a class without running it.

    Raises:
        TaskDefinitionError: Names the class, the cause and the mend.
    """
    if not isinstance(task_class, type) or not issubclass(task_class, BaseTask):
        kind = getattr(task_class, "__qualname__", None)
        named = f"{task_class.__module__}.{kind}" if kind else repr(task_class)
        raise TaskDefinitionError(f"{named} is no subclass of diracx.tasks.plumbing.base_task.BaseTask")
    where = f"{task_class.__module__}.{task_class.__qualname__}"
    expected: list[tuple[str, type | tuple[type, ...], str]] = [
        ("priority", Priority, "a member of Priority, e.g. Priority.NORMAL"),
        ("size", Size, "a member of Size, e.g. Size.SMALL"),
        ("retry_policy", RetryPolicyBase, "an instance of a retry policy, e.g. ExponentialBackoff()"),
        ("dlq_eligible", bool, "True or False"),
        ("timeout_seconds", (int, float, type(None)), "a number of seconds or None"),
    ]
    if issubclass(task_class, PeriodicBaseTask):
        expected.append(("default_schedule", TaskScheduleBase, "an instance of a schedule, e.g. IntervalSeconds(3600)"))
    for attribute, kind, mend in expected:
        value = getattr(task_class, attribute, None)
        if not isinstance(value, kind):
            raise TaskDefinitionError(f"{where}: {attribute} is {value!r}; make it {mend}")
    if abstract := getattr(task_class, "__abstractmethods__", None):
        raise TaskDefinitionError(f"{where} has no {', '.join(sorted(abstract))}(); write `async def execute(self)`")
    if not inspect.iscoroutinefunction(task_class.execute):
        raise TaskDefinitionError(f"{where}.execute is not async; write `async def execute(self, ...)`")
    if task_class.timeout_seconds is not None and not task_class.timeout_seconds > 0:
        raise TaskDefinitionError(f"{where}: timeout_seconds is {task_class.timeout_seconds}; make it more than 0")
    fields = getattr(task_class, "__dataclass_fields__", {})
    if issubclass(task_class, PeriodicVoAwareBaseTask) and "vo" not in fields:
        mend = (
            "put @dataclasses.dataclass above the class" if "vo" in vars(task_class).get("__annotations__", {}) else ""
        )
        raise TaskDefinitionError(f"{where} runs once per VO: {mend or 'give it the field `vo: str`'}")


def _mend_of_import(error: BaseException, entry_point: importlib.metadata.EntryPoint) -> str:
    if isinstance(error, TaskDefinitionError):
        return "mend it there"
    if isinstance(error, AttributeError) or str(getattr(error, "name", "")) == entry_point.module:
        return f"correct the entry point in pyproject.toml and install {_distribution(entry_point)} again"
    return f"see `python -c 'import {entry_point.module}'` for the traceback"


def _ambiguity(name: str, first: importlib.metadata.EntryPoint, second: importlib.metadata.EntryPoint) -> str:
    givers = " and ".join(f"{point.value} ({_distribution(point)})" for point in (first, second))
    return (
        f"{name} is given twice, by {givers}, and neither extends the other; {second.value} is used: rename one of "
        "them, or name the packages in DIRACX_EXTENSIONS, the most important first"
    )


def _distribution(entry_point: importlib.metadata.EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist is not None else ""


def _importance(entry_point: importlib.metadata.EntryPoint) -> _Importance:
    """Sorts what is extended before what extends it.

    Between extensions that diracx-core knows, its own order counts. Among others, `DIRACX_EXTENSIONS` names them, the
    most important first; without it, a distribution that requires another is its extension.
    """
    listed = [name.strip() for name in os.environ.get("DIRACX_EXTENSIONS", "").split(",") if name.strip()]
    package = entry_point.value.split(":")[0].split(".")[0]
    position = -listed.index(package) if package in listed else -len(listed)
    return diracx_rank(entry_point), position, _depth(_distribution(entry_point), {}), entry_point.value


def _depth(distribution: str, seen: dict[str, int]) -> int:
    """How many distributions with tasks stand below this one."""
    distribution = _normalized(distribution)
    if distribution in seen:
        return seen[distribution]
    seen[distribution] = 0
    try:
        requirements: Iterable[str] = importlib.metadata.requires(distribution) or ()
    except importlib.metadata.PackageNotFoundError:
        return 0
    # What an extra would bring makes no extension: the extended often list their extensions so.
    needed = [requirement for requirement in requirements if not re.search(r"\bextra\s*==", requirement)]
    below = {_normalized(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]) for requirement in needed}
    with_tasks = below & _distributions_with_tasks()
    seen[distribution] = 1 + max((_depth(name, seen) for name in with_tasks), default=-1)
    return seen[distribution]


def _distributions_with_tasks() -> set[str]:
    entry_points = importlib.metadata.entry_points()
    return {
        _normalized(point.dist.name)
        for group in entry_points.groups
        if group.startswith(TASK_GROUP)
        for point in entry_points.select(group=group)
        if point.dist is not None
    }


def _normalized(distribution: str) -> str:
    """One spelling for each distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
