"""Naming whoever holds up the event loop that all tasks of a worker share.

While the loop is held up, nothing on it can look; so a thread looks. The loop sets a mark four times a second; where
the mark is missing for a second, the thread names the task that runs and the line that it is at.
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

_MARK_EVERY: Final = 0.25

NameOf = Callable[["asyncio.Task[Any]"], str | None]
"""What an asyncio task executes; None when it is none of the worker's."""


class LoopLag:
    """Watches the loop that `watching` was entered on.

    Args:
        limit: How long the loop may be held up before it is reported, once for each time.
    """

    def __init__(self, name_of: NameOf, limit: timedelta = timedelta(seconds=1), clock: Clock = boottime) -> None:
        self._name_of = name_of
        self._limit = limit.total_seconds()
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
            watcher.join()  # it looks at the end at once; what it tells must not come after

    async def _mark(self) -> None:
        measured = telemetry.current()
        while True:
            before, self._marked = self._marked, self._clock()
            if measured is not None:
                measured.loop_lagged(max(0.0, self._marked - before - _MARK_EVERY))
            await asyncio.sleep(_MARK_EVERY)

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        reported = None
        looked = self._clock()
        while not self._ended.wait(_MARK_EVERY):
            marked, before, looked = self._marked, looked, self._clock()
            # A pause of this thread, too, is a pause of the whole process and nobody's fault.
            paused = looked - before > self._limit
            if looked - marked > self._limit + _MARK_EVERY and marked != reported and not paused:
                reported = marked
                self._report(loop, thread, looked - marked)

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
