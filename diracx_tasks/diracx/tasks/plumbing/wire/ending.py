"""How a task has ended for good: what its result and its group are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from diracx.tasks.plumbing.wire.failure import Failure


class Status(StrEnum):
    """How a task has ended, in the word that results, outcomes of groups and `--json` show."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It failed for good: it is a dead letter, or was dropped."""
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one task."""

    id: str
    task: str
    """The name of the task, `<category>:<ClassName>`."""
    status: Status
    value: Any = None
    """The value that `execute()` returned, if it has succeeded."""
    error: Failure | None = None
    """Why it has not succeeded. None: it has."""
