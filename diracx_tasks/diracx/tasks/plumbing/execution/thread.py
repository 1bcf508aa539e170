"""The execution thread: medium and large tasks execute on an event loop and a thread of their own.

* `time.sleep`, and C code that frees the GIL, block this loop alone. The worker's loop goes on: it sends heartbeats and
  renews locks.
* A thread cannot be stopped from outside. When a task is cancelled (its lease or a lock lapsed, or the worker's grace
  period is over) and its thread does not return to its loop within a second, the process ends.
* The deadline of a lease or a lock lies a second before the server's. So the process ends before the next owner can
  begin, and the work never goes on beside the worker that has the message next.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Final, NoReturn, TypeVar

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.execution.loops import LoopFactory, loop_on_a_thread, run_on
from diracx.tasks.plumbing.injection.resources import Resources

logger = logging.getLogger("diracx.tasks.worker")

YIELD_SECONDS: Final = 1.0
"""The time that a cancelled task has to give its thread back."""
GIVE_BACK_SECONDS: Final = 2.0
"""The time that the worker has to give back its messages before the process ends."""
EXIT_CODE: Final = 79
"""The exit code when the process ends itself. `ExitCode.STUCK` describes it."""


def end_process(code: int = EXIT_CODE) -> NoReturn:
    """End the process at once, without waiting for any thread."""
    logging.shutdown()
    os._exit(code)


T = TypeVar("T")


async def _contained(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, SystemExit | None]:
    """Return a SystemExit as a value. If it were raised, it would end the loop that all tasks of the thread share."""
    try:
        return await coroutine, None
    except SystemExit as error:
        return None, error


class ExecutionThread:
    """Runs tasks on the event loop of another thread. `open` starts the thread.

    Args:
        loop: The event loop of that thread.
        end: Ends the process.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, end: Callable[[], object] = end_process) -> None:
        self.loop = loop
        self.end = end
        self._ident: int | None = None
        self._ending: asyncio.Task[None] | None = None
        self.before_end: Callable[[], Awaitable[object]] | None = None
        """Awaited before the process ends, for at most `GIVE_BACK_SECONDS`: gives back the messages in flight."""
        loop.call_soon_threadsafe(self._note_ident)

    def _note_ident(self) -> None:
        self._ident = threading.get_ident()

    @classmethod
    @contextmanager
    def open(cls, loop_factory: LoopFactory = asyncio.new_event_loop) -> Iterator[ExecutionThread]:
        """Start the thread, and end it with the block."""
        with loop_on_a_thread("execution", loop_factory) as loop:
            yield cls(loop)

    async def invoke(self, invocation: Callable[[BaseTask], Coroutine[Any, Any, Any]], task: BaseTask) -> Any:
        """Run a task on the thread. An `Invoke` for the executor."""
        name = type(task).__name__
        value, exit_ = await run_on(self.loop, _contained(invocation(task)), on_cancel=lambda: self._must_yield(name))
        if exit_ is not None:
            raise exit_
        return value

    @asynccontextmanager
    async def entered(self, context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        """Enter and leave a context on the thread, because the resources that it opens belong to that thread's loop."""
        entering: concurrent.futures.Future[T] = concurrent.futures.Future()
        leaving = asyncio.Event()

        async def hold() -> None:
            async with context as value:
                entering.set_result(value)
                await leaving.wait()

        holding = asyncio.create_task(run_on(self.loop, hold()), name="resources of the execution thread")
        holding.add_done_callback(lambda _: entering.cancel())
        entered = asyncio.wrap_future(entering)
        await asyncio.wait([entered])
        if entered.cancelled():
            await holding
        try:
            yield entered.result()
        finally:
            self.loop.call_soon_threadsafe(leaving.set)
            await holding

    def _must_yield(self, name: str) -> None:
        here = asyncio.get_running_loop()
        overdue = here.call_later(YIELD_SECONDS, self._overdue, name)
        self.loop.call_soon_threadsafe(here.call_soon_threadsafe, overdue.cancel)

    def _overdue(self, name: str) -> None:
        frame = sys._current_frames().get(self._ident) if self._ident is not None else None
        line = traceback.extract_stack(frame)[-1] if frame is not None else None
        where = f"{line.filename}:{line.lineno} in {line.name}" if line is not None else "its code"
        logger.critical(
            "%s was cancelled, but %s does not give the thread back: the process ends, so that the task cannot go on "
            "beside the worker that has it next",
            name,
            where,
        )
        if self._ending is None:
            self._ending = asyncio.create_task(self._end_process(), name="end of the process")

    async def _end_process(self) -> None:
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                if self.before_end is not None:
                    await self.before_end()
        except Exception:
            logger.exception("not every message was given back; the rest return when their leases lapse")
        self.end()


@asynccontextmanager
async def executing(
    size: Size, resources: Resources, loop_factory: LoopFactory = asyncio.new_event_loop
) -> AsyncIterator[ExecutionThread | None]:
    """Open the place where tasks of a size execute, with their resources, for the block.

    Yields:
        The execution thread; None for small tasks, which share the worker's event loop.

    Raises:
        ResourceError: A resource of the tasks is missing.
    """
    if size is Size.SMALL:
        async with resources.opened():
            yield None
        return
    with ExecutionThread.open(loop_factory) as thread:
        async with thread.entered(resources.opened()):
            yield thread
