"""The markers that stand in annotations. Authors import them from `depends`, whose docstring explains them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from diracx.tasks.plumbing.submitter import DEFAULT_GROUP_TTL_SECONDS, current_submitter

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
    """Spawns a group of tasks, and one more task that runs after the last of them has ended.

    async def execute(self, spawn_with_callback: CallbackSpawner) -> None:
        group_id = await spawn_with_callback([Child(1), Child(2)], AfterThem())
    """

    __slots__ = ()

    async def __call__(
        self,
        children: Iterable[Any],
        callback: Any,
        ttl_seconds: float = DEFAULT_GROUP_TTL_SECONDS,
        *,
        labels: Mapping[str, Any] | None = None,
    ) -> str:
        """Store the group, and return its id; see `submitter.Submitter.spawn`.

        Raises:
            RuntimeError: No broker is bound.
            SendTaskError, TaskDefinitionError, MalformedTaskError, ValueError, TypeError: As there.
        """
        return await current_submitter().spawn(children, callback, ttl_seconds=ttl_seconds, labels=labels)


async def callback_spawner() -> CallbackSpawner:
    """Return a spawner. The injector calls it for `CallbackSpawner` parameters, and an override may replace it."""
    return CallbackSpawner()
