"""Dependency injection: prepared once for each task class, solved by fast-depends for each execution.

fast-depends solves the graph: it calls each dependency after those it needs, once, and enters generators on
one exit stack. What it is given are adapters, one for each callable, with signatures of our own. They keep
three of its habits away: it hands a solved value down to every deeper parameter of the same name (so
adapters have unique names for theirs), it keeps `use_cache` with the callable instead of the marker (so an
uncached use has its own adapter), and it tells a sync generator in a thread of exceptions but not of a
cancellation.

Overrides and caching go by the original callable, at any depth. An async generator that is asked for with
`DBDepends` here and FastAPI's `Depends` there is one transaction.
"""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from itertools import count
from typing import Any

import fast_depends
from fast_depends.core import CallModel, build_call_model

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.injection.adapters import adapter
from diracx.tasks.plumbing.injection.diracx_classes import bare_marker, sentinel_of
from diracx.tasks.plumbing.injection.markers import CallbackSpawner, Marker, WithoutTransaction
from diracx.tasks.plumbing.injection.signatures import (
    Asked,
    asked_by,
    is_async_generator,
    is_coroutine,
    name_of,
)
from diracx.tasks.plumbing.locks.fencing import FencingToken, fencing_token

AnyCallable = Callable[..., Any]


class Invocation:
    """How to run one task class. It keeps no state of an execution: any number may run at a time."""

    __slots__ = ("_model", "dependencies")

    def __init__(self, model: CallModel | None, dependencies: frozenset[AnyCallable] = frozenset()) -> None:
        self._model = model
        self.dependencies = dependencies
        """What it calls at any depth, before overrides."""

    @property
    def direct(self) -> bool:
        """Nothing is injected: a call is `task.execute()` and no more."""
        return self._model is None

    def __call__(self, task: BaseTask) -> Coroutine[Any, Any, Any]:
        """Run the task's `execute()` with its dependencies, in the asyncio task that awaits it.

        Raises whatever a dependency or `execute()` raised: the very object, unless a generator replaces it
        on the way out. A cancellation stays one, whatever closing raises; that becomes its cause.
        """
        return task.execute() if self._model is None else self._injected(self._model, task)

    @staticmethod
    async def _injected(model: CallModel, task: BaseTask) -> Any:
        failure: BaseException | None = None
        try:
            async with AsyncExitStack() as stack:
                try:
                    values = await model.asolve(stack=stack, cache_dependencies={})
                    return await task.execute(**values)
                except BaseException as raised:
                    failure = raised
                    raise
            # Only a dependency that swallowed the exception leads here.
            raise failure
        except Exception as raised:
            if isinstance(failure, CancelledError):
                raise failure from raised
            raise
        finally:
            # A frame that refers to its own exception is a cycle, and keeps what the task used alive.
            del failure


