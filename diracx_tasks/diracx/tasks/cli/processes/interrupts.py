"""Ctrl-C and SIGTERM while a task runs on the main thread."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """The first signal cancels the task, so that it rolls back and gives its locks back; a second breaks it off.

    Args:
        at_once: Break off at the first: a debugger's prompt wants to see Ctrl-C.
    """

    def __init__(self, *, at_once: bool) -> None:
        self.received: signal.Signals | None = None
        self._at_once = at_once
        self._task: asyncio.Task[object] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals until the end of the block; main thread only."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def cancel_this_task(self) -> None:
        """From now on a signal cancels the asyncio task that calls this."""
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, signal.Signals(number)
        if again or self._task is None or self._loop is None or (self._at_once and number == signal.SIGINT):
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._task.cancel)
