"""The types of objects that a lock can protect: `task`, `job`, `transformation`, and those of extensions.

An extension registers its types in a module of its own, and lists the module in its pyproject.toml:

    # lollygag/lock_types.py
    OWNER = register_locked_object_type("owner")

    [project.entry-points."diracx.lock_object_types"]
    lollygag = "lollygag.lock_types"

A task then locks one object of the type, e.g. `MutexLock(OWNER, self.owner_name)`.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Final

from diracx.tasks.plumbing.exceptions import TaskDefinitionError, UnknownLockTypeError

_registered: dict[str, str] = {}


class LockedObjectType(str):
    """The name of a registered type; part of the key of each lock.

    `LockedObjectType("owner")` refuses a name that is not registered, since a lock on a misspelt type would exclude no
    other task.

    Raises:
        UnknownLockTypeError: The name is not registered. It is a `TaskDefinitionError` and a `ValueError`.
    """

    __slots__ = ()

    def __new__(cls, name: str) -> LockedObjectType:
        if name not in _registered:
            raise UnknownLockTypeError(str(name), _registered)
        return super().__new__(cls, name)

    def __repr__(self) -> str:
        return f"LockedObjectType({str(self)!r})"


def registered_lock_types() -> list[str]:
    """Return the names of the registered types, sorted."""
    return sorted(_registered)


def register_locked_object_type(name: str) -> LockedObjectType:
    """Register a type of object that a lock can protect. Call it once, at the top level of a module.

    Args:
        name: A text, not empty. Operators read it in the keys of `diracx-task-run locks list`.

    Raises:
        TaskDefinitionError: The name is empty or no text, or another place registered it already; the text names both
            places.
    """
    if not isinstance(name, str) or not name:
        raise TaskDefinitionError(
            f"a lock type needs a name, a text, not {name!r}: register_locked_object_type('lollygag')"
        )
    # The line of the caller tells two extensions with the same name apart, and lets a module be loaded again.
    caller = sys._getframe(1)
    place = f"{caller.f_globals.get('__name__', '?')}:{caller.f_lineno}"
    if (first := _registered.setdefault(name, place)) != place:
        raise TaskDefinitionError(
            f"lock type {name!r} is registered twice, at {first} and at {place}; rename one of them"
        )
    return LockedObjectType(name)


TASK: Final = register_locked_object_type("task")
"""A task class. Periodic tasks lock theirs, so that two executions never overlap."""

JOB: Final = register_locked_object_type("job")
"""A job, by its id."""

TRANSFORMATION: Final = register_locked_object_type("transformation")
"""A transformation, by its id."""


def validate_registry() -> None:
    """Import each module that an entry point lists, so that every installed type is registered. Workers do that too.

    Raises:
        TaskDefinitionError: A module cannot be imported, or registers a type that another one has.
    """
    for entry_point in importlib.metadata.entry_points(group="diracx.lock_object_types"):
        try:
            entry_point.load()
        except Exception as error:  # the module of an extension may raise anything
            raise TaskDefinitionError(
                f"the lock types {entry_point.name} = {entry_point.value} cannot be loaded: "
                f"{type(error).__name__}: {error}; correct the module, or the entry point in pyproject.toml"
            ) from error