class Injector:
    """Prepares task classes, with overrides that are its own.

    Args:
        overrides: What is called in place of which callable, wherever that stands in the graph. FastAPI's
            `dependency_overrides` in shape and meaning.
        providers: What gives the value of a parameter without a marker whose annotation is exactly that type.
            A `FencingToken` is provided always.
        serve: What is called in place of a callable that has no override; None leaves it as it is. Two that it
            gives the same answer for are one dependency.
    """

    def __init__(
        self,
        overrides: Mapping[AnyCallable, AnyCallable] | None = None,
        providers: Mapping[type, AnyCallable] | None = None,
        serve: Callable[[AnyCallable], AnyCallable | None] = lambda call: None,
    ) -> None:
        self._overrides = dict(overrides or {})
        self._providers = {FencingToken: fencing_token, **(providers or {})}
        self._invocations: dict[type[BaseTask], Invocation] = {}
        self._serve = serve
        self._adapters: dict[tuple[AnyCallable, bool], AnyCallable] = {}
        self._below: dict[AnyCallable, frozenset[AnyCallable]] = {}
        self._under_way: list[AnyCallable] = []
        self._serial = count()
        self._solver = fast_depends.Provider()

    def prepare(self, task_class: type[BaseTask]) -> Invocation:
        """Read `execute()` and all that it depends on, once for each class.

        Raises:
            TaskDefinitionError: It cannot work; the text names the class, the parameter and the mend.
        """
        if (known := self._invocations.get(task_class)) is None:
            known = self._invocations[task_class] = self._prepare(task_class)
        return known

    def _prepare(self, task_class: type[BaseTask]) -> Invocation:
        where = f"{task_class.__module__}.{task_class.__qualname__}.execute()"
        execute = inspect.getattr_static(task_class, "execute", None)
        if execute is None or getattr(execute, "__isabstractmethod__", False):
            raise TaskDefinitionError(f"{where} is missing; define `async def execute(self)`")
        # Bound to anything at all, its signature loses `self`, or `cls`, or nothing, as it is defined.
        bound = execute.__get__(object(), task_class) if hasattr(execute, "__get__") else execute
        if is_async_generator(bound):
            raise TaskDefinitionError(f"{where} is an async generator; `return` in place of `yield`")
        if not is_coroutine(bound):
            raise TaskDefinitionError(f"{where} is not async; write `async def`, in its decorators too")
        needs = self._needs(bound, where)
        if not needs:
            return Invocation(None)

        async def collect(**values: Any) -> dict[str, Any]:
            return values

        root = adapter(collect, needs, entered=False)
        return Invocation(build_call_model(root, dependency_provider=self._solver), self._dependencies(needs))

    def _needs(self, call: AnyCallable, where: str) -> dict[str, tuple[str, Any]]:
        """The injected parameters of a callable: name -> its unique name and fast-depends' marker."""
        needs = {}
        for asked in asked_by(call, where):
            if marker := self._marker(asked, f"{where}: parameter {asked.name!r}"):
                solved = fast_depends.Depends(self._adapter(marker, where), use_cache=marker.use_cache, cast=False)
                needs[asked.name] = (f"{asked.name}_{next(self._serial)}", solved)
        return needs

    def _dependencies(self, needs: Mapping[str, tuple[str, Any]]) -> frozenset[AnyCallable]:
        return frozenset[AnyCallable]().union(*(self._below[solved.dependency] for _, solved in needs.values()))

    def _marker(self, asked: Asked, where: str) -> Marker | None:
        """What fills a parameter; None leaves it to its default."""
        if isinstance(asked.marker, WithoutTransaction):
            return self._without_transaction(asked.type, where)
        if asked.marker:
            if asked.marker.dependency is not None:
                return asked.marker
            if not callable(asked.type) or asked.type is inspect.Parameter.empty:
                raise TaskDefinitionError(f"{where} has a marker but no callable; write Depends(callable)")
            return Marker(asked.type, asked.marker.use_cache)
        if isinstance(asked.type, type) and (provider := self._providers.get(asked.type)):
            return Marker(provider)
        if marker := bare_marker(asked.type):
            return marker
        if asked.type is CallbackSpawner:
            raise TaskDefinitionError(
                f"{where} asks for a CallbackSpawner; groups with callbacks are not in this version: "
                "remove it, and submit what follows with `await task.schedule()`"
            )
        if asked.optional:
            return None
        mend = "annotate it with Annotated[T, Depends(callable)], or give it a default"
        if asked.name == "self":
            mend = "the method belongs to an instance; put @classmethod or @staticmethod over it"
        raise TaskDefinitionError(f"{where} is nothing that can be injected; {mend}")

    def _without_transaction(self, database: Any, where: str) -> Marker:
        no_transaction = getattr(database, "no_transaction", None)
        if no_transaction is None or not (no_transaction in self._overrides or self._serve(no_transaction)):
            name = getattr(database, "__qualname__", repr(database))
            raise TaskDefinitionError(
                f"{where} wants {name} without a transaction, but nothing serves {name}.no_transaction; "
                f"give the injector an override for it, or use DBDepends({name}.transaction)"
            )
        return Marker(no_transaction)

    def _adapter(self, marker: Marker, where: str) -> AnyCallable:
        original = marker.dependency
        assert original is not None
        try:
            hash(original)
        except TypeError as error:
            raise TaskDefinitionError(f"{where} depends on {original!r}: {error}; freeze its class") from error
        if (call := self._overrides.get(original)) is None:
            call = original = self._served(original, where)
        key = (original, marker.entered and not is_async_generator(call))
        if marker.use_cache and key in self._adapters:
            return self._adapters[key]
        with self._guarded(original, where):
            needs = self._needs(call, f"{where} > {name_of(call)}()")
        built: AnyCallable = adapter(call, needs, entered=key[1])
        self._below[built] = self._dependencies(needs) | {original}
        if marker.use_cache:
            self._adapters[key] = built
        return built

    def _served(self, original: AnyCallable, where: str) -> AnyCallable:
        if (served := self._serve(original)) is not None:
            return served
        if (sentinel := sentinel_of(original)) and sentinel.hollow:
            raise TaskDefinitionError(
                f"{where} depends on {name_of(original)}(), and nothing serves it here; give the injector an override "
                "for it, or use the one of Resources"
            )
        return original

    @contextmanager
    def _guarded(self, original: AnyCallable, where: str) -> Iterator[None]:
        if original in self._under_way:
            circle = " > ".join(name_of(call) for call in [*self._under_way, original])
            raise TaskDefinitionError(f"{where}: dependencies in a circle, {circle}; take one out")
        self._under_way.append(original)
        try:
            yield
        finally:
            self._under_way.pop()
