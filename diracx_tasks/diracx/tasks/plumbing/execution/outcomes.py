"""What became of one delivery, as a value. Only `settlement` turns it into ack, nak or term."""

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
    """It failed, and the policy wants it again."""

    at: datetime
    """Not before this time."""
    failure: Failure


@dataclass(frozen=True, slots=True)
class LockBusy:
    """A lock is held by somebody else; nothing was executed and no retry is used up."""

    error: UnableToAcquireLockError


@dataclass(frozen=True, slots=True)
class Dead:
    """It will not run again, and is kept as a dead letter."""

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
    """It was not carried to an end, through no fault of its own; no retry is used up."""

    reason: str
    delay: timedelta = timedelta(0)
    """How long until it makes sense to deliver it again."""


@dataclass(frozen=True, slots=True)
class Misplaced:
    """It waits in the queue of another size or priority than its class has by now; it is moved, and nothing counted."""

    subject: str
    """Where it belongs."""


Outcome: TypeAlias = Succeeded | Retry | LockBusy | Dead | Discarded | Interrupted | Misplaced
