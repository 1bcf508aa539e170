"""The event loop that all small tasks of a worker share, watched from a thread.

While a task holds up the loop, no code on it can notice or act. The loop sets a mark four times a second, and the
thread looks at its age:

    1.25 s                   the task that runs is named in a warning, with the line that it executes
    a sixth of `ack_wait`    heartbeats will be due: the thread sends them, and renews locks, until the loop goes on
    the task's lease         the task will have failed: its author is told to declare it MEDIUM
    `MAX_HELD_UP`            the messages in flight are given back, and the process ends

The loop may run several tasks between two marks, each of which blocks for a while. The last two times are those of one
task: it is blamed only for what it holds up itself. A child or a callback counts as its task.

So a task that blocks costs its neighbours nothing but time. The thread works through a connection of its own, which it
opens only then (`Relief`). C code that keeps the GIL stops the thread as well: then the leases lapse.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.execution.execution import Execution, current_execution
from diracx.tasks.plumbing.execution.shared_loop import ExecutionTask
from diracx.tasks.plumbing.execution.stacks import context_of_thread, line_of_thread
from diracx.tasks.plumbing.observability import telemetry
from diracx.tasks.plumbing.worker.relief import Relief

logger = logging.getLogger("diracx.tasks.worker")

MARK_SECONDS: Final = 0.25
MAX_HELD_UP: Final = timedelta(minutes=5)


class LoopWatch:
    """Watches the loop that `watching` was entered on.

    Args:
        relief: Keeps leases and locks while the loop is held up; None: nothing does.
        limit: A loop that is held up for longer is reported, once each time.
        max_held_up: A loop that is held up for longer ends the process.
    """

    def __init__(
        self,
        relief: Relief | None = None,
        *,
        limit: timedelta = timedelta(seconds=1),
        max_held_up: timedelta = MAX_HELD_UP,
        clock: Clock = boottime,
    ) -> None:
        self._relief = relief
        self._limit_seconds = limit.total_seconds()
        self._max_seconds = max_held_up.total_seconds()
        self._clock = clock
        self._marked = clock()
        self._ended = threading.Event()
        self._held_up_by: tuple[float, Execution | None, int] | None = None

    @property
    def held_up_by(self) -> tuple[Execution | None, int] | None:
        """The execution that holds up the loop now (None: of no task), and the thread of the loop. None: the loop is
        not known to be held up. For any thread."""
        known = self._held_up_by
        return None if known is None or known[0] != self._marked else known[1:]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the running loop until the end of the block."""
        loop = asyncio.get_running_loop()
        marking = loop.create_task(self._mark(), name="loop watch")
        watcher = threading.Thread(
            target=self._watch, args=(loop, threading.get_ident()), name="loop watch", daemon=True
        )
        watcher.start()
        try:
            yield
        finally:
            marking.cancel()
            self._ended.set()
            watcher.join()  # it wakes at once; its warning must not come after the block

    async def _mark(self) -> None:
        measured = telemetry.current()
        while True:
            before, self._marked = self._marked, self._clock()
            if measured is not None:
                measured.loop_lagged(max(0.0, self._marked - before - MARK_SECONDS))
            await asyncio.sleep(MARK_SECONDS)

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        checked = self._clock()
        while not self._ended.wait(MARK_SECONDS):
            marked, before, checked = self._marked, checked, self._clock()
            # When this thread paused too, the whole process did, and no task is to blame.
            paused = checked - before > self._limit_seconds
            due_seconds = self._limit_seconds if self._relief is None else self._relief.due_seconds
            if checked - marked > min(self._limit_seconds, due_seconds) + MARK_SECONDS and not paused:
                try:
                    asyncio.run(self._held_up(loop, thread, marked))
                except Exception:  # e.g. no file descriptor is left; this thread must go on
                    logger.exception("the event loop is held up, and cannot be watched")
                checked = self._clock()

    async def _held_up(self, loop: asyncio.AbstractEventLoop, thread: int, marked: float) -> None:
        """Until the loop sets its next mark."""
        execution, since = self._running(loop, thread), marked
        relieving: asyncio.Task[None] | None = None
        reported = False
        while self._marked == marked and not self._ended.is_set():
            seconds = self._clock() - marked
            if not reported and seconds > self._limit_seconds + MARK_SECONDS:
                reported = True
                self._report(execution, thread, seconds)
            self._held_up_by = (marked, execution, thread)
            if self._relief is not None and relieving is None and seconds > self._relief.due_seconds:
                relieving = asyncio.create_task(self._relief.run(), name="relief")
            if (now := self._running(loop, thread)) is not execution:
                execution, since = now, self._clock()
                self._held_up_by = (marked, execution, thread)
            seconds = self._clock() - since
            if execution is not None:
                execution.holds_up(seconds, math.inf if self._relief is None else self._relief.lease_seconds)
            if self._relief is not None and seconds > self._max_seconds:
                await self._relief.end_process(execution, seconds)
                self._max_seconds = math.inf
            await asyncio.sleep(MARK_SECONDS)
        self._held_up_by = None
        if relieving is not None:
            relieving.cancel()
            await asyncio.wait([relieving])

    def _running(self, loop: asyncio.AbstractEventLoop, thread: int) -> Execution | None:
        """The execution whose code the loop runs now, or the code of a child or callback of it; None: of no task."""
        task = asyncio.current_task(loop)
        if task is not None:
            return task.execution if isinstance(task, ExecutionTask) else None
        context = context_of_thread(thread)
        return None if context is None else context.get(current_execution)

    @staticmethod
    def _report(execution: Execution | None, thread: int, seconds: float) -> None:
        logger.warning(
            "%s has held up the event loop for %.1f s, %s; tasks that block belong in size MEDIUM or LARGE",
            execution.name() if execution is not None else "something",
            seconds,
            line_of_thread(thread),
        )
