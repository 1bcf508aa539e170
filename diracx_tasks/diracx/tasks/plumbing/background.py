"""Coroutines that run beside a block or that no cancellation interrupts, and a sleep that an event ends."""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar, cast

from diracx.tasks.plumbing.exceptions import BackgroundEndedError

logger = logging.getLogger("diracx.tasks.background")

T = TypeVar("T")

OnEnd = Callable[[BackgroundEndedError], object]
"""Takes the first end of a coroutine that should have run on, and ends its owner in order."""


@asynccontextmanager
async def in_background(on_end: OnEnd | None = None, /, **coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `coroutines` beside the block, which must not go on without them. Cancel and await them at its end.

        async with in_background(self._stop, lease_renewal=leases.run(), configuration=follower.run()):
            ...

    Each runs until it is cancelled. If one ends earlier, by an error or by returning,

    * it is logged at once, with its traceback;
    * `on_end` is called, once, with the first that ended: it lets the block end in order;
    * a `BackgroundEndedError` with the error as its cause is raised at the end of the block.

    An error that one raises while it is cancelled is raised at the end of the block as it is. Of several errors the
    first is raised, and the others are logged. The exception of the block comes before all of them, and so does a
    cancellation that arrives while the coroutines are ending; it is raised once they have ended.

    Args:
        on_end: Must not raise.
        coroutines: What to run, by the name of its asyncio task. In texts, `lock_renewal` is "lock renewal".

    Raises:
        BackgroundEndedError: One of them ended before the block.
    """
    background = _Background(on_end, coroutines)
    try:
        yield
    except BaseException:
        await background.end()
        _log_failures(background.failed_while_ending)
        raise
    cancelled = await background.end()
    failed = background.failed_while_ending
    _log_failures(failed[1:] if cancelled is None and background.first_end is None else failed)
    if cancelled is not None:
        raise cancelled
    if background.first_end is not None:
        raise background.first_end
    for task in failed:
        task.result()


class _Background:
    """The tasks of one `in_background`."""

    def __init__(self, on_end: OnEnd | None, coroutines: Mapping[str, Coroutine[Any, Any, None]]) -> None:
        self.first_end: BackgroundEndedError | None = None
        """The first end of a task before the block ended."""
        self._on_end = on_end
        self._ending = False
        self._ended: set[asyncio.Task[None]] = set()
        """The tasks that ended before the block."""
        self._tasks = [
            asyncio.create_task(coroutine, name=name.replace("_", " ")) for name, coroutine in coroutines.items()
        ]
        for task in self._tasks:
            task.add_done_callback(self._report_end)

    @property
    def failed_while_ending(self) -> list[asyncio.Task[None]]:
        """The tasks that failed after they were cancelled."""
        return [task for task in self._tasks if task not in self._ended and not task.cancelled() and task.exception()]

    def _report_end(self, task: asyncio.Task[None]) -> None:
        if self._ending or task in self._ended:
            return
        self._ended.add(task)
        cause = asyncio.CancelledError() if task.cancelled() else task.exception()
        error = BackgroundEndedError(task.get_name(), cause)
        effect = "" if self._on_end is None else "; the process ends, so that it does not run on without it"
        logger.error("%s%s", error, effect, exc_info=cause)
        if self.first_end is None:
            self.first_end = error
            if self._on_end is not None:
                self._on_end(error)

    async def end(self) -> asyncio.CancelledError | None:
        """Cancel the tasks and wait until all have ended. Returns the last cancellation that arrived meanwhile."""
        for task in self._tasks:
            if task.done():
                self._report_end(task)  # it may have ended in this turn of the loop, before its callback was called
        self._ending = True
        for task in self._tasks:
            task.cancel()
        cancelled = None
        while pending := [task for task in self._tasks if not task.done()]:
            try:
                await asyncio.wait(pending)
            except asyncio.CancelledError as error:  # a stop, a lost lock and a timeout may each cancel
                cancelled = error
        return cancelled


def _log_failures(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        error = task.exception()
        logger.error("%s failed while it ended: %s", task.get_name(), error, exc_info=error)


class ChildTasks:
    """Short asyncio tasks of a coroutine in the background, which starts them and does not await them.

    An error of one must not be lost. So the coroutine calls `check` at each of its turns, and ends with the error of
    the first child that failed; the errors of others are logged. A child handles the errors after which it can go on.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `coroutine` as an asyncio task of that name."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if self._error is None:
            self._error = error
        else:
            logger.error("%s failed: %s", task.get_name(), error, exc_info=error)

    def check(self) -> None:
        """Raise the error of the first child that failed, if one did."""
        if self._error is not None:
            raise self._error

    async def end(self, seconds: float) -> None:
        """Wait for the children for so long, and cancel those that still run."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        self.cancel()

    def cancel(self) -> None:
        """Cancel the children that still run."""
        for task in self._tasks:
            task.cancel()


async def uncancelled(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run `coroutine` to its end even if this task is cancelled meanwhile. Raise the cancellation after that."""
    work = asyncio.create_task(coroutine)
    cancelled: asyncio.CancelledError | None = None
    try:
        # The fast path: `wait` costs three times as much.
        return await asyncio.shield(work)
    except asyncio.CancelledError as error:
        cancelled = error
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:  # a stop, a lost lock and a timeout may each cancel
            cancelled = error
    raise cancelled from (None if work.cancelled() else work.exception())


class KeptFuture(asyncio.Future[T]):
    """A future that `uncancelled_here` keeps from cancellations. It must end by itself within seconds."""

    kept = False
    """Whether a cancellation of the asyncio task that waits for it leaves it alone."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it, unless it is kept: then the task hears of its cancellation when the future is done."""
        return not self.kept and super().cancel(msg)


@types.coroutine
def uncancelled_here(coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """As `uncancelled`, but within this asyncio task: another one costs as much as what a lock sends.

    `coroutine` must not use what cancels the asyncio task that enters it, as `asyncio.timeout` and `asyncio.TaskGroup`
    do: that would count as a cancellation from outside.
    """
    cancelled: asyncio.CancelledError | None = None
    failed: Exception | None = None
    while True:
        try:
            awaited = coroutine.send(None) if failed is None else coroutine.throw(failed)
        except StopIteration as end:
            if cancelled is None:
                return cast("T", end.value)
            raise cancelled from None
        except BaseException as error:
            if cancelled is None:
                raise
            raise cancelled from error
        failed = None
        try:
            yield _kept(awaited)
        except asyncio.CancelledError as error:  # it is done by now
            cancelled = error
        except Exception as error:  # that of what was awaited
            failed = error
        except BaseException:  # the end of the event loop
            coroutine.close()
            raise


def _kept(awaited: asyncio.Future[Any] | None) -> KeptFuture[Any] | None:
    """What an asyncio task waits for in place of `awaited`; None: for its next turn, as in `asyncio.sleep(0)`."""
    if awaited is None:
        return None
    if isinstance(awaited, KeptFuture):
        future = awaited
    else:
        awaited._asyncio_future_blocking = False  # as the asyncio task does that waits for it
        future = KeptFuture(loop=awaited.get_loop())
        awaited.add_done_callback(lambda _: future.set_result(None))
    future.kept = future._asyncio_future_blocking = True
    return future


class Continuations:
    """Coroutines whose first step runs at once, and that nobody awaits: they go on by themselves.

    Without an asyncio task, which would cost as much as what most of them do. So such a coroutine must not use what
    looks for the current task, as `asyncio.timeout` and `asyncio.TaskGroup` do, and nothing cancels it.
    """

    def __init__(self) -> None:
        self._running: set[Coroutine[Any, Any, None]] = set()
        self._all_ended: asyncio.Future[None] | None = None
        """What `end` waits for."""

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `coroutine` up to where it waits first, and let it go on when that is done. Its error is logged."""
        self._running.add(coroutine)
        self._step(coroutine)

    def _step(self, coroutine: Coroutine[Any, Any, None], _: object = None) -> None:
        try:
            awaited = coroutine.send(None)
        except StopIteration:
            self._end(coroutine)
        except (Exception, asyncio.CancelledError):
            logger.exception("%r failed", coroutine)
            self._end(coroutine)
        else:
            proceed = partial(self._step, coroutine)
            if awaited is None:  # for its next turn, as in `asyncio.sleep(0)`
                asyncio.get_running_loop().call_soon(proceed)
            else:
                awaited._asyncio_future_blocking = False  # as an asyncio task does that waits for it
                awaited.add_done_callback(proceed)

    def _end(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._running.discard(coroutine)
        if not self._running and self._all_ended is not None and not self._all_ended.done():
            self._all_ended.set_result(None)

    async def end(self, seconds: float) -> None:
        """Wait for so long until all have ended."""
        if self._running:
            self._all_ended = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._all_ended], timeout=seconds)


async def carried_through(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run `coroutine` to its end, and ignore cancellations of this task meanwhile: they come from code that must not
    cancel it. If the event loop ends, `coroutine` is cancelled too, and this raises the cancellation."""
    work = asyncio.create_task(coroutine)
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([work])
    return work.result()


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Sleep for `seconds`, or until `event` is set when that is sooner. Returns whether it is set."""
    if not event.is_set():
        # A cancellation that this task has not heard of is raised here. A timeout that is over in the same turn of the
        # event loop would take it for its own.
        await asyncio.sleep(0)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
    return event.is_set()
