"""The kinds of things that can be locked: `task`, `job`, `transformation`, and what extensions register."""

from __future__ import annotations

import sys
from typing import Final

from diracx.tasks.plumbing.exceptions import TaskDefinitionError

_registered: dict[str, str] = {}


class LockedObjectType(str):
    """The name of a registered kind of lockable thing; part of every lock's key.

    `LockedObjectType("lollygag")` is checked: a name that nobody registered is refused, since a lock on a
    misspelt type would exclude nobody.

    Raises:
        TaskDefinitionError: The name is not registered.
    """

    __slots__ = ()

    def __new__(cls, name: str) -> LockedObjectType:
        if name not in _registered:
            raise TaskDefinitionError(
                f"unknown lock type {str(name)!r}; registered: {', '.join(sorted(_registered)) or 'none'}. "
                f"Register it with register_locked_object_type({str(name)!r}) in a module that is listed under the "
                "entry point group diracx.lock_object_types"
            )
        return super().__new__(cls, name)

    def __repr__(self) -> str:
        return f"LockedObjectType({str(self)!r})"


def register_locked_object_type(name: str) -> LockedObjectType:
    """Register a kind of lockable thing, once, at the top of a module.

    Args:
        name: Not empty; what operators read in a lock's key.

    Raises:
        TaskDefinitionError: The name is empty, or was registered at another place.
    """
    if not name:
        raise TaskDefinitionError("a lock type needs a name: register_locked_object_type('lollygag')")
    # The caller's line, so that two extensions that meet on one name can be told apart.
    caller = sys._getframe(1)
    place = f"{caller.f_globals.get('__name__', '?')}:{caller.f_lineno}"
    if (first := _registered.setdefault(name, place)) != place:
        raise TaskDefinitionError(
            f"lock type {name!r} is registered twice, at {first} and at {place}; rename one of them"
        )
    return LockedObjectType(name)


TASK: Final = register_locked_object_type("task")
"""A task as such: what keeps a periodic task from overlapping itself."""

JOB: Final = register_locked_object_type("job")
"""A job, by its id."""

TRANSFORMATION: Final = register_locked_object_type("transformation")
"""A transformation, by its id."""
