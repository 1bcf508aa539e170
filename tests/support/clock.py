"""A clock that a test sets, and a machine whose clock is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from diracx.tasks.plumbing.clock import ServerClock, utc_now
from diracx.tasks.plumbing.jetstream.connection import Connection


class ManualClock:
    """Stands still until the test changes `now`, in seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@contextmanager
def wrong_clock(connection: Connection, ahead: timedelta) -> Iterator[ServerClock]:
    """Let the machine of a connection be so far ahead of its server within the block."""
    right = connection.clock
    connection.clock = ServerClock(lambda: utc_now() + ahead)
    try:
        yield connection.clock
    finally:
        connection.clock = right
