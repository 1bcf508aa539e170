"""A clock that a test sets, and a machine whose clock is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

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
    """Let the machine of a connection be so far ahead of its server within the block; all else goes by its time."""
    right = connection.clock
    connection.clock = ServerClock(lambda: utc_now() + ahead)
    try:
        yield connection.clock
    finally:
        connection.clock = right


class LaterServerClock(ServerClock):
    """Hears that it is so much later on the server than it is.

    Code that goes by the clock of this machine, where it should go by the server's, is wrong by as much.
    """

    def __init__(self, later: timedelta) -> None:
        super().__init__()
        self._later = later

    def note(self, server_time: datetime, sent: float) -> None:
        super().note(server_time + self._later, sent)
