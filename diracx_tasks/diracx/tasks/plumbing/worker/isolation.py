"""Isolation: a task that may be killing its workers runs as the only task of its worker.

A counted crash is an execution with a `begun` in its attempt record and no `ended`: its process died, or its lease
lapsed before the end could be written. A first delivery writes no `begun`, so its crash is not counted. When a process
dies, every task in it that had written `begun` counts one crash, and only one of them may be guilty. So the count of a
task decides:

    0 to 1    it runs beside other tasks
    2 to 4    it runs isolated
    5         it is a poison message: it becomes a dead letter, whatever its `dlq_eligible` says

Invariants:

- From the moment at which a task requests isolation, the gate is closed: its worker takes no new message until no task
  needs isolation any more.
- An isolated task begins only after all tasks that need no isolation have ended. Several run one after another.
- So a crash while a task runs isolated counts for this task alone. An innocent task runs isolated once, succeeds, and
  its record is deleted.
- The wait for tasks that need no isolation has a limit (`WorkerSettings.isolation_timeout`). When they do not end in
  time, the message goes back to the queue and its record stays as it is, so that another worker can isolate it. The
  wait for an isolated task before it has no limit.

A crash at any point here leaves the attempt record, and nothing else: the gate is in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

ISOLATE_AFTER_CRASHES: Final = 2
POISON_AFTER_CRASHES: Final = 5


class IsolationTimeoutError(Exception):
    """Other tasks did not end in time."""


class IsolationGate:
    """The gate of one worker: closed to new messages while a task waits for isolation or runs isolated.

    Args:
        in_flight: Gives the number of messages in flight, those that need isolation included.
        timeout: How long a task waits for the others to end.
    """

    def __init__(self, in_flight: Callable[[], int], timeout: timedelta) -> None:
        self.on_close: Callable[[], object] = lambda: None
        """Called whenever a task requests isolation. The intake sets it, to end its wait for messages."""
        self._in_flight = in_flight
        self._timeout_seconds = timeout.total_seconds()
        self._requests = 0
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_closed(self) -> bool:
        """Whether no new message may come in."""
        return self._requests > 0

    async def wait_open(self) -> None:
        """Wait until the gate is open, or until `wake`."""
        await self._open.wait()

    def wake(self) -> None:
        """End each `wait_open` in progress: the worker stops."""
        self._open.set()

    def message_ended(self) -> None:
        """Look again whether an isolated task can begin. Call it after the lease of a message was dropped."""
        self._changed.set()

    @asynccontextmanager
    async def isolated(self) -> AsyncIterator[None]:
        """Close the gate, wait for the other tasks to end, and be the only one that executes in the block.

        Raises:
            IsolationTimeoutError: The other tasks did not end in time.
        """
        self._requests += 1
        self._open.clear()
        self._changed.set()
        self.on_close()
        try:
            async with self._turn:
                await self._others_ended()
                yield
        finally:
            self._requests -= 1
            self._changed.set()
            if not self._requests:
                self._open.set()

    async def _others_ended(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                while self._in_flight() > self._requests:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise IsolationTimeoutError(f"other tasks were still running after {self._timeout_seconds:g} s") from None
