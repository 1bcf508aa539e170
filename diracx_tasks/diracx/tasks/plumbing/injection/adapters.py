"""Adapters: what fast-depends calls in place of a dependency.

An adapter is a coroutine function, an async generator function or, for a sync callable, a function (which
fast-depends runs in a thread). Its signature is made, not read: keyword parameters under unique names, each
with its marker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from inspect import Parameter, Signature, isawaitable
from typing import Any

from fast_depends.utils import contextmanager_in_threadpool, run_in_threadpool

from diracx.tasks.plumbing.injection.signatures import is_async_generator, is_coroutine, is_generator

Opener = Callable[..., AbstractAsyncContextManager[Any]]


def adapter(call: Callable[..., Any], needs: Mapping[str, tuple[str, Any]], *, entered: bool) -> Any:
    """Make the adapter of a callable.

    Args:
        call: The dependency, or what overrides it.
        needs: Its injected parameters: name -> the adapter's name for it, and fast-depends' marker.
        entered: `DBDepends`: sync code in place, and a context manager that comes back is entered.
    """
    if is_async_generator(call):
        adapted = _opening(asynccontextmanager(call), needs)
    elif entered:
        adapted = _opening(_in_place(call), needs)
    elif is_generator(call):
        adapted = _opening(_in_thread(call), needs)
    elif is_coroutine(call):
        adapted = _awaiting(call, needs)
    else:
        adapted = _calling(call, needs)
    adapted.__signature__ = Signature(
        [Parameter(unique, Parameter.KEYWORD_ONLY, default=marker) for unique, marker in needs.values()]
    )
    return adapted


def _opening(open_: Opener, needs: Mapping[str, tuple[str, Any]]) -> Any:
    async def opening(**solved: Any) -> AsyncIterator[Any]:
        async with open_(**{name: solved[unique] for name, (unique, _) in needs.items()}) as value:
            yield value

    return opening


def _awaiting(call: Callable[..., Any], needs: Mapping[str, tuple[str, Any]]) -> Any:
    async def awaiting(**solved: Any) -> Any:
        return await call(**{name: solved[unique] for name, (unique, _) in needs.items()})

    return awaiting


def _calling(call: Callable[..., Any], needs: Mapping[str, tuple[str, Any]]) -> Any:
    def calling(**solved: Any) -> Any:
        return call(**{name: solved[unique] for name, (unique, _) in needs.items()})

    return calling


def _in_thread(call: Callable[..., Any]) -> Opener:
    """A sync generator, each half run in a thread."""

    @asynccontextmanager
    async def opened(**values: Any) -> AsyncIterator[Any]:
        manager = contextmanager(call)(**values)
        inside = False
        try:
            async with contextmanager_in_threadpool(manager) as value:
                inside = True
                yield value
        except BaseException as raised:
            # fast-depends has handled an Exception, and nothing was opened before `inside`.
            if inside and not isinstance(raised, Exception):
                await run_in_threadpool(manager.__exit__, type(raised), raised, raised.__traceback__)
            raise

    return opened


def _in_place(call: Callable[..., Any]) -> Opener:
    """A database: called on the loop's own thread, and entered if it is a context manager."""
    start = contextmanager(call) if is_generator(call) else call

    @asynccontextmanager
    async def opened(**values: Any) -> AsyncIterator[Any]:
        given = start(**values)
        # A pool's `acquire()` is awaitable and a context manager; only the latter gives the handle back.
        if isawaitable(given) and not isinstance(given, AbstractAsyncContextManager):
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
