"""The job that goes into an execution, and the outcome that comes out.

An outcome is a value. Only `worker.settlement` turns it into ack, nak or term. What every task needs is a
`msgspec.Struct`: a frozen dataclass costs five times as much to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import msgspec

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import NotServedError, UnableToAcquireLockError
from diracx.tasks.plumbing.registry import RegisteredTask
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.wire.failure import Failure


class Job(msgspec.Struct, frozen=True):
    """One task to execute, decoded from its message and found in the registry."""

    registered: RegisteredTask
    envelope: Envelope
    task: BaseTask
    attempt: int = 0
    """The number of retries already made: 0 at the first execution, and again after one that did not count."""
    refusals: int = 0
    """How often in a row a lock of the task was busy before."""

    @property
    def vo(self) -> str | None:
        """The VO of the task: its `vo`, if that is a text."""
        vo = getattr(self.task, "vo", None)
        return vo if isinstance(vo, str) else None


class Succeeded(msgspec.Struct, frozen=True):
    """`execute()` returned, and its dependencies closed without an error."""

    value: Any = None
    """The value that `execute()` returned."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The task failed, and its retry policy wants another execution."""

    at: datetime
    """The task is not executed before this time."""
    failure: Failure


@dataclass(frozen=True, slots=True)
class LockBusy:
    """Somebody else holds a lock of the task. Nothing was executed, and no retry is used up."""

    error: UnableToAcquireLockError
    refusals: int = 1
    """How often in a row, this time included."""
    wanted_delay: timedelta | None = None
    """What `BaseTask.lock_retry_delay` returned."""


@dataclass(frozen=True, slots=True)
class Held:
    """The configuration disables the task. Nothing was executed, and nothing counts: it waits in its queue."""

    path: str
    """The path of the setting, e.g. `tasks.lollygag:SyncOwnersTask.enabled`."""


@dataclass(frozen=True, slots=True)
class Dead:
    """The task will not run again, and is kept as a dead letter."""

    reason: str
    failure: Failure | None = None
    """The last failure; None: nothing was executed this time."""


@dataclass(frozen=True, slots=True)
class Discarded:
    """The task will not run again, and nothing is kept: it expired, or it failed for good and is not `dlq_eligible`."""

    reason: str
    failure: Failure | None = None
    """The last failure; None: it never failed."""
    expired: bool = False
    """Whether it was dropped since its time was over."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """An operator has cancelled the task. It will not run again, and nothing is kept."""

    reason: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The execution was not completed, through no fault of the task. No retry is used up."""

    reason: str
    delay: timedelta = timedelta(0)
    """The delay before the next delivery."""
    quiet: bool = False
    """Whether the log has said so of this task lately."""

    @classmethod
    def of(cls, error: NotServedError) -> Interrupted:
        """The outcome of a task that this worker cannot execute at the moment."""
        return cls(str(error), error.delay, error.quiet)


@dataclass(frozen=True, slots=True)
class WrongQueue:
    """The queue is that of a size that the class no longer has. The message moves, and nothing counts."""

    subject: str
    """The subject of the right queue."""


Outcome: TypeAlias = Succeeded | Retry | LockBusy | Held | Dead | Discarded | Cancelled | Interrupted | WrongQueue
