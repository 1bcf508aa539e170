"""The registered tasks, by their name on the wire. Nothing is imported by a name from a message.

One class may have several names, e.g. an earlier one, under which tasks still wait. Each is a task of its own: it has
its own overrides and, for a periodic class, its own schedule. `schedule()` uses the name that ends in the name of the
class; if several do, or none, the first of them by category, then by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import TaskDefinitionError, UnknownTaskError, shown
from diracx.tasks.plumbing.registry.definition import check_definition
from diracx.tasks.plumbing.registry.entry_points import (
    conflict,
    distribution_name,
    extended_first,
    extension_problems,
    group_problems,
    load,
    lock_type_entry_points,
    task_entry_points,
)
from diracx.tasks.plumbing.wire.fields import FieldsCodec
from diracx.tasks.plumbing.wire.names import check_task_name, split_task_name


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
        withdrawn_sizes: The sizes of the tasks that were registered and then withdrawn.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.withdrawn_sizes: set[Size] = set()
        self._by_name: dict[str, RegisteredTask] = {}
        self._names_of: dict[type[BaseTask], list[str]] = {}
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
        registry.problems += group_problems()
        found = task_entry_points()
        if found:
            registry.problems += extension_problems()
        for name, entry_points in found.items():
            ordered = extended_first(entry_points)
            if problem := conflict(name, ordered):
                registry.problems.append(problem)
            for entry_point in ordered:
                registry._load(name, entry_point)
        registry.problems += registry._schedules_of_one_class()
        return registry

    def add(self, name: str, task_class: type[BaseTask], distribution: str = "") -> RegisteredTask:
        """Register a class. It replaces the class of that name, which is still submitted under the name.

        Raises:
            TaskDefinitionError: The class cannot work as a task, or the name is none of a task.
        """
        _check_name(name, distribution)
        check_definition(task_class)
        queue = (task_class.priority, task_class.size)
        task = RegisteredTask(name, task_class, FieldsCodec(task_class), distribution, queue)
        self._by_name[name] = task
        self._codec_of[task_class] = task.codec
        names = self._names_of.setdefault(task_class, [])
        if name not in names:
            names.append(name)
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

    def of(self, task: BaseTask, name: str | None = None) -> RegisteredTask:
        """Return the registration under which a task is submitted.

        Args:
            task: An instance of a registered class.
            name: One of the names of its class; None: the class's own one, see the top of this module.

        Raises:
            TaskDefinitionError: Its class is not registered, or not under that name.
        """
        if isinstance(task, type):
            raise TaskDefinitionError(f"{task.__qualname__} is a class; submit a task, {task.__qualname__}(...)")
        task_class = type(task)
        names = self._names_of.get(task_class)
        if not names and not isinstance(task, BaseTask):
            raise TaskDefinitionError(f"{shown(repr(task))} is no task; give an instance of a subclass of BaseTask")
        if not names:
            raise TaskDefinitionError(
                f"{task_class.__module__}.{task_class.__qualname__} is not registered; list it in pyproject.toml under "
                f'[project.entry-points."diracx.tasks.<category>"] and install the package again'
            )
        if name is None:
            parts = {each: split_task_name(each) for each in names}
            name = min(names, key=lambda each: (parts[each][1] != task_class.__name__, parts[each]))
        elif name not in names:
            raise TaskDefinitionError(
                f"{task_class.__module__}.{task_class.__qualname__} is not {shown(name)}; its names are "
                f"{', '.join(sorted(names))}"
            )
        registered = self.get(name)
        if registered.task_class is task_class:
            return registered
        # An extension's class replaced it: same name and queue on the wire, its own fields.
        return replace(registered, task_class=task_class, codec=self._codec_of[task_class])

    def withdraw(self, name: str, problem: str) -> None:
        """Remove a task that turned out not to work: `problems` gains a line, and `get` raises it from now on."""
        if (task := self._by_name.pop(name, None)) is not None:
            self.withdrawn_sizes.add(task.task_class.size)
        self._report(name, f"{name}: {problem}")

    def __iter__(self) -> Iterator[RegisteredTask]:
        return iter(sorted(self._by_name.values(), key=lambda task: task.name))

    def __len__(self) -> int:
        return len(self._by_name)

    def _schedules_of_one_class(self) -> Iterator[str]:
        """Describe each periodic class that is scheduled once for each of several names, in one line."""
        names_of: dict[type[BaseTask], list[str]] = {}
        for task in self:
            if task.periodic:
                names_of.setdefault(task.task_class, []).append(task.name)
        for task_class, names in names_of.items():
            if len(names) > 1:
                yield (
                    f"{' and '.join(names)} are one class, {task_class.__module__}.{task_class.__qualname__}, and each "
                    "name has a schedule: remove all but one of the entry points, or write `enabled: false` for the "
                    "others in the configuration"
                )

    def _load(self, name: str, entry_point: EntryPoint) -> None:
        try:
            _check_name(name, distribution_name(entry_point))
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


def _check_name(name: str, distribution: str) -> None:
    if not isinstance(name, str):
        raise TaskDefinitionError(f"{name!r} is no name of a task; write add('<category>:<ClassName>', TheClass)")
    try:
        check_task_name(name)
    except ValueError as error:
        given = f" ({distribution})" if distribution else ""
        # As it is, like any other problem, so that a command that asks for the task can tell which one is its own.
        written = name if name.isprintable() else repr(name)
        raise TaskDefinitionError(f"{shown(written)}{given} is no name of a task: {error}") from None
