"""A warning that names the task which holds up the event loop that all small tasks of a worker share.

While the loop is held up, no code on it can notice. So a thread watches: the loop sets a mark four times a second, and
when the mark is more than 1.25 s old, the thread logs the task that runs and the line that it executes.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.observability import telemetry

logger = logging.getLogger("diracx.tasks.worker")

MARK_SECONDS: Final = 0.25

NameOf = Callable[["asyncio.Task[Any]"], str | None]
"""The name of what an asyncio task executes; None when the task does not belong to the worker."""


class LoopLag:
    """Watches the loop that `watching` was entered on.

    Args:
        limit: A loop that is held up for longer is reported, once each time.
    """

    def __init__(self, name_of: NameOf, limit: timedelta = timedelta(seconds=1), clock: Clock = boottime) -> None:
        self._name_of = name_of
        self._limit_seconds = limit.total_seconds()
        self._clock = clock
        self._marked = clock()
        self._ended = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the running loop until the end of the block."""
        loop = asyncio.get_running_loop()
        marking = loop.create_task(self._mark(), name="loop lag")
        watcher = threading.Thread(target=self._watch, args=(loop, threading.get_ident()), name="loop lag", daemon=True)
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
        reported = None
        checked = self._clock()
        while not self._ended.wait(MARK_SECONDS):
            marked, before, checked = self._marked, checked, self._clock()
            # When this thread paused too, the whole process did, and no task is to blame.
            paused = checked - before > self._limit_seconds
            if checked - marked > self._limit_seconds + MARK_SECONDS and marked != reported and not paused:
                reported = marked
                self._report(loop, thread, checked - marked)

    def _report(self, loop: asyncio.AbstractEventLoop, thread: int, seconds: float) -> None:
        task = asyncio.current_task(loop)
        name = self._name_of(task) if task is not None else None
        frame = sys._current_frames().get(thread)
        line = ""
        if frame is not None:
            where = traceback.extract_stack(frame)[-1]
            line = f", at {where.filename}:{where.lineno} in {where.name}"
        logger.warning(
            "%s has held up the event loop for %.1f s%s; tasks that block belong in size MEDIUM or LARGE",
            name or "something",
            seconds,
            line,
        )
