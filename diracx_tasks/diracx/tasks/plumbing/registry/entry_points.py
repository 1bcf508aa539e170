"""The entry points that give tasks and lock types, and which of two with one name wins.

An extension wins over the distribution that it extends. Distribution A extends distribution B if

* A is the DiracX extension of this environment (`extension = "<package>"` under `[project.entry-points."diracx"]`)
  and B is not; or
* both or neither are, and A requires B, directly or through other distributions. Extras do not count: a distribution
  often offers its own extension as one.

Nothing is imported before `load()`.
"""

from __future__ import annotations

import importlib.metadata
import re
import traceback
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint
from typing import Any, Final

from diracx.tasks.plumbing.exceptions import TaskDefinitionError

_TASK_GROUP: Final = "diracx.tasks."
_LOCK_TYPES_GROUP: Final = "diracx.lock_object_types"
_EXTENSION_GROUP: Final = "diracx"
_EXTENSION_NAME: Final = "extension"


def lock_type_entry_points() -> Iterable[EntryPoint]:
    """Return the entry points whose modules register lock types."""
    return importlib.metadata.entry_points().select(group=_LOCK_TYPES_GROUP)


def task_entry_points() -> dict[str, list[EntryPoint]]:
    """Return the entry points of each task name, `<category>:<ClassName>`, sorted by group."""
    installed = importlib.metadata.entry_points()
    found: dict[str, list[EntryPoint]] = {}
    for group in sorted(group for group in installed.groups if group.startswith(_TASK_GROUP)):
        for entry_point in installed.select(group=group):
            found.setdefault(f"{group.removeprefix(_TASK_GROUP)}:{entry_point.name}", []).append(entry_point)
    return found


def load(entry_point: EntryPoint, name: str | None = None) -> Any:
    """Import the module of an entry point, and return the object that it names.

    Args:
        entry_point: One of a task or of lock types.
        name: The name of the task; None for lock types.

    Raises:
        TaskDefinitionError: The entry point is malformed, or the import failed. The text names the entry point, the
            distribution, the cause and the fix.
    """
    subject = (
        f"{name or f'{entry_point.group} {entry_point.name}'} ({distribution_name(entry_point)}) cannot be loaded "
        f"from {entry_point.value}"
    )
    if not module_of(entry_point):
        raise TaskDefinitionError(f"{subject}: it is neither `module` nor `module:name`; {_correct_it(entry_point)}")
    try:
        return entry_point.load()
    except (Exception, SystemExit) as error:  # the module of an extension may raise anything
        raise TaskDefinitionError(
            f"{subject}: {type(error).__name__}: {' '.join(str(error).split())}; {_fix_of_import(error, entry_point)}"
        ) from error


def module_of(entry_point: EntryPoint) -> str:
    """Return the module that an entry point names; empty if its value is malformed.

    `EntryPoint.module` raises `AttributeError` for a malformed value.
    """
    match = EntryPoint.pattern.match(entry_point.value)
    return match.group("module") if match is not None else ""


def extended_first(entry_points: Sequence[EntryPoint]) -> list[EntryPoint]:
    """Sort the entry points of one name: each one stands after those that it extends, and the last one wins."""
    if len(entry_points) == 1:
        return list(entry_points)
    return sorted(
        entry_points,
        key=lambda one: (sum(_extends(one, other) for other in entry_points), one.value),
    )


def conflict(name: str, ordered: Sequence[EntryPoint]) -> str | None:
    """Describe, in one line, two distributions that give one name although neither extends the other.

    Args:
        name: The name of the task.
        ordered: Its entry points, as `extended_first` sorts them.

    Returns:
        The line, which names both; None if the winner extends all others.
    """
    *others, winner = ordered
    rivals = [other for other in others if not _extends(winner, other)]
    if not rivals:
        return None
    givers = " and ".join(f"{each.value} ({distribution_name(each)})" for each in (rivals[-1], winner))
    return (
        f"{name} is given twice, by {givers}, and neither extends the other; {winner.value} is used: "
        "rename one of them, or uninstall one of the distributions"
    )


