"""A resource is opened once and serves any number of executions: an engine, a client, settings, the configuration.

Engines and clients belong to an event loop. So a resource is opened once for each loop on which tasks execute, and an
execution gets what its own loop opened. Loops on different threads open and close it independently.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar

from diracx.tasks.plumbing.wire.failure import message_of

T = TypeVar("T")


class Resource(ABC, Generic[T]):
    """One thing that tasks need and that the process opens for them, once for each event loop.

    Args:
        name: The name for people.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # Each loop changes only its own key, so the dict needs no lock.
        self._values: dict[asyncio.AbstractEventLoop, T] = {}

    @property
    def value(self) -> T:
        """The open thing of the running event loop.

        Raises:
            RuntimeError: It is not open, or no loop is running.
        """
        if (value := self._values.get(asyncio.get_running_loop())) is None:
            raise self._not_open()
        return value

    def _not_open(self) -> RuntimeError:
        hint = "open it with `async with resources.opened()` on this event loop, after the task was prepared"
        return RuntimeError(f"{self.name} is not open: {'; '.join(self.problems()) or hint}")

    @abstractmethod
    def problems(self) -> list[str]:
        """Return a phrase with a hint for each thing that is missing or wrong, as far as it shows before opening."""

    def unset(self) -> list[str]:
        """Return those of the problems that only another start of the process can solve: variables that are not set."""
        return self.problems()

    @property
    def is_open(self) -> bool:
        """Whether it is open on the running event loop."""
        return asyncio.get_running_loop() in self._values

    @abstractmethod
    def replacements(self) -> dict[str, Callable[..., Any]]:
        """Return the callables that replace the sentinels of the class, by the sentinel's name. Called once."""

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[None]:
        """Open for this event loop and the block. It may be opened again after it was closed."""

    @asynccontextmanager
    async def serving(self, value: T) -> AsyncIterator[None]:
        """Make `value` the open thing of this event loop for the block. It must not be open there."""
        loop = asyncio.get_running_loop()
        self._values[loop] = value
        try:
            yield
        finally:
            del self._values[loop]


def one_line(error: BaseException) -> str:
    """Render an error of a library in one line, without its input: that may hold a password."""
    if (found := validation_errors(error)) is not None:
        return "; ".join(each["msg"] for each in found)
    return f"{type(error).__name__}: {message_of(error)}".splitlines()[0]


def validation_errors(error: BaseException) -> list[dict[str, Any]] | None:
    """Return the errors of a pydantic ValidationError, whose own text quotes the value that was validated. None: it is
    another exception, which may have an `errors` of its own."""
    kind: Any = type(error)
    if kind.__name__ != "ValidationError" or kind.__module__.partition(".")[0] not in ("pydantic", "pydantic_core"):
        return None
    found: list[dict[str, Any]] = kind.errors(error, include_url=False, include_input=False, include_context=False)
    return found
