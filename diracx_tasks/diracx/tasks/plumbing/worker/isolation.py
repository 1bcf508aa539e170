"""Isolation: a task that may be killing its workers begins as the only task of its worker.

A counted crash is an execution that its attempt record has as `unended`: its process died. What a living worker gives
up is written down as interrupted, see attempts.py. A first delivery writes nothing when it begins, so its crash is not
counted. When a process dies, every counted execution in it is a crash, and only one of them may be guilty. So the count
of a task decides:

    0 to 1    it runs beside other tasks
    2 to 4    it runs isolated
    5         it is a poison message: it becomes a dead letter, whatever its `dlq_eligible` says

One request for isolation; the gate of the worker is closed in the states with a star:

    waits * --- all other messages have ended ---> runs alone * --- window over ---> runs beside others
      |                                                |                                     |
      +-- limit over: the message goes back            +------------> it ended <-------------+

Invariants:

- An isolated task begins only after all messages that wait for no isolation have ended. Requests are served in the
  order in which they came.
- The gate is closed while a request waits, and while a task runs alone. A request that waits for a task whose window is
  over does not close it: several long tasks under suspicion would idle the worker in turn.
- The whole wait of a request, for those before it and for the others, has one limit
  (`WorkerSettings.isolation_timeout`). Then the message goes back to the queue and its record stays as it is, so that
  another worker can isolate it.
- A task requests isolation when it holds its locks, so a busy lock holds no worker up. It keeps them while it waits.
- A task runs alone for `WorkerSettings.isolation_window` at the most. Then the worker takes messages again beside it.

Reasons for the window: a task that kills its worker mostly does so early, and a long innocent task must not idle a
worker of 100 slots for hours. A crash within the window counts for the isolated task alone. A later one also counts for
those messages beside it that wrote `begun`, one crash each; a first delivery wrote none. Two such crashes isolate a
neighbour in its turn: it begins alone, succeeds, and its record is deleted. While it waits for that, it has written no
`begun`, and a crash costs it nothing. Only an innocent task that itself outlasts the window can be charged more.

A crash at any point here leaves the attempt record, and nothing else: the gate is in memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.clock import Clock, boottime

logger = logging.getLogger("diracx.tasks.worker")

ISOLATE_AFTER_CRASHES: Final = 2
POISON_AFTER_CRASHES: Final = 5


class IsolationTimeoutError(Exception):
    """Other tasks did not end in time."""


@dataclass(eq=False, slots=True)
class _Request:
    """A task that waits for isolation or runs isolated."""

    task: str
    window_over: bool = False


class IsolationGate:
    """The gate of one worker: closed to new messages while a task waits for isolation or runs alone.

    Args:
        in_flight: Gives the number of messages in flight, those that wait for isolation included.
        timeout: How long a task waits for isolation.
        window: How long the gate stays closed after an isolated task began.
    """

    def __init__(
        self, in_flight: Callable[[], int], timeout: timedelta, window: timedelta, clock: Clock = boottime
    ) -> None:
        self.on_close: Callable[[], object] = lambda: None
        """Called whenever the gate closes. The intake sets it, to end its wait for messages."""
        self.changed_at = clock()
        """When the gate last opened or closed, on the clock."""
        self._in_flight = in_flight
        self._timeout_seconds = timeout.total_seconds()
        self._window_seconds = window.total_seconds()
        self._clock = clock
        self._requests: list[_Request] = []
        """In the order in which they came. Only the first one may run."""
        self._was_closed = False
        self._closed_seconds = 0.0
        """How long the gate was closed until `changed_at`."""
        self._changed = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_closed(self) -> bool:
        """Whether no new message may come in."""
        return bool(self._requests) and not self._requests[0].window_over

    @property
    def isolated_task(self) -> str | None:
        """`<task> <id>` of the task that runs isolated, until it ends, or of the next one that waits. None: neither."""
        return self._requests[0].task if self._requests else None

    def holds(self, task: str) -> bool:
        """Whether a task, `<task> <id>`, waits for isolation or runs isolated."""
        return any(request.task == task for request in self._requests)

    async def wait_open(self) -> None:
        """Wait until the gate is open, or until `wake`."""
        await self._open.wait()

    def wake(self) -> None:
        """End each `wait_open` in progress: the worker stops."""
        self._open.set()

    def message_ended(self) -> None:
        """Look again whether an isolated task can begin. Call it after the lease of a message was dropped."""
        if self._requests:
            self._changed.set()

    @asynccontextmanager
    async def isolated(self, task: str, reason: str) -> AsyncIterator[None]:
        """Close the gate, wait for the other tasks to end, and begin the block as the only one that executes.

        Args:
            task: The name and the id of the task.
            reason: Why it is isolated.

        Raises:
            IsolationTimeoutError: The other tasks did not end in time.
        """
        logger.warning("%s waits until it is the only task of this worker: %s", task, reason)
        request, requested, closed_before = _Request(task), self._clock(), self._closed_until_now()
        self._requests.append(request)
        self._update()
        try:
            await self._others_ended(request)
            began = self._clock()
            logger.warning("%s runs isolated, after %.1f s in which other tasks ended", task, began - requested)
            window = asyncio.get_running_loop().call_later(self._window_seconds, self._end_window, request)
            try:
                yield
            finally:
                window.cancel()
                logger.warning(
                    "%s ran isolated for %.1f s; this worker took no messages for %.1f s",
                    task,
                    self._clock() - began,
                    self._closed_until_now() - closed_before,
                )
        finally:
            self._requests.remove(request)
            self._update()

    async def _others_ended(self, request: _Request) -> None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                # The lease of a task that ran isolated is still in flight for a moment after its request is gone.
                while self._requests[0] is not request or self._in_flight() > len(self._requests):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise IsolationTimeoutError(f"other tasks were still running after {self._timeout_seconds:g} s") from None

    def _end_window(self, request: _Request) -> None:
        request.window_over = True
        logger.warning(
            "%s has run isolated for %g s: this worker takes messages again beside it",
            request.task,
            self._window_seconds,
        )
        self._update()

    def _closed_until_now(self) -> float:
        """Seconds for which the gate was closed so far."""
        return self._closed_seconds + (self._clock() - self.changed_at if self._was_closed else 0.0)

    def _update(self) -> None:
        """Open or close the gate after a change of the requests."""
        self._changed.set()
        if self.is_closed == self._was_closed:
            return
        self._closed_seconds = self._closed_until_now()
        self.changed_at = self._clock()
        self._was_closed = self.is_closed
        if self._was_closed:
            self._open.clear()
            self.on_close()
        else:
            self._open.set()
