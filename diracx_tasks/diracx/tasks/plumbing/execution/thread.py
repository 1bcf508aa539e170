"""Where tasks execute: small ones on the worker's event loop, each other one on an event loop and a thread of its own.

* `time.sleep`, and C code that frees the GIL, block the thread of one task alone. No other task waits for it, and the
  worker's loop goes on: it sends heartbeats and renews locks.
* A thread is started when an execution finds no idle one, and used again by later executions. So there are no more than
  the worker has slots.
* Engines and clients belong to an event loop: each thread opens its own. They connect when they are first used. A task
  that comes to a thread which lacks one, or for which no thread can be started, is refused: that is not its failure.
* The code cannot end the loop of its thread, see `loops`. If it closes the loop or cancels everything on it, the
  execution has failed with that error, and the thread is replaced.
* A thread cannot be stopped from outside, see `last_resort`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from typing import Any, Final, TypeAlias

from diracx.tasks.plumbing.background import uncancelled
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import NotServedError
from diracx.tasks.plumbing.execution.execution import End, Execution, current_execution
from diracx.tasks.plumbing.execution.forks import guard_forks
from diracx.tasks.plumbing.execution.loops import LoopClosedError, LoopFactory, log_escape, run, task_that_raised
from diracx.tasks.plumbing.execution.shared_loop import ExecutionTask, secluded
from diracx.tasks.plumbing.injection.outages import KeptOpen
from diracx.tasks.plumbing.injection.resource import one_line
from diracx.tasks.plumbing.injection.resources import Resources

Result: TypeAlias = concurrent.futures.Future[End]

AWAIT_SECONDS: Final = 0.1
"""The time in which the code may retrieve the exception of a child that would have ended its event loop."""
MAX_THREADS: Final = 32
"""Threads that a loop starts, when needed, for `asyncio.to_thread`. Tasks may leave `executor.MAX_LEFT` of them
behind."""
CLOSE_SECONDS: Final = 5.0
"""The time that the threads have to close their resources when the worker ends."""


class ExecutionThread:
    """One thread with an event loop, for one execution at a time. Its resources are kept open while it runs."""

    def __init__(self, name: str, resources: Resources, loop_factory: LoopFactory) -> None:
        self._resources = resources
        self._started: concurrent.futures.Future[KeptOpen] = concurrent.futures.Future()
        self._result: Result | None = None
        self._loop_factory = loop_factory
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    @property
    def usable(self) -> bool:
        """Whether it can take another execution."""
        return self._thread.is_alive() and not self._loop.is_closed() and not self._left.is_set()

    async def start(self) -> None:
        """Start the thread, which begins to open its resources.

        Raises:
            RuntimeError: The system gives no more threads.
            OSError: The system gives no more files for an event loop.
        """
        self._thread.start()
        self.resources = await asyncio.wrap_future(self._started)

    async def run(self, coroutine: Coroutine[Any, Any, Any], execution: Execution) -> Any:
        """Run the code of an execution on the thread, and await its end."""
        execution.thread = self._thread.ident
        self._result = concurrent.futures.Future()
        return await run_code(self._loop, coroutine, execution, self._result)

    def leave(self) -> None:
        """Close the resources and end the thread, as soon as it is on its loop."""
        if self.usable:
            self._loop.call_soon_threadsafe(self._left.set)

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread."""
        self._thread.join(seconds)

    def _main(self) -> None:
        error: BaseException = LoopClosedError("everything on its event loop was cancelled")
        serving = self._serve()
        try:
            run(serving, self._loop_factory, blame_escape)
        except BaseException as raised:
            error = raised
            serving.close()  # on a loop that could not be made, or was closed, it does not end
        if self._started.done():
            self._started.result().forget()
        else:
            self._started.set_exception(error)
        if self._result is not None and not self._result.done():
            self._result.set_result((None, error))

    async def _serve(self) -> None:
        self._loop, self._left = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_default_executor(TaskThreads(thread_name_prefix=self._thread.name))
        with secluded(self._loop):
            async with self._resources.kept_open() as resources:
                self._started.set_result(resources)
                await self._left.wait()


