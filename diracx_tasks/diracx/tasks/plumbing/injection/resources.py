"""The resources of DiracX that tasks need: found out while the tasks are prepared, checked, and opened once.

    resources = Resources(overrides)
    for task in tasks:
        resources.prepare(task.task_class, task.name)
    resources.check()
    async with resources.opened():
        ...  # execute, with resources.injector

An override always wins: what it replaces is neither needed nor opened. Nothing of diracx-core or diracx-db is imported
here; a task that needs one of their classes has imported them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import ResourceError
from diracx.tasks.plumbing.injection.database import Database, name_of_database
from diracx.tasks.plumbing.injection.diracx_classes import Kind, Sentinel, sentinel_of
from diracx.tasks.plumbing.injection.diracx_config import Configuration
from diracx.tasks.plumbing.injection.injector import Injector, Invocation
from diracx.tasks.plumbing.injection.opensearch import OpenSearchDatabase
from diracx.tasks.plumbing.injection.resource import Resource
from diracx.tasks.plumbing.injection.service_settings import Settings
from diracx.tasks.plumbing.injection.sql_databases import SQLDatabase

AnyCallable = Callable[..., Any]

_DATABASES: dict[Kind, type[Database]] = {kind.kind: kind for kind in (SQLDatabase, OpenSearchDatabase)}


class Resources:
    """What the tasks of one process need, and the injector that hands it out.

    Args:
        overrides: As for `Injector`; they win over what is served here.
        providers: As for `Injector`.
    """

    def __init__(
        self,
        overrides: Mapping[AnyCallable, AnyCallable] | None = None,
        providers: Mapping[type, AnyCallable] | None = None,
    ) -> None:
        self.injector = Injector(overrides, providers, self._serve)
        self._served: dict[tuple[Kind, str | type], dict[str, AnyCallable]] = {}
        self._behind: dict[AnyCallable, Resource[Any]] = {}
        self._needed: dict[Resource[Any], dict[str, None]] = {}

    def prepare(self, task_class: type[BaseTask], name: str | None = None) -> Invocation:
        """Prepare a task class, and take down what it needs.

        Args:
            task_class: The class.
            name: Its name for people; None is that of the class.

        Raises:
            TaskDefinitionError: It cannot work; it needs nothing then.
        """
        invocation = self.injector.prepare(task_class)
        for call in invocation.dependencies:
            if (resource := self._behind.get(call)) is not None:
                self._needed.setdefault(resource, {})[name or task_class.__qualname__] = None
        return invocation

    def problems(self) -> list[str]:
        """A line for each thing that is missing: the task that needs it, what, and the mend."""
        return sorted(
            f"{_who(list(names))} {resource.name}: {problem}"
            for resource, names in self._needed.items()
            for problem in resource.problems()
        )

    def check(self) -> None:
        """Look for what is missing before anything runs.

        Raises:
            ResourceError: Something is; all of it is in its lines.
        """
        if problems := self.problems():
            raise ResourceError(problems)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Injector]:
        """Open all that the prepared tasks need, on this event loop, where they have to execute; close it at the end.

        Engines and clients connect when they are first used. What is prepared later is not open.

        Raises:
            ResourceError: Something is missing, or the configuration cannot be read.
        """
        self.check()
        async with AsyncExitStack() as stack:
            for resource in sorted(self._needed, key=lambda resource: resource.name):
                await stack.enter_async_context(resource.opened())
            yield self.injector

    def _serve(self, call: AnyCallable) -> AnyCallable | None:
        sentinel = sentinel_of(call)
        if sentinel is None:
            return None
        key = self._key(sentinel)
        if (served := self._served.get(key)) is None:
            resource = self._made(sentinel, key)
            served = self._served[key] = resource.served()
            self._behind.update(dict.fromkeys(served.values(), resource))
        return served[sentinel.name]

    @staticmethod
    def _key(sentinel: Sentinel) -> tuple[Kind, str | type]:
        """Classes of one key are served by one resource."""
        if (database := _DATABASES.get(sentinel.kind)) is not None:
            return sentinel.kind, name_of_database(database, sentinel.kind.base, sentinel.owner) or sentinel.owner
        if sentinel.kind is Kind.SETTINGS:
            return sentinel.kind, sentinel.owner
        return sentinel.kind, ""

    @staticmethod
    def _made(sentinel: Sentinel, key: tuple[Kind, str | type]) -> Resource[Any]:
        if (database := _DATABASES.get(sentinel.kind)) is not None:
            listed = isinstance(key[1], str)
            return database(sentinel.kind.base, str(key[1]) if listed else sentinel.owner.__name__, listed=listed)
        return Settings(sentinel.owner) if sentinel.kind is Kind.SETTINGS else Configuration()


def _who(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} needs"
    more = f"{len(names) - 1} more task{'s' if len(names) > 2 else ''}"
    return f"{names[0]} and {more} need"
