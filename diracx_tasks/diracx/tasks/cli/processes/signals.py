"""SIGINT and SIGTERM to a running command.

    running --first signal--> stopping --second signal--> broken off

The first signal asks the running work to stop in order: a worker gives its tasks the grace period, a `call` cancels its
task, which rolls back and gives its locks back. The second signal breaks the work off.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

LAST_WORD_SECONDS: Final = 2.0
"""From the second signal on, cancelled tasks have this time to roll back and to be given back."""


def interrupt_main_thread(number: signal.Signals) -> None:
    """Break off the code that runs on the main thread.

    Raises:
        KeyboardInterrupt: Always.
    """
    raise KeyboardInterrupt


def end_process_soon(number: signal.Signals) -> None:
    """End this process in two seconds with code 128 + n, even if a task blocks the loop or refuses cancellation."""
    last_word = threading.Timer(LAST_WORD_SECONDS, os._exit, [128 + number])
    last_word.daemon = True
    last_word.start()


class StopSignals:
    """Handles SIGINT and SIGTERM of this process.

    Args:
        break_off: Is called in the main thread by the second signal, and by a first one that finds nothing to stop.
        at_once: The signals that break off without a first one, e.g. Ctrl-C at the prompt of a debugger.
    """

    def __init__(
        self, break_off: Callable[[signal.Signals], object], *, at_once: Collection[signal.Signals] = ()
    ) -> None:
        self.received: signal.Signals | None = None
        """The last signal."""
        self._break_off = break_off
        self._at_once = at_once
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], object] | None = None
        self._stop_now: Callable[[], object] | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals within the block. Main thread only."""
        # The loop's own handlers would wait for the loop, which a task may block.
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_signal(self, stop: Callable[[], object], stop_now: Callable[[], object] | None = None) -> None:
        """Set the callbacks that the running loop calls from now on.

        Args:
            stop: For the first signal.
            stop_now: For each further one, besides `break_off`.
        """
        self._loop, self._stop, self._stop_now = asyncio.get_running_loop(), stop, stop_now

    def cancel_this_task(self) -> None:
        """Let the first signal cancel the asyncio task that calls this method."""
        task = asyncio.current_task()
        assert task is not None
        self.on_signal(task.cancel)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, signal.Signals(number)
        if self._loop is None or self._stop is None or self.received in self._at_once:
            self._break_off(self.received)
        elif not again:
            self._loop.call_soon_threadsafe(self._stop)
        else:
            if self._stop_now is not None:
                self._loop.call_soon_threadsafe(self._stop_now)
            self._break_off(self.received)
