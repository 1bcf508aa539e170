"""The checks on a task class that need no instance of it."""

from __future__ import annotations

import dataclasses
import inspect
from contextlib import suppress
from typing import Any, Final, get_type_hints

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import TaskDefinitionError, shown
from diracx.tasks.plumbing.locks import BaseLock
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase
from diracx.tasks.plumbing.schedules import TaskScheduleBase
from diracx.tasks.plumbing.schedules.base import answers_from_now
from diracx.tasks.plumbing.wire.ending import seconds_to_keep
from diracx.tasks.plumbing.wire.fields import own_annotations

ALMOST: Final = 0.9
"""How alike two names are, of 1, if one is taken for a misspelling: `dlq_eligable`, but not `sizes`."""
_NOT_MISSPELT: Final = frozenset({"schedule", "serialize", "execute"})
"""Authors call the first two and do not write them, so `schedules` and `serializer` are names of their own. A class
without the third is refused anyway; one that inherits it may have a helper `executed`."""
_ATTRIBUTES: tuple[tuple[str, type | tuple[type, ...], str], ...] = (
    ("priority", Priority, "a member of Priority, e.g. Priority.NORMAL"),
    ("size", Size, "a member of Size, e.g. Size.SMALL"),
    ("retry_policy", RetryPolicyBase, "an instance of a retry policy, e.g. ExponentialBackoff()"),
    ("dlq_eligible", bool, "True or False"),
    ("timeout_seconds", (int, float, type(None)), "a number of seconds or None"),
    ("result_ttl_seconds", (int, float, type(None)), "a number of seconds or None"),
)
_PERIODIC_ATTRIBUTES = (
    ("default_schedule", TaskScheduleBase, "an instance of a schedule, e.g. IntervalSeconds(3600)"),
    ("_enabled", bool, "True, or False if only the configuration may switch the task on"),
)


def check_definition(task_class: Any) -> None:
    """Check the class attributes, `execute()` and the field `vo` of a task class. `FieldsCodec` checks its fields.

    Raises:
        TaskDefinitionError: The class cannot work as a task; the text names the class, the cause and the fix.
    """
    if not isinstance(task_class, type) or not issubclass(task_class, BaseTask):
        qualified = getattr(task_class, "__qualname__", None)
        named = f"{task_class.__module__}.{qualified}" if qualified else repr(task_class)
        raise TaskDefinitionError(
            f"{named} is no subclass of diracx.tasks.plumbing.base_task.BaseTask; derive it from that, or name a class "
            "of tasks in the entry point, module:ClassName"
        )
    where = f"{task_class.__module__}.{task_class.__qualname__}"
    _refuse_shadowing(task_class, where)
    _check_methods(task_class, where)
    _refuse_misspelt(task_class, where)
    periodic = issubclass(task_class, PeriodicBaseTask)
    if not periodic and isinstance(getattr(task_class, "default_schedule", None), TaskScheduleBase):
        raise TaskDefinitionError(
            f"{where}: default_schedule has no effect; derive the class from PeriodicBaseTask in place of BaseTask"
        )
    for attribute, expected, fix in (*_ATTRIBUTES, *(_PERIODIC_ATTRIBUTES if periodic else ())):
        value = getattr(task_class, attribute, None)
        if not isinstance(value, expected):
            raise TaskDefinitionError(f"{where}: {attribute} is {value!r}; make it {fix}")
    _check_policy(task_class.retry_policy, where)
    if issubclass(task_class, PeriodicBaseTask):
        _check_schedule(task_class.default_schedule, where)
    if abstract := getattr(task_class, "__abstractmethods__", None):
        raise TaskDefinitionError(f"{where} has no {', '.join(sorted(abstract))}(); write `async def execute(self)`")
    if inspect.isasyncgenfunction(task_class.execute):
        raise TaskDefinitionError(f"{where}.execute has a `yield`, so it is an async generator; write `return` instead")
    if not inspect.iscoroutinefunction(task_class.execute):
        raise TaskDefinitionError(f"{where}.execute is not async; write `async def execute(self, ...)`")
    if task_class.timeout_seconds is not None and not task_class.timeout_seconds > 0:
        raise TaskDefinitionError(f"{where}: timeout_seconds is {task_class.timeout_seconds}; make it more than 0")
    _check_result_ttl(task_class.result_ttl_seconds, where)
    if issubclass(task_class, PeriodicVoAwareBaseTask):
        _check_vo(task_class, where)


def _check_result_ttl(seconds: float | None, where: str) -> None:
    if isinstance(seconds, bool):
        raise TaskDefinitionError(f"{where}: result_ttl_seconds is {seconds}; make it a number of seconds or None")
    try:
        seconds_to_keep(seconds)
    except ValueError as error:
        raise TaskDefinitionError(f"{where}: result_ttl_seconds is {error}") from None


def _check_vo(task_class: type[PeriodicVoAwareBaseTask], where: str) -> None:
    if "vo" not in _fields(task_class):
        undecorated = "vo" in own_annotations(task_class)
        fix = "put @dataclasses.dataclass above the class" if undecorated else "give it the field `vo: str`"
        raise TaskDefinitionError(f"{where} runs once per VO: {fix}")
    if kind := _wrong_type_of_vo(task_class):
        raise TaskDefinitionError(f"{where} runs once per VO, and its field vo is {kind}; make it `vo: str`")


