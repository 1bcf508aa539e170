"""Event loops that the code on them cannot end, and two of them in one process.

asyncio ends `run_forever` when code on the loop raises SystemExit or KeyboardInterrupt in a child task or a callback,
or calls `loop.stop()`. One unruly task would so end a loop that others share. `keep_running` runs the loop again: the
callbacks that were ready are still in its queue, and none is lost.

NATS stays on one event loop, which sends heartbeats and renews locks. Tasks that may block execute on others. In
`call` the task has the main thread, where Ctrl-C arrives and a debugger can stop. In a worker the tasks have threads of
their own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from types import TracebackType
from typing import Any, Final, TypeVar

from diracx.tasks.plumbing.exceptions import shown

logger = logging.getLogger("diracx.tasks.worker")

T = TypeVar("T")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

OnEscape = Callable[[BaseException, Context | None], object]
"""Called with a SystemExit or KeyboardInterrupt that left a child task or a callback, and the context in which that
code ran. The context is None where the loop does not tell it (uvloop)."""

CLOSE_SECONDS: Final = 2.0
"""The time that the tasks which are left on a loop have to end before it is closed, and its generators to close."""


class LoopClosedError(RuntimeError):
    """Code on the loop closed it. What was on it never ends."""


def log_escape(error: BaseException, context: Context | None) -> None:
    """Log an exception that would have ended the loop. An `OnEscape`."""
    logger.error("code on the event loop raised %s; the loop goes on", shown(repr(error)), exc_info=error)


def keep_running(
    loop: asyncio.AbstractEventLoop, is_done: Callable[[], bool], on_escape: OnEscape = log_escape
) -> None:
    """Run a loop until it is stopped while `is_done` is true. Nothing else ends it.

    Raises:
        LoopClosedError: Code on the loop, or on another thread, closed it.
    """
    while not is_done():
        if loop.is_closed():
            raise LoopClosedError("the event loop was closed by the code on it")
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            on_escape(error, _context_of(error))
            if (callback := _callback_in(error)) is not None:
                # The author of the code that raised it has no use for the frames of the loop.
                error.__traceback__ = callback.tb_next or callback


def task_that_raised(error: BaseException) -> asyncio.Task[Any] | None:
    """The asyncio task whose code raised an exception that escaped: whoever awaits that task gets it.

    Only for an `OnEscape`. None: a plain callback raised it, which nothing awaits, or the loop does not tell (uvloop).
    """
    trace = _callback_in(error)
    if trace is None:
        return None
    owner = getattr(_handle(trace)._callback, "__self__", None)
    return owner if isinstance(owner, asyncio.Task) else None


def _context_of(error: BaseException) -> Context | None:
    trace = _callback_in(error)
    return None if trace is None else _handle(trace)._context


def _callback_in(error: BaseException) -> TracebackType | None:
    """The place in the traceback where the loop called the callback that raised the error."""
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is asyncio.Handle._run.__code__:
            found = trace
        trace = trace.tb_next
    return found


def _handle(trace: TracebackType) -> Any:
    return trace.tb_frame.f_locals["self"]


def run(
    main: Coroutine[Any, Any, T],
    loop_factory: LoopFactory = asyncio.new_event_loop,
    on_escape: OnEscape = log_escape,
) -> T:
    """Run `main` on a new loop that only its end ends, and close the loop.

    Unlike `asyncio.run`, this waits neither for the threads of the loop's executor nor, for longer than
    `CLOSE_SECONDS`, for tasks that ignore their cancellation, nor for asynchronous generators that do not close.
    """
    loop = loop_factory()
    try:
        asyncio.set_event_loop(loop)
        return _run_task(loop, loop.create_task(main), on_escape)
    finally:
        try:
            if not loop.is_closed():
                _run_task(loop, loop.create_task(_end_all_tasks()), on_escape)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _run_task(loop: asyncio.AbstractEventLoop, task: asyncio.Task[T], on_escape: OnEscape) -> T:
    task.add_done_callback(lambda _: loop.stop())
    keep_running(loop, task.done, on_escape)
    return task.result()


async def _end_all_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, deaf = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        for task in deaf:
            logger.warning("left behind: %s ignores its cancellation", shown(repr(task)))
    closing = asyncio.create_task(asyncio.get_running_loop().shutdown_asyncgens())
    await asyncio.wait([closing], timeout=CLOSE_SECONDS)
    if not closing.done():
        logger.warning("left behind: asynchronous generators that do not close")
        closing.cancel()
        await asyncio.wait([closing], timeout=CLOSE_SECONDS)


@contextmanager
def loop_on_a_thread(
    name: str, loop_factory: LoopFactory = asyncio.new_event_loop
) -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop on a thread of its own for the block. Tasks that still run at the end are cancelled."""
    started: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = concurrent.futures.Future()

    async def serve() -> None:
        ended = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), ended))
        await ended.wait()

    thread = threading.Thread(target=lambda: run(serve(), loop_factory), name=name, daemon=True)
    thread.start()
    loop, ended = started.result()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


async def run_on(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, T],
    on_cancel: Callable[[], object] = lambda: None,
    is_meant: Callable[[], bool] = lambda: True,
) -> T:
    """Run a coroutine on the event loop of another thread, in a copy of this context, and await its end.

    A cancellation is passed on to the coroutine. This returns or raises only after the coroutine has ended.

    Args:
        loop: Runs on another thread.
        coroutine: Runs on that loop.
        on_cancel: Called on this thread each time a cancellation is passed on.
        is_meant: Says whether a cancellation is passed on. If not, unruly code cancelled what it does not own.
    """
    ended: concurrent.futures.Future[T] = concurrent.futures.Future()
    task: asyncio.Task[T] | None = None

    def begin() -> None:
        nonlocal task
        task = loop.create_task(coroutine)
        task.add_done_callback(lambda done: _transfer(done, ended))

    def cancel() -> None:
        if task is not None:
            task.cancel()

    loop.call_soon_threadsafe(begin)
    waiting = asyncio.wrap_future(ended)
    while True:
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            meant = is_meant()
            if waiting.cancelled() or (meant and waiting.done()):
                raise
            if meant:
                loop.call_soon_threadsafe(cancel)
                on_cancel()


def _transfer(task: asyncio.Task[T], ended: concurrent.futures.Future[T]) -> None:
    # cancel() of a concurrent future that is not running always succeeds, and only this function ends the future.
    if task.cancelled():
        ended.cancel()
    elif (error := task.exception()) is not None:
        ended.set_exception(error)
    else:
        ended.set_result(task.result())
