"""Why the code of a task is cancelled: a value, which `Execution` is given and `Executor` turns into the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why an execution was cancelled."""

    STOP = "stop"
    """The worker stops, or its event loop ends."""
    TIMEOUT = "timeout"
    """It ran longer than `timeout_seconds`. The task has failed."""
    HELD_UP = "held up"
    """It held up the event loop for longer than its lease. The task has failed."""
    ESCAPED = "escaped"
    """A callback or child of the task raised SystemExit or KeyboardInterrupt. The task has failed."""
    CANCELLED = "cancelled"
    """An operator has cancelled the task."""
    LEASE_LAPSED = "lease lapsed"
    """Another worker may have the message."""
    LOCK_LOST = "lock lost"
    """Somebody else may hold the lock."""


@dataclass(frozen=True, slots=True)
class Cancellation:
    """The reason for which an execution is cancelled."""

    cause: Cause
    reason: str
    """For people."""
    error: BaseException | None = None
    """The failure of the task; None: the task is not to blame."""

    @property
    def voids(self) -> bool:
        """Whether the execution cannot count, even if its code has succeeded."""
        return self.cause in (Cause.LEASE_LAPSED, Cause.LOCK_LOST)
