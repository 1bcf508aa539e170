"""The injector prepares each task class once; fast-depends solves the dependencies for each execution.

Where no dependency needs another one or a thread, as mostly, there is nothing to solve: each is entered in the order of
the parameters, without fast-depends, which takes longer than the rest of an execution.

fast-depends calls each dependency once, after the dependencies that it needs itself, and enters generators on one exit
stack. It is given adapters, one for each callable, with signatures of our own. They avoid three habits of fast-depends:

* It hands a solved value down to every deeper parameter of the same name. So adapters have unique parameter names.
* It keeps `use_cache` with the callable, not with the marker. So an uncached use has its own adapter.
* It reports exceptions to a sync generator in a thread, but no cancellation. So `adapters` does.

Overrides and caching go by the original callable, at any depth. An async generator that one parameter asks for with
`DBDepends` and another with FastAPI's `Depends` is one transaction.
"""

from __future__ import annotations

import inspect
import threading
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import cached_property
from itertools import count
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.callbacks.outcomes import GroupOutcomes, group_outcomes
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.injection.diracx_classes import implicit_marker, sentinel_of
from diracx.tasks.plumbing.injection.markers import CallbackSpawner, Marker, WithoutTransaction, callback_spawner
from diracx.tasks.plumbing.injection.signatures import (
    Entry,
    Parameter,
    is_async_generator,
    is_coroutine,
    name_of,
    parameters_of,
)
from diracx.tasks.plumbing.locks.fencing import FencingToken, fencing_token

AnyCallable = Callable[..., Any]

Solve = Callable[[AsyncExitStack], Awaitable[dict[str, Any]]]
"""Enters the dependencies of one execution on its stack, and returns the injected parameters."""


class Invocation:
    """Runs one task class. It keeps no state of an execution, so any number may run at a time."""

    __slots__ = ("_solve", "dependencies")

    def __init__(self, solve: Solve | None, dependencies: frozenset[AnyCallable] = frozenset()) -> None:
        self._solve = solve
        self.dependencies = dependencies
        """The callables that it depends on, at any depth, before overrides."""

    @property
    def direct(self) -> bool:
        """Whether nothing is injected: a call is just `task.execute()`."""
        return self._solve is None

    def __call__(self, task: BaseTask) -> Coroutine[Any, Any, Any]:
        """Run the task's `execute()` with its dependencies, in the asyncio task that awaits it.

        Raises:
            Exception: The very exception that a dependency or `execute()` raised, unless a generator replaced it.
            asyncio.CancelledError: The execution was cancelled. An error of closing becomes its cause.
        """
        return task.execute() if self._solve is None else self._injected(self._solve, task)

    @staticmethod
    async def _injected(solve: Solve, task: BaseTask) -> Any:
        failure: BaseException | None = None
        try:
            async with AsyncExitStack() as stack:
                try:
                    return await task.execute(**await solve(stack))
                except BaseException as raised:
                    failure = raised
                    raise
            # Reached only if a dependency swallowed the exception.
            raise failure
        except Exception as raised:
            if isinstance(failure, CancelledError):
                raise failure from raised
            raise
        finally:
            # A frame that refers to its own exception is a cycle, and would keep the task's objects alive.
            del failure


