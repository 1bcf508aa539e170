"""A resource is opened once and serves any number of executions: an engine, a client, settings, the configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Resource(ABC, Generic[T]):
    """One thing that tasks need and that the process opens for them.

    Args:
        name: The name for people.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._value: T | None = None

    @property
    def value(self) -> T:
        """The open thing.

        Raises:
            RuntimeError: It is not open.
        """
        if self._value is None:
            hint = "open it with `async with resources.opened()`, after the task was prepared"
            raise RuntimeError(f"{self.name} is not open: {'; '.join(self.problems()) or hint}")
        return self._value

    @abstractmethod
    def problems(self) -> list[str]:
        """Return a phrase with a hint for each thing that is missing or wrong, as far as it shows before opening."""

    @abstractmethod
    def replacements(self) -> dict[str, Callable[..., Any]]:
        """Return the callables that replace the sentinels of the class, by the sentinel's name. Called once."""

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[None]:
        """Open on this event loop for the block. It may be opened again after it was closed."""

    @asynccontextmanager
    async def serving(self, value: T) -> AsyncIterator[None]:
        """Make `value` the open thing for the block.

        Raises:
            RuntimeError: It is open already.
        """
        if self._value is not None:
            raise RuntimeError(f"{self.name} is open already")
        self._value = value
        try:
            yield
        finally:
            self._value = None


def one_line(error: Exception) -> str:
    """Render an error of a library in one line, without its input: that may hold a password."""
    listed = getattr(error, "errors", None)
    if callable(listed):
        # The text of a pydantic ValidationError quotes the value that was validated.
        return "; ".join(found["msg"] for found in listed(include_url=False, include_input=False))
    return f"{type(error).__name__}: {error}".splitlines()[0]
