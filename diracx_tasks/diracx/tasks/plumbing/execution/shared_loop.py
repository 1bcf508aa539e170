"""An event loop that the code of a task shares with its worker, and small tasks with each other.

`asyncio.all_tasks()` gives the code of a task whatever its loop runs. Code that cancels all of it, as some programs do
when they end, must reach no more than in a program of its own:

* The asyncio tasks of the worker itself (heartbeats, pulls, the connection, open resources) are not listed.
* Those of other executions are listed. They are not cancelled while the execution that they belong to goes on.
* The threads behind `asyncio.to_thread` are those of all, so that no task can shut them down.

The first step of an `ExecutionTask` may run where it is started, within a step of another asyncio task: see
`begin_at_once`. Also there it is the current task, in a context of its own. Once it suspends, it is an ordinary one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

from diracx.tasks.plumbing.execution.execution import Execution, current_execution


class ExecutionTask(asyncio.Task[Any]):
    """An asyncio task of an execution, which the code of another execution cannot cancel before that one has ended.

    Make it with `of`, and give it its code with `begin` or `begin_at_once`: its first step may look at `execution`.
    """

    __slots__ = ("execution",)

    execution: Execution
    """The execution that it belongs to."""

    @classmethod
    def of(cls, execution: Execution) -> ExecutionTask:
        """A task of an execution, which has no code yet."""
        task: ExecutionTask = cls.__new__(cls)
        task.execution = execution
        return task

    def begin(self, code: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop, **settings: Any) -> None:
        """Run the code from the next turn of the loop on.

        Args:
            settings: As `asyncio.Task` takes them.
        """
        super().__init__(code, loop=loop, **settings)

    def begin_at_once(self, code: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        """Run the code here, up to where it first suspends, and the rest of it on the loop, which is running.

        Other loops than those of asyncio cannot do so under Python 3.11: there it is the same as `begin`.

        Raises:
            SystemExit, KeyboardInterrupt: The code raised it. Anything else is kept in the task.
        """
        if sys.version_info >= (3, 12):
            super().__init__(code, loop=loop, eager_start=True)
        elif isinstance(loop, asyncio.BaseEventLoop):
            _begin_by_hand(self, code, loop)
        else:
            super().__init__(code, loop=loop)

    def cancel(self, msg: Any = None) -> bool:
        """Cancel it. Returns False if it has ended, or belongs to another execution than the code that asks."""
        asking = current_execution.get()
        if asking is None or self.execution is asking or self.execution.code_ended:
            return super().cancel(msg)
        return False


def _begin_by_hand(task: ExecutionTask, code: Coroutine[Any, Any, Any], loop: asyncio.BaseEventLoop) -> None:
    """What `eager_start` does from Python 3.12 on: run the first step here, which the task hands to `call_soon`."""
    steps: list[tuple[Callable[..., object], Context | None]] = []
    call_soon = loop.call_soon

    def keep_step(callback: Callable[..., object], *arguments: Any, context: Context | None = None) -> Any:
        if getattr(callback, "__self__", None) is not task:  # of a finalizer, which the garbage collector runs
            return call_soon(callback, *arguments, context=context)
        steps.append((callback, context))
        return None

    # Not taken out of the queue of the loop afterwards: another thread may have added to it since.
    loop.call_soon = keep_step  # type: ignore[method-assign, assignment]
    try:
        asyncio.Task.__init__(task, code, loop=loop)
    finally:
        del loop.call_soon
    around = asyncio.current_task(loop)
    if around is not None:
        asyncio.tasks._leave_task(loop, around)
    try:
        for step, context in steps:
            assert context is not None
            context.run(step)
    finally:
        if around is not None:
            asyncio.tasks._enter_task(loop, around)


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
        child = ExecutionTask.of(execution)
        child.begin(code, loop, **settings)
        return child

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
