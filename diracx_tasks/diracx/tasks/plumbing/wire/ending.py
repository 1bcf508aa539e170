"""How a task has ended for good: what its result and its group are told of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from diracx.tasks.plumbing.wire.failure import Failure


class Status(StrEnum):
    """How a task has ended, in the word that results, outcomes of groups and `--json` show."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It failed for good: it is a dead letter, or was dropped."""
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class OutcomeError(msgspec.Struct, frozen=True):
    """Why a child of a group has not succeeded."""

    type: str
    """The class of the exception, with its module unless it is built in; or `TaskCancelledError`, `TaskExpiredError`,
    and `TaskNeverRanError` for a task that was given up without an exception."""
    message: str


class Ending(msgspec.Struct, frozen=True):
    """The end of one task."""

    id: str
    task: str
    """The name of the task, `<category>:<ClassName>`."""
    status: Status
    value: Any = None
    """The value that `execute()` returned, if it has succeeded."""
    error: Failure | None = None
    """Why it has not succeeded. None: it has."""
