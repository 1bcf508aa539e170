"""The markers that stand in annotations. What they mean is told in `depends`, where authors import them from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Marker:
    """What `Depends` and `DBDepends` leave in an annotation."""

    dependency: Callable[..., Any] | None
    """What gives the value; None: the annotated type itself."""
    use_cache: bool = True
    """One call for each execution, shared by all who ask."""
    entered: bool = False
    """A context manager that the callable gives back is entered, and its value injected."""

    def __post_init__(self) -> None:
        if self.dependency is not None and not callable(self.dependency):
            raise TypeError(f"{self.dependency!r} cannot be a dependency: it is not callable")


def Depends(  # noqa: N802 - FastAPI's name
    dependency: Callable[..., Any] | None = None, *, use_cache: bool = True
) -> Any:
    """Mark a parameter as injected: `Annotated[T, Depends(callable)]`, or `= Depends(callable)`.

    Args:
        dependency: What gives the value. Sync callables and sync generators run in a thread, on a copy of the
            context. None: the annotated class itself is called.
        use_cache: False: call it anew for this parameter.

    Raises:
        TypeError: `dependency` is not callable.
    """
    return Marker(dependency, use_cache)


def DBDepends(transaction: Callable[..., Any]) -> Any:  # noqa: N802 - beside Depends
    """Mark a parameter as a database: `Annotated[DB, DBDepends(DB.transaction)]`.

    Like `Depends`, but a context manager that `transaction` gives back is entered, and its value is
    injected. So it may be a generator or async generator, an `@asynccontextmanager`, or give back an object
    that is its own (async) context manager; a method needs `@classmethod` or `@staticmethod` besides. One
    transaction serves the whole execution: it commits when `execute()` returns and rolls back when it
    raises.

    Sync code runs in place, not in a thread, since a handle such as sqlite3's belongs to the thread that
    made it; it blocks the worker's loop meanwhile.

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
    # A type checker has to see the database itself.
    NoTransaction = Annotated[T, WithoutTransaction()]
else:
    NoTransaction = WithoutTransaction
"""A database without an open transaction: `NoTransaction[DB]`, or `Annotated[DB, NoTransaction()]`.

For long tasks that open their transactions themselves. It is served by an override for the class's
`no_transaction`; without one the task is refused when it is prepared. DB may be an alias that holds `DBDepends`
already: it is set aside.
"""


class CallbackSpawner:
    """Spawns a group of tasks, and one more task when the last of the group has ended.

    Declared; not available in this version: a task that asks for one is refused when it is prepared.
    """

    def __init__(self) -> None:
        raise NotImplementedError("groups with callbacks are not available in this version")
