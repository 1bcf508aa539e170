"""Tasks outside a worker, by the names that DiracX has here: for FastAPI's own machinery, and for tests of extensions.

    registry = load_task_registry()
    call = wrap_task(registry["lollygag:SyncOwnersTask"])
    dependant = fastapi.dependencies.utils.get_dependant(path="", call=call)
    async with setup_dependency_overrides([dependant]) as overrides:
        if missing := find_missing_overrides(dependant, overrides):
            sys.exit(f"set {', '.join(missing)}")

A worker does without: it injects by itself. To run a task once, use `diracx.tasks.testing.run_task` or
`diracx-task-run call`, which inject and take locks.

There is no `create_task_bindings`: `JetStreamBroker.connect` binds the installed tasks by itself.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib import import_module
from typing import Any, Final, Protocol

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.injection.auto_injection import auto_inject
from diracx.tasks.plumbing.injection.databases import Database
from diracx.tasks.plumbing.injection.diracx_classes import DATABASES, DiracxClass, sentinel_of
from diracx.tasks.plumbing.injection.diracx_config import VARIABLE, DiracxConfig
from diracx.tasks.plumbing.injection.resource import Resource
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.registry import TaskRegistry

logger = logging.getLogger(__name__)

AnyCallable = Callable[..., Any]

_GROUP: Final = "diracx.tasks."
_UNNAMED: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Dependant(Protocol):
    """The part of `fastapi.dependencies.models.Dependant` that is read here. So FastAPI is never imported."""

    call: AnyCallable | None
    """Never None for one of the dependencies."""
    dependencies: list[Any]
    """Of the same type."""


def load_task_registry(groups: list[str] | None = None) -> dict[str, type[BaseTask]]:
    """Return the installed tasks: `<category>:<ClassName>` -> class. Each problem is a warning in the log.

    Args:
        groups: Entry point groups, e.g. `["diracx.tasks.jobs"]`. None: all of them.
    """
    registry = TaskRegistry.installed()
    for problem in registry.problems:
        logger.warning("%s", problem)
    return {
        task.name: task.task_class
        for task in registry
        if groups is None or _GROUP + task.name.partition(":")[0] in groups
    }


async def task_wrapper(
    cls: type[BaseTask], *args: Any, _redis: None = None, _interactive: bool = False, **kwargs: Any
) -> Any:
    """Make a task of a class and execute it once, here. Nothing is injected, retried or stored, and no lock is taken.

    DiracX takes the task's locks from the Redis of `_redis`. Here locks are keys in JetStream, owned by a process that
    renews them; a call without a broker has nothing to take them from. Running without locks what asked for them would
    be a silent change, so another `_redis` than None is refused.

    Args:
        cls: The class of the task.
        args: The values of its fields.
        _redis: None.
        _interactive: Skips limiters in DiracX. Has no effect here.
        kwargs: The keyword parameters of `execute()`.

    Raises:
        TypeError: A lock coordinator was given, or the values do not fit the fields.
        Exception: Whatever `execute()` raises.
    """
    if _redis is not None:
        raise TypeError(
            f"{cls.__qualname__}: locks are in JetStream, not in Redis; leave _redis out to execute without locks, or "
            "execute with locks by diracx.tasks.testing.run_task or `diracx-task-run call`"
        )
    return await cls(*args).execute(**kwargs)


def wrap_task(cls: type[BaseTask]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return a coroutine function that executes a task, with a signature that FastAPI reads.

    Args:
        cls: The class of the task.

    Returns:
        A function to call as `wrapped(*values_of_fields, **injected)`, see `task_wrapper`. Its signature has the
        parameters of `execute()` alone, keyword-only, with FastAPI's markers.
    """

    async def wrapped(*args: Any, **injected: Any) -> Any:
        return await task_wrapper(cls, *args, **injected)

    # Bound to any object, the signature loses `self`.
    execute = inspect.getattr_static(cls, "execute").__get__(object(), cls)
    parameters = inspect.signature(auto_inject(execute)).parameters.values()
    described: Any = wrapped
    described.__name__, described.__qualname__, described.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    described.__signature__ = inspect.Signature(
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters if each.kind not in _UNNAMED]
    )
    return wrapped


def find_missing_overrides(dependant: Dependant, overrides: Mapping[AnyCallable, AnyCallable]) -> list[str]:
    """Return what the dependencies of a task lack: `DIRACX_DB_URL_JOBDB (for JobDB)`, each once.

    Args:
        dependant: FastAPI's reading of a task or a route.
        overrides: As `setup_dependency_overrides` gives them.

    Raises:
        TaskDefinitionError: DiracX finds no database at all, since an entry point is malformed.
    """
    resources = Resources()
    missing: dict[str, None] = {}
    for call in _calls(dependant):
        sentinel = sentinel_of(call)
        if call in overrides or sentinel is None or not sentinel.hollow or (served := resources.serving(call)) is None:
            continue
        resource, _ = served
        missing.update(dict.fromkeys(f"{each} (for {resource.name})" for each in _wanted(resource)))
    return list(missing)


@asynccontextmanager
async def setup_dependency_overrides(
    task_dependants: Iterable[Dependant] = (),
) -> AsyncIterator[dict[AnyCallable, AnyCallable]]:
    """Open what the environment configures, on this event loop and for the block: databases and the configuration.

    What is not configured, or cannot be used, is left out: `find_missing_overrides` names it.

    Args:
        task_dependants: FastAPI's readings of tasks or routes. The settings that they ask for are opened too.

    Yields:
        Overrides for FastAPI: `JobDB.transaction` and its like -> the callable that gives the value.

    Raises:
        ResourceError: The configuration cannot be read.
        Exception: Settings or a database cannot be opened.
    """
    asked = (call for dependant in task_dependants for call in _calls(dependant))
    resources = Resources()
    overrides: dict[AnyCallable, AnyCallable] = {}
    usable: dict[Resource[Any], bool] = {}
    async with AsyncExitStack() as stack:
        for call in dict.fromkeys([*_configurable(), *asked]):
            if (served := resources.serving(call)) is None:
                continue
            resource, replacement = served
            if resource not in usable:
                usable[resource] = not resource.problems()
                if usable[resource]:
                    await stack.enter_async_context(resource.opened())
            if usable[resource]:
                overrides[call] = replacement
        yield overrides


def _calls(dependant: Dependant) -> Iterator[AnyCallable]:
    for inner in dependant.dependencies:
        yield inner.call
        yield from _calls(inner)


def _configurable() -> Iterator[AnyCallable]:
    """Return the sentinels of each database whose variable is set, and of the configuration."""
    for family in (*DATABASES, DiracxClass.CONFIGURATION_SOURCE):
        module, _, names = family.value
        with suppress(ModuleNotFoundError):  # without that part of DiracX nothing can ask for it
            import_module(module)
        base: Any = family.base
        if base is None:
            continue
        implementations = [base]
        if family in DATABASES:
            implementations = [each for name in base.available_urls() for each in base.available_implementations(name)]
        yield from (getattr(implementation, name) for implementation in implementations for name in names)


def _wanted(resource: Resource[Any]) -> list[str]:
    """Return the variables of a resource. For settings, whose variables are many, what is wrong with them."""
    if isinstance(resource, Database):
        return [resource.variable]
    if isinstance(resource, DiracxConfig):
        return [VARIABLE]
    return resource.problems()
