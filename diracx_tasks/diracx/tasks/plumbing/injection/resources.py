"""The resources of DiracX that tasks need: found while tasks are prepared, checked, and opened once for each loop.

    resources = Resources(overrides)
    for task in tasks:
        resources.prepare(task.task_class, task.name)
    resources.check()
    async with resources.opened():
        ...  # execute, with resources.injector

A worker has `kept_open` in place of the last two: a resource that cannot be opened stops the tasks that need it, and no
others, see `outages`.

`opened` may be entered on several event loops at a time, on threads of their own: each gets engines and clients of its
own. Tasks may be prepared on any thread.

An override always wins: the resource that it replaces is neither needed nor opened. Nothing here imports diracx-core or
diracx-db: a task that needs one of their classes has imported them.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import ResourceError
from diracx.tasks.plumbing.injection.databases import Database, OpenSearchDatabase, SQLDatabase, name_of_database
from diracx.tasks.plumbing.injection.diracx_classes import DiracxClass, Sentinel, sentinel_of
from diracx.tasks.plumbing.injection.diracx_config import DiracxConfig
from diracx.tasks.plumbing.injection.injector import Injector, Invocation
from diracx.tasks.plumbing.injection.outages import KeptOpen, Outages
from diracx.tasks.plumbing.injection.resource import Resource, one_line
from diracx.tasks.plumbing.injection.service_settings import ServiceSettings

AnyCallable = Callable[..., Any]

_DATABASES: dict[DiracxClass, type[Database]] = {each.family: each for each in (SQLDatabase, OpenSearchDatabase)}


class Resources:
    """The resources that the tasks of one process need, and the injector that hands them out.

    Args:
        overrides: As for `Injector`. An override wins over a resource.
        providers: As for `Injector`.
    """

    def __init__(
        self,
        overrides: Mapping[AnyCallable, AnyCallable] | None = None,
        providers: Mapping[type, AnyCallable] | None = None,
    ) -> None:
        self.injector = Injector(overrides, providers, self._replacement)
        self.outages = Outages()
        """The tasks that are stopped while a resource is down; only `kept_open` stops any."""
        self._replacements: dict[tuple[DiracxClass, str | type], dict[str, AnyCallable]] = {}
        self._resource_of: dict[AnyCallable, Resource[Any]] = {}
        self._needed_by: dict[Resource[Any], dict[str, None]] = {}
        self._lock = threading.Lock()
        """Guards `_needed_by`. The injector guards what `_replacement` changes, since only its `prepare` calls that."""

    def prepare(self, task_class: type[BaseTask], name: str | None = None) -> Invocation:
        """Prepare a task class, and record the resources that it needs.

        Args:
            task_class: The class.
            name: The name of the task in problems. None: the name of the class.

        Raises:
            TaskDefinitionError: The class cannot work as a task. No resource is recorded for it.
        """
        invocation = self.injector.prepare(task_class)
        name = name or task_class.__qualname__
        needed = {resource for call in invocation.dependencies if (resource := self._resource_of.get(call))}
        with self._lock:
            for resource in needed:
                self._needed_by.setdefault(resource, {})[name] = None
        self.outages.add(task_class, name, needed)
        return invocation

    def problems(self) -> list[str]:
        """Return a line for each missing resource: the task that needs it, the resource and a hint."""
        with self._lock:
            needed = [(resource, list(names)) for resource, names in self._needed_by.items()]
        return sorted(
            f"{_needing(names)} {resource.name}: {problem}"
            for resource, names in needed
            for problem in resource.problems()
        )

    def serving(self, call: AnyCallable) -> tuple[Resource[Any], AnyCallable] | None:
        """Return the resource that serves a sentinel, and the callable that gives its value. None: no sentinel."""
        replacement = self._replacement(call)
        return None if replacement is None else (self._resource_of[replacement], replacement)

    def check(self) -> None:
        """Look for missing resources before anything runs.

        Raises:
            ResourceError: Some are missing; the error has a line for each.
        """
        if problems := self.problems():
            raise ResourceError(problems)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Injector]:
        """Open the resources of the prepared tasks for this event loop and the block.

        A task must execute on a loop on which they are open. Other loops may open them too, at any time.

        Engines and clients connect when they are first used. A task that is prepared later finds its resources closed.

        Raises:
            ResourceError: A resource is missing, or cannot be opened.
            RuntimeError: They are open already on this loop.
        """
        self.check()
        needed = self._needed()
        if already := [resource.name for resource in needed if resource.is_open]:
            raise RuntimeError(f"{already[0]} is open already")
        async with AsyncExitStack() as stack:
            for resource in needed:
                try:
                    await stack.enter_async_context(resource.opened())
                except ResourceError:
                    raise
                except Exception as error:  # of an author's `lifetime_function`, of a database driver
                    names = _needing(list(self._needed_by[resource]))
                    line = f"{names} {resource.name}, which cannot be opened: {one_line(error)}"
                    raise ResourceError([line]) from error
            yield self.injector

    def kept_open(self) -> AbstractAsyncContextManager[KeptOpen]:
        """Open what can be opened of the resources of the prepared tasks, for this event loop and the block.

        A resource that cannot be opened is tried again. Meanwhile the tasks that need it are not served, see `outages`.
        """
        return KeptOpen.on_this_loop(self._needed(), self.outages)

    def _needed(self) -> list[Resource[Any]]:
        with self._lock:
            return sorted(self._needed_by, key=lambda resource: resource.name)

    def _replacement(self, call: AnyCallable) -> AnyCallable | None:
        sentinel = sentinel_of(call)
        if sentinel is None:
            return None
        key = self._key(sentinel)
        if (replacements := self._replacements.get(key)) is None:
            resource = self._make(sentinel, key)
            replacements = self._replacements[key] = resource.replacements()
            self._resource_of.update(dict.fromkeys(replacements.values(), resource))
        return replacements[sentinel.name]

    @staticmethod
    def _key(sentinel: Sentinel) -> tuple[DiracxClass, str | type]:
        """Sentinels with the same key share one resource."""
        if (database := _DATABASES.get(sentinel.family)) is not None:
            return sentinel.family, name_of_database(database, sentinel.family.base, sentinel.owner) or sentinel.owner
        if sentinel.family is DiracxClass.SETTINGS:
            return sentinel.family, sentinel.owner
        return sentinel.family, ""

    @staticmethod
    def _make(sentinel: Sentinel, key: tuple[DiracxClass, str | type]) -> Resource[Any]:
        if (database := _DATABASES.get(sentinel.family)) is not None:
            listed = isinstance(key[1], str)
            return database(sentinel.family.base, str(key[1]) if listed else sentinel.owner.__name__, listed=listed)
        return ServiceSettings(sentinel.owner) if sentinel.family is DiracxClass.SETTINGS else DiracxConfig()


def _needing(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} needs"
    more = f"{len(names) - 1} more task{'s' if len(names) > 2 else ''}"
    return f"{names[0]} and {more} need"
