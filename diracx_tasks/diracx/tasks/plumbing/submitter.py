"""The broker that `task.schedule()` submits to, and how a process or a test binds it.

A binding holds for the whole process, since the request tasks of a web application do not see a ContextVar that its
lifespan sets. A ContextVar may override the binding, for tests that run side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, Protocol

DEFAULT_GROUP_TTL_SECONDS: Final = 86_400


class Submitter(Protocol):
    """Publishes tasks. `JetStreamBroker` implements it."""

    async def submit(
        self,
        task: Any,
        *,
        at_time: datetime | None = None,
        labels: Mapping[str, Any] | None = None,
        keep_result: float | bool | None = None,
    ) -> str:
        """Submit one task.

        Args:
            task: A `BaseTask`. Its module imports this one, so the type cannot be named here.
            at_time: The time to run it, aware; None means at once.
            labels: JSON values for people and filters.
            keep_result: For how many seconds its result is kept; True: a day; None: as its class says.

        Returns:
            The id of the task, once the server has stored it.

        Raises:
            SendTaskError: The server did not store the task.
            MalformedTaskError: A field holds a value that its type does not allow or that would arrive as another one,
                or a label is no JSON value.
            ValueError: `at_time` is naive, or later than the server can hold a task, in 2262; or `keep_result` is not
                above 0, or more than a year.
            TypeError: `at_time` is no datetime, or `keep_result` no number.
        """

    async def spawn(
        self,
        children: Iterable[Any],
        callback: Any,
        *,
        ttl_seconds: float = DEFAULT_GROUP_TTL_SECONDS,
        labels: Mapping[str, Any] | None = None,
    ) -> str:
        """Store a group of tasks, and the task that runs after the last of them. All are stored, or nothing is.

        A task that runs again, after a crash or for a retry, gets the group that it spawned before.

        Args:
            children: `BaseTask`s of registered classes, at most 100,000. Without any, the callback runs at once.
            callback: The `BaseTask` that runs once all children have ended: succeeded, failed for good, expired or
                cancelled.
            ttl_seconds: After this time, at most 365 days, the callback runs although children have not ended.
            labels: JSON values for people and filters, of the children and of the callback.

        Returns:
            The id of the group.

        Raises:
            SendTaskError: The server did not store the group, or a task is too large.
            TaskDefinitionError: The class of a task is not registered; the text has its index.
            MalformedTaskError: A field or a label, as for `submit`; the text has the index of the task.
            ValueError: `ttl_seconds` is out of range, or there are too many children.
            TypeError: `children` is one task, or none at all.
        """

    async def result(self, task_id: str, timeout: float | None = 60.0) -> Any:
        """Wait for the result of a task; see `JetStreamBroker.result`."""


class Parent(Protocol):
    """The execution of a task that may spawn groups."""

    groups: int
    """How many it has spawned."""


current_parent: ContextVar[Parent | None] = ContextVar("diracx_tasks_current_parent", default=None)
"""The execution whose code runs in this context."""

current_task_id: ContextVar[str | None] = ContextVar("diracx_tasks_current_task_id", default=None)
"""The id of the task that executes in this context; it is the parent of the tasks that it submits."""

_process: list[Submitter] = []
_context: ContextVar[Submitter | None] = ContextVar("diracx_tasks_submitter", default=None)


def current_submitter() -> Submitter:
    """Return the submitter of this context, else the one of the process.

    Raises:
        RuntimeError: No submitter is bound.
    """
    if (submitter := _context.get()) is not None:
        return submitter
    if not _process:
        raise RuntimeError(
            "this task is not bound to a broker; submit it inside `async with JetStreamBroker.connect(url):`"
        )
    return _process[-1]


@contextmanager
def bound_for_process(submitter: Submitter) -> Iterator[None]:
    """Bind a submitter for all tasks and threads of the process. The latest binding counts."""
    _process.append(submitter)
    try:
        yield
    finally:
        # Two bindings may end in any order, so remove this very one, the latest first.
        for index in range(len(_process) - 1, -1, -1):
            if _process[index] is submitter:
                del _process[index]
                break


@contextmanager
def bound_for_context(submitter: Submitter) -> Iterator[None]:
    """Bind a submitter for the current context. It overrides the one of the process."""
    token = _context.set(submitter)
    try:
        yield
    finally:
        _context.reset(token)
