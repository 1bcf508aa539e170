"""The registered tasks, by their name on the wire. Nothing is imported by a name from a message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import TaskDefinitionError, UnknownTaskError
from diracx.tasks.plumbing.registry.definition import check_definition
from diracx.tasks.plumbing.registry.entry_points import (
    conflict,
    distribution_name,
    extended_first,
    extension_problems,
    load,
    lock_type_entry_points,
    task_entry_points,
)
from diracx.tasks.plumbing.wire.fields import FieldsCodec


@dataclass(frozen=True, slots=True)
class RegisteredTask:
    """One task class under its name, with its codec."""

    name: str
    """`<category>:<ClassName>`."""
    task_class: type[BaseTask]
    codec: FieldsCodec[BaseTask]
    distribution: str
    """The distribution that installed it; empty for a class that was added by hand."""
    queue: tuple[Priority, Size]
    """The queue of the class that workers execute. A class that an extension replaced is submitted there, too."""

    @property
    def periodic(self) -> bool:
        """Whether the scheduler submits it."""
        return issubclass(self.task_class, PeriodicBaseTask)

    @property
    def takes_locks(self) -> bool:
        """Whether the class defines `execution_locks`. An instance may still take none."""
        return self.task_class.execution_locks is not BaseTask.execution_locks


class TaskRegistry:
    """Tasks by name and by class. Iterating gives the `RegisteredTask`s, sorted by name.

    Attributes:
        problems: One line for each entry point or task that cannot work. The others are registered all the same.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._by_name: dict[str, RegisteredTask] = {}
        self._name_of: dict[type, str] = {}
        self._codec_of: dict[type, FieldsCodec[BaseTask]] = {}
        self._broken: dict[str, str] = {}

    @classmethod
    def installed(cls) -> TaskRegistry:
        """Load lock types and tasks from the entry points of all installed distributions."""
        registry = cls()
        for lock_types in lock_type_entry_points():
            try:
                load(lock_types)
            except TaskDefinitionError as error:
                registry.problems.append(str(error))
        found = task_entry_points()
        if found:
            registry.problems += extension_problems()
        for name, entry_points in found.items():
            ordered = extended_first(entry_points)
            if problem := conflict(name, ordered):
                registry.problems.append(problem)
            for entry_point in ordered:
                registry._load(name, entry_point)
        return registry

    def add(self, name: str, task_class: type[BaseTask], distribution: str = "") -> RegisteredTask:
        """Register a class. It replaces the class of that name, which is still submitted under the name.

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
        """Return the task of a name.

        Raises:
            UnknownTaskError: No task of that name is installed.
            TaskDefinitionError: It is installed, but could not be loaded or was withdrawn.
        """
        task = self._by_name.get(name)
        if task is not None:
            return task
        if name in self._broken:
            raise TaskDefinitionError(self._broken[name])
        raise UnknownTaskError(name, self._by_name)

    def of(self, task: BaseTask) -> RegisteredTask:
        """Return the registration under which a task is submitted.

        Raises:
            TaskDefinitionError: Its class is not registered.
        """
        task_class = type(task)
        name = self._name_of.get(task_class)
        if name is None:
            raise TaskDefinitionError(
                f"{task_class.__module__}.{task_class.__qualname__} is not registered; list it in pyproject.toml under "
                f'[project.entry-points."diracx.tasks.<category>"] and install the package again'
            )
        registered = self.get(name)
        if registered.task_class is task_class:
            return registered
        # An extension's class replaced it: same name and queue on the wire, its own fields.
        return replace(registered, task_class=task_class, codec=self._codec_of[task_class])

    def withdraw(self, name: str, problem: str) -> None:
        """Remove a task that turned out not to work: `problems` gains a line, and `get` raises it from now on."""
        self._by_name.pop(name, None)
        self._report(name, f"{name}: {problem}")

    def __iter__(self) -> Iterator[RegisteredTask]:
        return iter(sorted(self._by_name.values(), key=lambda task: task.name))

    def __len__(self) -> int:
        return len(self._by_name)

    def _load(self, name: str, entry_point: EntryPoint) -> None:
        try:
            task_class = load(entry_point, name)
        except TaskDefinitionError as error:
            # The class that it extends must not run in its place unnoticed.
            self._by_name.pop(name, None)
            self._report(name, str(error))
            return
        try:
            self.add(name, task_class, distribution_name(entry_point))
            self._broken.pop(name, None)
        except TaskDefinitionError as error:
            self.withdraw(name, str(error))

    def _report(self, name: str, problem: str) -> None:
        self.problems.append(problem)
        self._broken[name] = problem
