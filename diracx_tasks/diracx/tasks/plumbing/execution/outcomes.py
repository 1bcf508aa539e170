"""The outcome of one delivery, as a value. Only the settlement turns it into an ack, nak or term."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.wire.failure import Failure


@dataclass(frozen=True, slots=True)
class Succeeded:
    """`execute()` returned and its dependencies closed."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class Retry:
    """It failed, and its policy wants a retry."""

    at: datetime
    """The retry begins no earlier."""
    failure: Failure


@dataclass(frozen=True, slots=True)
class LockBusy:
    """Another execution holds one of its locks. Nothing was executed, and no retry is used up."""

    error: UnableToAcquireLockError


@dataclass(frozen=True, slots=True)
class Dead:
    """It will not run again, and becomes a dead letter."""

    reason: str
    failure: Failure | None = None
    """The last failure; None when nothing was executed this time."""


@dataclass(frozen=True, slots=True)
class Discarded:
    """It will not run again, and nothing is kept: expired, or failed for good and not `dlq_eligible`."""

    reason: str
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """It did not end, through no fault of its own. No retry is used up."""

    reason: str
    delay: timedelta = timedelta(0)
    """The message is redelivered after this time."""


@dataclass(frozen=True, slots=True)
class WrongQueue:
    """It was submitted to the queue of another size than its class has by now. It is requeued, and nothing counted."""

    subject: str
    """The queue of its class."""


Outcome: TypeAlias = Succeeded | Retry | LockBusy | Dead | Discarded | Interrupted | WrongQueue
