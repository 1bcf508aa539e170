"""How one worker behaves, and what it is called."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Final

import msgspec

from diracx.tasks.plumbing.enums import Size

DEFAULT_SLOTS: Final = {Size.SMALL: 100, Size.MEDIUM: 10, Size.LARGE: 1}
"""How many tasks of a size a worker executes at once, unless it is told otherwise."""


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one worker behaves."""

    size: Size
    max_concurrent_tasks: int
    burst: bool = False
    """End when nothing is left that is due."""
    grace: timedelta = timedelta(seconds=30)
    """How long running tasks may go on after a stop was asked for."""
    busy_delay: timedelta = timedelta(seconds=5)
    """How long a task waits whose lock is held, give or take a quarter."""
    solitude_patience: timedelta = timedelta(seconds=60)
    """How long a task that is suspected of killing its workers waits for the others to end."""
    unknown_tries: int = 10
    """Deliveries after which a task that nobody knows is dead."""
    unknown_delay: timedelta = timedelta(seconds=5)


def worker_id(size: Size) -> str:
    """`<host>-<pid>-<size>`: who holds, who failed."""
    return f"{socket.gethostname()}-{os.getpid()}-{size}"
