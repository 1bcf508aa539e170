"""Who `task.schedule()` hands tasks to, and how a process or a test binds one.

A binding holds for the whole process, because a ContextVar that a web application sets in its lifespan is not seen
in its request tasks. A ContextVar may still override it, for tests that run side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Protocol


class Submitter(Protocol):
    """Takes tasks to JetStream."""

    async def submit(
        self, task: Any, *, at_time: datetime | None = None, labels: Mapping[str, str] | None = None
    ) -> str:
        """Submit one task (a `BaseTask`, which builds on this module); return its id once the server has stored it.

        Raises:
            SendTaskError: The server did not store it.
            ValueError: `at_time` is naive.
        """


current_task_id: ContextVar[str | None] = ContextVar("diracx_tasks_current_task_id", default=None)
"""The id of the task that executes here: the parent of what it submits."""

_process: list[Submitter] = []
_context: ContextVar[Submitter | None] = ContextVar("diracx_tasks_submitter", default=None)


def current_submitter() -> Submitter:
    """The submitter in force here.

    Raises:
        RuntimeError: None is bound.
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
    """Bind for every task and thread of the process; the latest binding counts."""
    _process.append(submitter)
    try:
        yield
    finally:
        # By identity: two bindings may end in another order than they began.
        for index in range(len(_process) - 1, -1, -1):
            if _process[index] is submitter:
                del _process[index]
                break


@contextmanager
def bound_for_context(submitter: Submitter) -> Iterator[None]:
    """Bind for the current context only; it overrides the process."""
    token = _context.set(submitter)
    try:
        yield
    finally:
        _context.reset(token)