async def run_code(
    loop: asyncio.AbstractEventLoop, code: Awaitable[Any], execution: Execution, result: Result | None = None
) -> Any:
    """Run the code of an execution in an asyncio task of its own, in a copy of this context.

    Args:
        loop: The event loop of the code, on this thread or another.
        result: Becomes the end of the code; whoever notices that the loop is broken may end it.

    Returns:
        The value of the code; None when the execution gave up.

    Raises:
        BaseException: What the code raised.
    """
    here = asyncio.get_running_loop()
    ended: asyncio.Future[End] = here.create_future()
    code_task = _CodeTask(loop, code, execution, result or concurrent.futures.Future())

    def tell(end: End) -> None:
        if ended.done():
            execution.code_left()
        else:
            ended.set_result(end)

    code_task.result.add_done_callback(lambda done: here.call_soon_threadsafe(tell, done.result()))
    execution.cancel_code = code_task.cancel
    loop.call_soon_threadsafe(code_task.begin)
    value, error = await execution.outlast(ended) or (None, None)
    if error is not None:
        raise error
    return value


class _CodeTask:
    """The asyncio task of the code of an execution."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, code: Awaitable[Any], execution: Execution, result: Result
    ) -> None:
        self.result = result
        self._loop = loop
        self._code = code
        self._execution = execution
        self._task: ExecutionTask | None = None
        self._begun = False

    def begin(self) -> None:
        """Begin; on the loop."""
        # Not by `create_task`: the code of an earlier task may have replaced the loop's task factory.
        self._task = ExecutionTask(self._run(), self._execution, self._loop)

    def cancel(self) -> None:
        """Cancel; on any thread."""
        self._execution.yielded = False
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._execution.yielded = True
        if self._task is None or not self._begun:
            # Cancelled before its first step, `_run` would neither await the code nor tell its end.
            self._loop.call_soon(self._cancel)
        else:
            asyncio.Task.cancel(self._task)  # whoever's context this is, see `shared_loop`

    async def _run(self) -> None:
        self._begun = True
        # The end goes into `result` as a value: raised here, SystemExit would end the loop.
        value = raised = None
        try:
            value = await self._code
        except BaseException as error:
            raised = error
        if self._execution.in_child is not None:
            self._execution.in_child(self._execution, raised)
        self._execution.code_returned = True
        if not self.result.done():  # of a loop that was closed, the garbage collector ends the coroutines
            self.result.set_result((value, raised))


def blame_escape(error: BaseException, context: Context | None) -> None:
    """Give an exception that would have ended an event loop to the execution whose code raised it. An `OnEscape`.

    Whoever awaits the child that raised it gets it, too, and may handle it. It fails the task where nobody does.
    """
    execution = context[current_execution] if context is not None and current_execution in context else None
    if execution is None:
        log_escape(error, context)
    elif (child := task_that_raised(error)) is None:
        execution.escaped(error)
    else:
        child.get_loop().call_later(AWAIT_SECONDS, _blame_unless_awaited, execution, child, error)


def _blame_unless_awaited(execution: Execution, child: asyncio.Task[Any], error: BaseException) -> None:
    # The flag with which asyncio logs that an exception was never retrieved.
    if child._log_traceback:
        execution.escaped(error)


class TaskThreads(ThreadPoolExecutor):
    """The default executor of a loop that executes tasks. Each execution knows the calls that its code made."""

    def __init__(self, thread_name_prefix: str = "asyncio") -> None:
        super().__init__(MAX_THREADS, thread_name_prefix)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run `fn` in a thread, as a part of the execution in this context."""
        if (execution := current_execution.get()) is None:
            return super().submit(fn, *args, **kwargs)
        # In this context also where the caller did not ask for it, so that a process forked there has its execution.
        call = super().submit(copy_context().run, fn, *args, **kwargs)
        execution.made_call(call)
        return call


