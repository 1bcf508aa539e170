"""The markers that stand in annotations. Authors import them from `depends`, whose docstring explains them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Marker:
    """The mark that `Depends` and `DBDepends` leave in an annotation."""

    dependency: Callable[..., Any] | None
    """The callable that gives the value. None: the annotated type itself."""
    use_cache: bool = True
    """All parameters of one execution share one call."""
    entered: bool = False
    """If the callable returns a context manager, enter it and inject its value."""

    def __post_init__(self) -> None:
        if self.dependency is not None and not callable(self.dependency):
            raise TypeError(f"{self.dependency!r} cannot be a dependency: it is not callable")


def Depends(  # noqa: N802 - FastAPI's name
    dependency: Callable[..., Any] | None = None, *, use_cache: bool = True
) -> Any:
    """Mark a parameter as injected: `Annotated[T, Depends(callable)]`, or `= Depends(callable)`.

    Args:
        dependency: The callable that gives the value. Sync callables and sync generators run in a thread, on a copy of
            the context. None: the annotated class itself is called.
        use_cache: False calls it anew for this parameter.

    Raises:
        TypeError: `dependency` is not callable.
    """
    return Marker(dependency, use_cache)


def DBDepends(transaction: Callable[..., Any]) -> Any:  # noqa: N802 - beside Depends
    """Mark a parameter as a database: `Annotated[DB, DBDepends(DB.transaction)]`.

    One transaction serves the whole execution: it commits when `execute()` returns, and rolls back when it raises.

    It differs from `Depends` in two ways:

    * If `transaction` returns a context manager, it is entered and its value is injected. So `transaction` may be a
      generator, an async generator or an `@asynccontextmanager`, or return an object that is its own (async) context
      manager. A method needs `@classmethod` or `@staticmethod` besides.
    * Sync code runs on the event loop's own thread, because a handle such as sqlite3's belongs to the thread that made
      it. It blocks the loop meanwhile.

    Args:
        transaction: The callable that gives the database.

    Raises:
        TypeError: `transaction` is not callable.
    """
    if transaction is None:
        raise TypeError("DBDepends needs a callable: DBDepends(DB.transaction)")
    return Marker(transaction, entered=True)


class WithoutTransaction:
    """The class behind `NoTransaction`."""

    __slots__ = ()

    def __class_getitem__(cls, database: Any) -> Any:
        return Annotated[database, cls()]

    def __repr__(self) -> str:
        return "NoTransaction()"


if TYPE_CHECKING:
    # A type checker has to see the database class itself.
    NoTransaction = Annotated[T, WithoutTransaction()]
else:
    NoTransaction = WithoutTransaction
"""A database without an open transaction: `NoTransaction[DB]`, or `Annotated[DB, NoTransaction()]`.

For long tasks that open their transactions themselves. The database comes from an override of the class's
`no_transaction`, or for a class on `BaseSQLDB` from the worker. Without either, the task is refused when it is
prepared. DB may be an alias that holds `DBDepends` already: the alias's marker is ignored.
"""


class CallbackSpawner:
    """Spawns a group of tasks, and one more task after the last of the group has ended.

    Not available in this version: a task that asks for one is refused when it is prepared.
    """

    def __init__(self) -> None:
        raise NotImplementedError("groups with callbacks are not available in this version")
