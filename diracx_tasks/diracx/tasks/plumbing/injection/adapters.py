"""Adapters, which fast-depends calls in place of the dependencies.

* The adapter of a sync callable is a function, which fast-depends runs in a thread. Any other adapter is a coroutine
  function or an async generator function.
* The signature of an adapter is built here: keyword parameters with unique names, each with its marker as default.

A dependency that needs no other one and no thread has an `Entry` as well, which gives its value without fast-depends.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from types import TracebackType
from typing import Any

import fast_depends
from fast_depends.core import CallModel, build_call_model
from fast_depends.utils import contextmanager_in_threadpool, run_in_threadpool

from diracx.tasks.plumbing.injection.signatures import Entry, is_async_generator, is_coroutine, is_generator

Opener = Callable[..., AbstractAsyncContextManager[Any]]


class Engine:
    """What fast-depends does for one injector."""

    def __init__(self) -> None:
        self._provider = fast_depends.Provider()

    def marker(self, call: Callable[..., Any], *, use_cache: bool) -> Any:
        """Return the default of a parameter that this adapter fills."""
        return fast_depends.Depends(call, use_cache=use_cache, cast=False)

    def model(self, call: Callable[..., Any]) -> CallModel:
        """Read the dependencies of an adapter."""
        return build_call_model(call, dependency_provider=self._provider)

    @staticmethod
    def adapter(call: Callable[..., Any], needs: Mapping[str, tuple[str, Any]], *, entered: bool) -> Any:
        """Build the adapter of a callable.

        Args:
            call: The dependency, or its override.
            needs: The injected parameters: name -> the adapter's unique name for it, and fast-depends' marker.
            entered: True for `DBDepends`: sync code runs on the loop's thread, and a returned context manager is
                entered.
        """
        name = getattr(call, "__qualname__", type(call).__qualname__)
        if (open_ := _opener(call, entered=entered)) is not None:
            adapted = _opening(open_, needs, name)
        elif is_generator(call):
            adapted = _opening(_in_thread(call), needs, name)
        elif is_coroutine(call):
            adapted = _awaiting(call, needs)
        else:
            adapted = _calling(call, needs)
        keyword_only = inspect.Parameter.KEYWORD_ONLY
        adapted.__signature__ = inspect.Signature(
            [inspect.Parameter(unique, keyword_only, default=marker) for unique, marker in needs.values()]
        )
        return adapted

    @staticmethod
    def entry(call: Callable[..., Any], *, entered: bool) -> Entry | None:
        """The entry of a callable without injected parameters; None: it needs a thread.

        Args:
            entered: As for `adapter`.
        """
        if (open_ := _opener(call, entered=entered)) is not None:
            name = getattr(call, "__qualname__", type(call).__qualname__)
            return lambda stack: stack.enter_async_context(_Opened(open_(), name))
        return (lambda stack: call()) if is_coroutine(call) else None


def _opener(call: Callable[..., Any], *, entered: bool) -> Opener | None:
    """What opens a dependency on the thread of the loop; None: nothing does."""
    if is_async_generator(call):
        return asynccontextmanager(call)
    return _in_place(call) if entered else None


class _Opened:
    """An open dependency, which tells of a generator that does not yield exactly once."""

    __slots__ = ("_manager", "_name")

    def __init__(self, manager: AbstractAsyncContextManager[Any], name: str) -> None:
        self._manager, self._name = manager, name

    async def __aenter__(self) -> Any:
        try:
            return await self._manager.__aenter__()
        except RuntimeError as error:
            if (explained := _explained(error, self._name)) is error:
                raise
            raise explained from error

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._manager.__aexit__(kind, raised, traceback)
        except RuntimeError as error:
            if raised is not None or (explained := _explained(error, self._name)) is error:
                raise
            raise explained from error


def _opening(open_: Opener, needs: Mapping[str, tuple[str, Any]], name: str) -> Any:
    async def opening(**solved: Any) -> AsyncIterator[Any]:
        in_use = False
        try:
            async with open_(**{name: solved[unique] for name, (unique, _) in needs.items()}) as value:
                in_use = True
                yield value
                in_use = False
        except RuntimeError as error:
            # `execute()` may have a generator of its own, which fails in the use of this one.
            if in_use or (explained := _explained(error, name)) is error:
                raise
            raise explained from error

    return opening


def _explained(error: RuntimeError, name: str) -> RuntimeError:
    """The error with the name of the generator that contextlib complains of; any other error as it is."""
    if not str(error).startswith("generator didn't "):
        return error
    return RuntimeError(f"the dependency {name}: {error}; it has to yield exactly once")


def _awaiting(call: Callable[..., Any], needs: Mapping[str, tuple[str, Any]]) -> Any:
    async def awaiting(**solved: Any) -> Any:
        return await call(**{name: solved[unique] for name, (unique, _) in needs.items()})

    return awaiting


def _calling(call: Callable[..., Any], needs: Mapping[str, tuple[str, Any]]) -> Any:
    def calling(**solved: Any) -> Any:
        return call(**{name: solved[unique] for name, (unique, _) in needs.items()})

    return calling


def _in_thread(call: Callable[..., Any]) -> Opener:
    """Open a sync generator; each half of it runs in a thread."""

    @asynccontextmanager
    async def opened(**values: Any) -> AsyncIterator[Any]:
        manager = contextmanager(call)(**values)
        inside = False
        try:
            async with contextmanager_in_threadpool(manager) as value:
                inside = True
                yield value
        except BaseException as raised:
            # fast-depends has closed the generator on an Exception, but not on a cancellation. Nothing is open before
            # `inside`.
            if inside and not isinstance(raised, Exception):
                await run_in_threadpool(manager.__exit__, type(raised), raised, raised.__traceback__)
            raise

    return opened


def _in_place(call: Callable[..., Any]) -> Opener:
    """Call a database's callable on the loop's own thread, and enter its value if that is a context manager."""
    start = contextmanager(call) if is_generator(call) else call

    @asynccontextmanager
    async def opened(**values: Any) -> AsyncIterator[Any]:
        given = start(**values)
        # A pool's `acquire()` is both awaitable and a context manager. Only the context manager returns the handle.
        if inspect.isawaitable(given) and not isinstance(given, AbstractAsyncContextManager):
            given = await given
        if isinstance(given, AbstractAsyncContextManager):
            async with given as value:
                yield value
        elif isinstance(given, AbstractContextManager):
            with given as value:
                yield value
        else:
            yield given

    return opened