class Injector:
    """Prepares task classes. Its overrides hold for this injector only.

    Args:
        overrides: Callable -> the callable to call in its place, anywhere in the graph, like FastAPI's
            `dependency_overrides`.
        providers: Type -> the callable for a parameter without a marker whose annotation is exactly that type.
            `FencingToken`, `CallbackSpawner` and `GroupOutcomes` always have one.
        replacement: Returns the callable to call in place of a callable without an override, or None to call it as it
            is. Callables with the same replacement are one dependency.

    Raises:
        TaskDefinitionError: An override is no callable, or replaces none.
    """

    def __init__(
        self,
        overrides: Mapping[AnyCallable, AnyCallable] | None = None,
        providers: Mapping[type, AnyCallable] | None = None,
        replacement: Callable[[AnyCallable], AnyCallable | None] = lambda call: None,
    ) -> None:
        self._overrides = dict(overrides or {})
        for wanted, given in self._overrides.items():
            if not (callable(wanted) and callable(given)):
                raise TaskDefinitionError(
                    f"the override {wanted!r}: {given!r} replaces nothing; write a callable in place of the one in "
                    "Depends or DBDepends, e.g. {OwnersDB.transaction: fake_transaction}"
                )
        self._providers = {
            FencingToken: fencing_token,
            CallbackSpawner: callback_spawner,
            GroupOutcomes: group_outcomes,
            **(providers or {}),
        }
        self._invocations: dict[type[BaseTask], Invocation] = {}
        self._preparing = threading.Lock()
        """Held while a class is prepared: guards all that follows."""
        self._replacement = replacement
        self._adapters: dict[tuple[AnyCallable, bool], AnyCallable] = {}
        self._dependencies_of: dict[AnyCallable, frozenset[AnyCallable]] = {}
        self._entries: dict[AnyCallable, Entry] = {}
        """Of the adapters that do not need fast-depends."""
        self._building: list[AnyCallable] = []
        self._serial = count()

    @cached_property
    def _engine(self) -> Any:
        """`adapters.Engine`. Loaded for the first dependency: it takes 0.5 MB, and 6 MB and 50 ms beside pydantic."""
        from diracx.tasks.plumbing.injection.adapters import Engine

        return Engine()

    def prepare(self, task_class: type[BaseTask]) -> Invocation:
        """Read `execute()` and all of its dependencies, once for each class. Any thread may call this.

        Raises:
            TaskDefinitionError: The class cannot work as a task. The text names the class, the parameter and a remedy.
        """
        if (known := self._invocations.get(task_class)) is not None:
            return known
        with self._preparing:
            # Another thread may have prepared it since.
            if (known := self._invocations.get(task_class)) is None:
                known = self._invocations[task_class] = self._prepare(task_class)
            return known

    def _prepare(self, task_class: type[BaseTask]) -> Invocation:
        where = f"{task_class.__module__}.{task_class.__qualname__}.execute()"
        execute = inspect.getattr_static(task_class, "execute", None)
        if execute is None or getattr(execute, "__isabstractmethod__", False):
            raise TaskDefinitionError(f"{where} is missing; define `async def execute(self)`")
        # Bound to any object, the signature loses `self`, or `cls`, or nothing, according to its definition.
        bound = execute.__get__(object(), task_class) if hasattr(execute, "__get__") else execute
        if is_async_generator(bound):
            raise TaskDefinitionError(f"{where} is an async generator; `return` in place of `yield`")
        if not is_coroutine(bound):
            raise TaskDefinitionError(f"{where} is not async; write `async def`, in its decorators too")
        fields = {*getattr(task_class, "__dataclass_fields__", ()), *getattr(task_class, "__pydantic_fields__", ())}
        needs = self._needs(bound, where, fields)
        if not needs:
            return Invocation(None)

        return Invocation(self._without_solver(needs) or self._with_solver(needs), self._dependencies(needs))

    def _without_solver(self, needs: Mapping[str, tuple[str, Any]]) -> Solve | None:
        """What gives the parameters without fast-depends; None: it is needed."""
        adapters = {name: solved.dependency for name, (_, solved) in needs.items()}
        entries = {each: found for each in adapters.values() if (found := self._entries.get(each)) is not None}
        if any(each not in entries for each in adapters.values()):
            return None

        async def enter(stack: AsyncExitStack) -> dict[str, Any]:
            values = {each: await entered(stack) for each, entered in entries.items()}
            return {name: values[each] for name, each in adapters.items()}

        return enter

    def _with_solver(self, needs: Mapping[str, tuple[str, Any]]) -> Solve:
        async def collect(**values: Any) -> dict[str, Any]:
            return values

        model = self._engine.model(self._engine.adapter(collect, needs, entered=False))
        return lambda stack: model.asolve(stack=stack, cache_dependencies={})

    def _needs(self, call: AnyCallable, where: str, fields: Container[str] = ()) -> dict[str, tuple[str, Any]]:
        """Return the injected parameters of a callable: name -> its unique name and fast-depends' marker.

        Args:
            call: `execute()`, or a dependency.
            where: Its name for people.
            fields: The fields of the task, for `execute()`: they are often taken for parameters.
        """
        needs = {}
        for parameter in parameters_of(call, where):
            if marker := self._marker(parameter, f"{where}: parameter {parameter.name!r}", parameter.name in fields):
                solved = self._engine.marker(self._adapter(marker, where), use_cache=marker.use_cache)
                needs[parameter.name] = (f"{parameter.name}_{next(self._serial)}", solved)
        return needs

    def _dependencies(self, needs: Mapping[str, tuple[str, Any]]) -> frozenset[AnyCallable]:
        return frozenset[AnyCallable]().union(
            *(self._dependencies_of[solved.dependency] for _, solved in needs.values())
        )

    def _marker(self, parameter: Parameter, where: str, is_field: bool) -> Marker | None:
        """Return the marker that fills a parameter. None: its default does."""
        if isinstance(parameter.marker, WithoutTransaction):
            return self._without_transaction(parameter.type, where)
        if parameter.marker:
            if parameter.marker.dependency is not None:
                return parameter.marker
            if not callable(parameter.type) or parameter.type is inspect.Parameter.empty:
                raise TaskDefinitionError(f"{where} has a marker but no callable; write Depends(callable)")
            return Marker(parameter.type, parameter.marker.use_cache)
        if isinstance(parameter.type, type) and (provider := self._providers.get(parameter.type)):
            return Marker(provider)
        if marker := implicit_marker(parameter.type):
            return marker
        if parameter.optional:
            return None
        hint = "annotate it with Annotated[T, Depends(callable)], or give it a default"
        if is_field:
            hint = f"it is a field of the task: remove the parameter, and read self.{parameter.name}"
        if parameter.name == "self":
            hint = "the method belongs to an instance; put @classmethod or @staticmethod over it"
        raise TaskDefinitionError(f"{where} is nothing that can be injected; {hint}")

    def _without_transaction(self, database: Any, where: str) -> Marker:
        no_transaction = getattr(database, "no_transaction", None)
        if no_transaction is None or not (no_transaction in self._overrides or self._replacement(no_transaction)):
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
            call = original = self._replaced(original, where)
        key = (original, marker.entered and not is_async_generator(call))
        if marker.use_cache and key in self._adapters:
            return self._adapters[key]
        with self._refusing_cycles(original, where):
            needs = self._needs(call, f"{where} > {name_of(call)}()")
        built: AnyCallable = self._engine.adapter(call, needs, entered=key[1])
        self._dependencies_of[built] = self._dependencies(needs) | {original}
        if not needs and (without_solver := self._engine.entry(call, entered=key[1])) is not None:
            self._entries[built] = without_solver
        if marker.use_cache:
            self._adapters[key] = built
        return built

    def _replaced(self, original: AnyCallable, where: str) -> AnyCallable:
        if (replacement := self._replacement(original)) is not None:
            return replacement
        if (sentinel := sentinel_of(original)) and sentinel.hollow:
            raise TaskDefinitionError(
                f"{where} depends on {name_of(original)}(), and nothing serves it here; give the injector an override "
                "for it, or use the injector of Resources"
            )
        return original

    @contextmanager
    def _refusing_cycles(self, original: AnyCallable, where: str) -> Iterator[None]:
        if original in self._building:
            circle = " > ".join(name_of(call) for call in [*self._building, original])
            raise TaskDefinitionError(f"{where}: dependencies in a circle, {circle}; take one out")
        self._building.append(original)
        try:
            yield
        finally:
            self._building.pop()
