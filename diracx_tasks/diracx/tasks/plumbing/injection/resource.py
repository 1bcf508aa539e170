"""What is opened once and serves any number of executions: a database's engine, a client, settings, a configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Resource(ABC, Generic[T]):
    """One thing that tasks need of their surroundings.

    Args:
        name: What a person knows it by.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._value: T | None = None

    @property
    def value(self) -> T:
        """The opened thing.

        Raises:
            RuntimeError: It is not open.
        """
        if self._value is None:
            opening = "that is done by `async with resources.opened()`, after the task was prepared"
            raise RuntimeError(f"{self.name} is not open: {'; '.join(self.problems()) or opening}")
        return self._value

    @abstractmethod
    def problems(self) -> list[str]:
        """What is missing or wrong, as far as it can be known without opening: a phrase each, with the mend."""

    @abstractmethod
    def served(self) -> dict[str, Callable[..., Any]]:
        """What is called in place of a sentinel, by the sentinel's name. Asked for once."""

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[None]:
        """Open on this event loop; closed at the end of the block. One at a time, any number in a row."""

    @asynccontextmanager
    async def holding(self, value: T) -> AsyncIterator[None]:
        """Within the block, `value` is this."""
        if self._value is not None:
            raise RuntimeError(f"{self.name} is open already")
        self._value = value
        try:
            yield
        finally:
            self._value = None


def phrase(error: Exception) -> str:
    """An error of a library in one line. Without the input, which may hold a password."""
    listed = getattr(error, "errors", None)
    if callable(listed):
        # A ValidationError of pydantic: its text quotes what was validated.
        return "; ".join(found["msg"] for found in listed(include_url=False, include_input=False))
    return f"{type(error).__name__}: {error}".splitlines()[0]
