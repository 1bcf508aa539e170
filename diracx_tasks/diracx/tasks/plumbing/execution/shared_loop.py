"""An event loop that the code of a task shares with its worker, and small tasks with each other.

`asyncio.all_tasks()` gives the code of a task whatever its loop runs. Code that cancels all of it, as some programs do
when they end, must reach no more than in a program of its own:

* The asyncio tasks of the worker itself (heartbeats, pulls, the connection, open resources) are not listed.
* Those of other executions are listed. They are not cancelled while the execution that they belong to goes on.
* The threads behind `asyncio.to_thread` are those of all, so that no task can shut them down.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from diracx.tasks.plumbing.execution.execution import Execution, current_execution

EAGERLY: Final[Mapping[str, Any]] = {"eager_start": True} if sys.version_info >= (3, 12) else {}
"""Settings of an asyncio task that runs its first step where it is made, and is scheduled only if it waits.

Python 3.11 cannot. To take the first step back out of the loop's queue there and run it by hand was measured: it saves
nothing.
"""


class ExecutionTask(asyncio.Task[Any]):
    """An asyncio task of an execution, which the code of another execution cannot cancel before that one has ended.

    Args:
        settings: As `asyncio.Task` takes them, for example `EAGERLY`.
    """

    __slots__ = ("execution",)

    def __init__(
        self, code: Coroutine[Any, Any, Any], execution: Execution, loop: asyncio.AbstractEventLoop, **settings: Any
    ) -> None:
        self.execution = execution
        """The execution that it belongs to. Set first: an eager step runs within the next line, and may be watched."""
        super().__init__(code, loop=loop, **settings)

    def cancel(self, msg: Any = None) -> bool:
        """Cancel it. Returns False if it has ended, or belongs to another execution than the code that asks."""
        asking = current_execution.get()
        if asking is None or self.execution is asking or self.execution.code_ended:
            return super().cancel(msg)
        return False


async def _refuse_shutdown(timeout: float | None = None) -> None:
    raise RuntimeError("the default executor of this event loop serves other tasks as well, and is not shut down")


@contextmanager
def secluded(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Keep what runs on `loop`, and belongs to no execution, from the code of tasks within the block.

    What begins within the block stays unlisted: a weak reference to each asyncio task costs more than the rest of this.
    """
    unregister = asyncio.tasks._unregister_task

    def make(loop: asyncio.AbstractEventLoop, code: Any, **settings: Any) -> asyncio.Task[Any]:
        execution = current_execution.get()
        if execution is None or execution.code_ended:
            task = asyncio.Task(code, loop=loop, **settings)
            unregister(task)
            return task
        return ExecutionTask(code, execution, loop, **settings)

    before = asyncio.all_tasks(loop)
    for task in before:
        unregister(task)
    loop.set_task_factory(make)
    shutdown, loop.shutdown_default_executor = loop.shutdown_default_executor, _refuse_shutdown  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop.shutdown_default_executor = shutdown  # type: ignore[method-assign]
        loop.set_task_factory(None)
        for task in before:
            asyncio.tasks._register_task(task)