def group_problems() -> list[str]:
    """Describe each entry point whose group is almost one of tasks or of lock types, in one line."""
    installed = importlib.metadata.entry_points()
    problems = []
    for group in sorted(installed.groups):
        if group.startswith("diracx.task") and not group.startswith(_TASK_GROUP):
            gives, meant = "gives no task", f"{_TASK_GROUP}<category>"
        elif group.startswith("diracx.lock") and group != _LOCK_TYPES_GROUP:
            gives, meant = "registers no lock type", _LOCK_TYPES_GROUP
        else:
            continue
        problems += [
            f"the entry point {point.name} = {point.value} ({distribution_name(point)}) stands in the group {group}, "
            f'which {gives}; write [project.entry-points."{meant}"] in pyproject.toml and install '
            f"{distribution_name(point)} again"
            for point in installed.select(group=group)
        ]
    return problems


def extension_problems() -> list[str]:
    """Describe the malformed DiracX extensions of this environment, and several of them, in one line each.

    DiracX lists itself in the same way, and does not count.
    """
    problems = [
        f"the DiracX extension {point.value!r} ({distribution_name(point)}) is not the name of a package; "
        f"{_correct_it(point)}"
        for point in _extension_entry_points()
        if not module_of(point)
    ]
    extensions = _extension_packages()
    if len(extensions) > 1:
        problems.append(
            f"DiracX allows one extension in an environment, and {' and '.join(sorted(extensions))} are installed; "
            "uninstall all but one, or give each a virtual environment of its own"
        )
    return problems


def distribution_name(entry_point: EntryPoint) -> str:
    """Return the distribution that installed an entry point; empty if its metadata does not say."""
    return entry_point.dist.name if entry_point.dist is not None else ""


def _extension_entry_points() -> Iterable[EntryPoint]:
    return importlib.metadata.entry_points().select(group=_EXTENSION_GROUP, name=_EXTENSION_NAME)


def _extension_packages() -> set[str]:
    return {module_of(entry_point) for entry_point in _extension_entry_points()} - {"diracx", ""}


def _extends(one: EntryPoint, other: EntryPoint) -> bool:
    extensions = _extension_packages()
    one_listed, other_listed = (module_of(point).split(".")[0] in extensions for point in (one, other))
    if one_listed != other_listed:
        return one_listed
    one_name, other_name = (_normalized(distribution_name(point)) for point in (one, other))
    return other_name in _required(one_name) and one_name not in _required(other_name)


def _required(distribution: str) -> set[str]:
    """Return the distributions that one requires, directly or through others, without extras."""
    required: set[str] = set()
    pending = [distribution]
    while pending:
        try:
            requirements = importlib.metadata.requires(pending.pop()) or ()
        except (importlib.metadata.PackageNotFoundError, ValueError):  # a name without a distribution, or an empty one
            continue
        always = [requirement for requirement in requirements if not re.search(r"\bextra\s*==", requirement)]
        found = {_normalized(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]) for requirement in always}
        pending += found - required
        required |= found
    return required


def _normalized(distribution: str) -> str:
    """Return the one spelling of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _fix_of_import(error: BaseException, entry_point: EntryPoint) -> str:
    if isinstance(error, TaskDefinitionError):
        return f"correct it{_place(error, entry_point) or ' there'}"
    if getattr(error, "code", "") == "model-field-missing-annotation":  # of pydantic, for a task that is a model
        return "write e.g. `priority: ClassVar = Priority.NORMAL`"
    here = isinstance(error, AttributeError) and getattr(error.obj, "__name__", "") == entry_point.module
    if here or (isinstance(error, ModuleNotFoundError) and error.name == entry_point.module):
        return _correct_it(entry_point)
    place = _place(error, entry_point)
    return f"{f'it is raised{place}; ' if place else ''}see `python -c 'import {entry_point.module}'` for the traceback"


def _place(error: BaseException, entry_point: EntryPoint) -> str:
    """The last line of the extension's own code that an error of its import came through; empty: there is none."""
    package = entry_point.module.partition(".")[0]
    own = [
        f" in {frame.f_globals['__name__']}, line {line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == package
    ]
    return own[-1] if own and package != "diracx" else ""


def _correct_it(entry_point: EntryPoint) -> str:
    return f"correct the entry point in pyproject.toml and install {distribution_name(entry_point)} again"
