"""SIGTERM and SIGINT to a worker or scheduler: the first stops it in order, the second at once."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, Protocol

_LAST_WORD_SECONDS: Final = 2.0
"""What cancelled tasks get, from the second signal on, to roll back and to be given back."""


class Stoppable(Protocol):
    """What runs until it is stopped: a worker, a scheduler."""

    def stop(self) -> None:
        """End in order."""

    def stop_now(self) -> None:
        """End at once."""


class StopSignals:
    """Handles signals of this process for one worker or scheduler; made in its event loop, on the main thread."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._serving = asyncio.current_task()
        self._running: Stoppable | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals until the end of the block."""
        # Not the loop's own handlers: they wait for the loop, which a task may block.
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop_worker(self, worker: Stoppable) -> None:
        """From now on a signal stops it; until now it cancelled the task that made this object."""
        self._running = worker

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            self._loop.call_soon_threadsafe(self._stop)
            return
        self._loop.call_soon_threadsafe(self._stop_now)
        if self.count == 2:
            # A task that holds the loop, or takes no cancellation, does not keep the process.
            last = threading.Timer(_LAST_WORD_SECONDS, os._exit, [128 + number])
            last.daemon = True
            last.start()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.stop()
        elif self._serving is not None:
            self._serving.cancel()

    def _stop_now(self) -> None:
        if self._running is not None:
            self._running.stop_now()