def _wrong_type_of_vo(task_class: type) -> str | None:
    """The type of the field `vo`, if it cannot hold the name of a VO; None: it can, or cannot be told."""
    with suppress(Exception):  # an annotation may refer to anything
        kind = get_type_hints(task_class)["vo"]
        if isinstance(kind, type) and not issubclass(str, kind) and not issubclass(kind, str):
            return kind.__name__
    return None


def _fields(task_class: Any) -> set[str]:
    """The names of the fields of a dataclass, or of a pydantic model."""
    if dataclasses.is_dataclass(task_class):
        return {field.name for field in dataclasses.fields(task_class)}
    return set(getattr(task_class, "__pydantic_fields__", {}))


def _refuse_shadowing(task_class: type, where: str) -> None:
    """Refuse fields that hide what the base classes define, e.g. `schedule`, which could not be called then."""
    bases = (BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask)
    attributes = {name for base in bases for name in base.__annotations__} - {"vo"}
    methods = {name for base in bases for name in vars(base)} - attributes
    own = _fields(task_class)
    python = {name for name in own if name.startswith("__") and name.endswith("__")}
    for name in sorted(own & (attributes | methods) | python):
        if name in methods | python:
            raise TaskDefinitionError(f"{where}: tasks have {name} already; give the field another name")
        raise TaskDefinitionError(
            f"{where}: {name} is an attribute of the class, not a field; write `{name} = ...` without an annotation, "
            f"or `{name}: ClassVar = ...` in a pydantic model"
        )


def _check_methods(task_class: type, where: str) -> None:
    """Refuse attributes in place of methods, e.g. `schedule = IntervalSeconds(60)`, and the reverse.

    `lock_retry_delay` is not among them: the executor does without one that does not work.
    """
    for name in ("schedule", "serialize"):
        found = inspect.getattr_static(task_class, name)
        if not (inspect.isroutine(found) or callable(found)):
            hint = "write default_schedule = ..." if name == "schedule" else f"write `def {name}(self, ...)`"
            raise TaskDefinitionError(f"{where}: {name} is {found!r}, but a method of tasks; {hint}")
    if inspect.isfunction(inspect.getattr_static(task_class, "validate_config", None)) and issubclass(
        task_class, PeriodicBaseTask
    ):
        raise TaskDefinitionError(
            f"{where}.validate_config is asked without a task; put @staticmethod above it, "
            "and write `def validate_config(config)`"
        )
    if inspect.iscoroutinefunction(getattr(task_class, "__post_init__", None)):
        raise TaskDefinitionError(
            f"{where}.__post_init__ is async, and nothing awaits it; write `def __post_init__(self)`, and await in "
            "execute()"
        )
    _check_locks(inspect.getattr_static(task_class, "execution_locks"), f"{where}.execution_locks")


def _check_locks(found: Any, where: str) -> None:
    """Refuse what gives no locks: a method in place of a property, an async property, or a value of another type."""
    if inspect.isfunction(found) or isinstance(found, classmethod | staticmethod):
        raise TaskDefinitionError(f"{where} is a method; put @property above it")
    getter = getattr(found, "fget", None) or getattr(found, "func", None)
    if inspect.iscoroutinefunction(getter):
        raise TaskDefinitionError(f"{where} is async; write `def execution_locks(self)` below the @property")
    if hasattr(type(found), "__get__"):
        return
    if not isinstance(found, list | tuple) or not all(isinstance(each, BaseLock) for each in found):
        raise TaskDefinitionError(
            f"{where} is {shown(repr(found))}; make it a list of locks, e.g. [MutexLock(JOB, 1)], or a property"
        )


def _refuse_misspelt(task_class: type, where: str) -> None:
    """Refuse what a class defines under almost the name of an attribute of tasks: it would silently have no effect."""
    bases = (BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask)
    known = {name for base in bases for name in (*vars(base), *base.__annotations__) if not name.startswith("_")}
    settable = known - _NOT_MISSPELT - vars(task_class).keys()
    for name, value in vars(task_class).items():
        if name.startswith("_") or name in known or name in _fields(task_class):
            continue
        # Only now: most classes have no other public name, and difflib takes 0.2 MB of a worker.
        from difflib import get_close_matches

        # A property `enabled` may be the author's own.
        switch = {"_enabled"} if issubclass(task_class, PeriodicBaseTask) and isinstance(value, bool) else set()
        if meant := get_close_matches(name, settable | (switch - vars(task_class).keys()), n=1, cutoff=ALMOST):
            raise TaskDefinitionError(
                f"{where}: {name} has no effect; did you mean {meant[0]}? Or give it another name"
            )


def _check_policy(policy: RetryPolicyBase, where: str) -> None:
    if inspect.iscoroutinefunction(policy.schedule_retry):
        raise TaskDefinitionError(
            f"{where}: {type(policy).__qualname__}.schedule_retry is async; write "
            "`def schedule_retry(self, attempt, exception)`"
        )


def _check_schedule(schedule: TaskScheduleBase, where: str) -> None:
    try:
        answers_from_now(schedule)
        str(schedule)
    except TaskDefinitionError as error:
        raise TaskDefinitionError(f"{where}: {error}") from None
    except Exception as error:  # an author's own schedule may raise anything
        raise TaskDefinitionError(
            f"{where}: the text of its default_schedule raises {type(error).__name__}: {error}; mend its __str__"
        ) from error
