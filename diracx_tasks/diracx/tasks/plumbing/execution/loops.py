"""Two event loops in one process, each on its own thread.

NATS stays on one event loop, which sends heartbeats and renews locks. Tasks that may block execute on the other. In
`call` the task has the main thread, where Ctrl-C arrives and a debugger can stop. In a worker the task has a thread of
its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@contextmanager
def loop_on_a_thread(
    name: str, loop_factory: LoopFactory = asyncio.new_event_loop
) -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop on a thread of its own for the block. Tasks that still run at the end are cancelled."""
    started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()

    def run() -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            loop = runner.get_loop()
            started.set_result(loop)
            loop.run_forever()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    loop = started.result()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def run_on(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], on_cancel: Callable[[], object] = lambda: None
) -> T:
    """Run a coroutine on the event loop of another thread, in a copy of this context, and await its end.

    A cancellation is passed on to the coroutine. This returns or raises only after the coroutine has ended.

    Args:
        loop: Runs on another thread.
        coroutine: Runs on that loop.
        on_cancel: Called on this thread each time a cancellation is passed on.
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
            if waiting.done():
                raise
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