class ExecutionThreads:
    """The threads of one worker.

    Args:
        resources: Opened on each thread.
    """

    def __init__(self, resources: Resources, loop_factory: LoopFactory = asyncio.new_event_loop) -> None:
        self._resources = resources
        self._loop_factory = loop_factory
        self._threads: list[ExecutionThread] = []
        self._idle: list[ExecutionThread] = []

    async def invoke(
        self, call: Callable[[BaseTask], Coroutine[Any, Any, Any]], task: BaseTask, execution: Execution
    ) -> Any:
        """Run the code of a task on a thread of its own. An `Invoke` for the executor."""
        thread = await self._place(type(task), execution)
        try:
            return await thread.run(call(task), execution)
        finally:
            if thread.usable and not execution.code_given_up:
                self._idle.append(thread)
            else:
                self._threads.remove(thread)

    async def _place(self, task_class: type[BaseTask], execution: Execution) -> ExecutionThread:
        """Find a thread on which a task can execute. Until then the execution has a refusal: whatever ends it has not
        ended the code of the task.

        Raises:
            NotServedError: There is none at the moment.
        """
        refuse = self._resources.outages.refuse
        execution.refusal = NotServedError("it has not found a thread yet")
        while (thread := self._take_idle(task_class)) is None:
            try:
                await uncancelled(self.start_one())
            except Exception as error:
                execution.refusal = refuse(task_class, f"no thread can be started for it: {one_line(error)}")
                raise execution.refusal from error
        try:
            await thread.resources.tried(task_class)
            execution.refusal = thread.resources.refusal(task_class)
            if execution.refusal is not None:
                raise execution.refusal
        except BaseException:
            self._idle.append(thread)
            raise
        return thread

    def _take_idle(self, task_class: type[BaseTask]) -> ExecutionThread | None:
        """An idle thread that still works, best one that has what the task needs. What an earlier task left behind may
        have broken a thread meanwhile."""
        for thread in self._idle[:]:
            if not thread.usable:
                self._idle.remove(thread)
                self._threads.remove(thread)
        if not self._idle:
            return None
        best = next((each for each in reversed(self._idle) if each.resources.has(task_class)), self._idle[-1])
        self._idle.remove(best)
        return best

    async def start_one(self) -> ExecutionThread:
        """Start a thread that waits for an execution.

        Raises:
            RuntimeError: The system gives no more threads.
            OSError: The system gives no more files for an event loop.
        """
        thread = ExecutionThread(f"execution {len(self._threads) + 1}", self._resources, self._loop_factory)
        self._threads.append(thread)
        try:
            await thread.start()
        except BaseException:
            self._threads.remove(thread)
            raise
        self._idle.append(thread)
        return thread

    async def close(self) -> None:
        """End the threads. One that a task still blocks is left behind."""
        for thread in self._threads:
            thread.leave()
        deadline = asyncio.get_running_loop().time() + CLOSE_SECONDS
        for thread in self._threads:
            remaining = deadline - asyncio.get_running_loop().time()
            await asyncio.to_thread(thread.join, max(0.0, remaining))


@asynccontextmanager
async def executing(
    size: Size, resources: Resources, loop_factory: LoopFactory = asyncio.new_event_loop
) -> AsyncIterator[ExecutionThreads | None]:
    """Open the place where tasks of a size execute, with their resources, for the block.

    It waits until each resource is open or down, for 10 s at the most.

    Yields:
        The threads; None for small tasks, which share this event loop.
    """
    guard_forks()
    if size is Size.SMALL:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(TaskThreads())
        with secluded(loop):
            async with resources.kept_open() as here:
                await here.tried()
                yield None
        return
    threads = ExecutionThreads(resources, loop_factory)
    try:
        # The first one starts at once, so that a resource that cannot be opened is known before any task.
        first = await threads.start_one()
        await first.resources.tried()
        yield threads
    finally:
        await threads.close()
