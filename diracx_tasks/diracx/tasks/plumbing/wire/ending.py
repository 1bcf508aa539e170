"""How a task has ended for good: what its result and its group are told of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.wire.failure import Failure

DAY_SECONDS: Final = 86_400.0
MAX_KEEP_SECONDS: Final = 365 * DAY_SECONDS
"""The longest time for which a result is kept."""


def seconds_to_keep(given: object) -> float | None:
    """For how many seconds the result of a task is to be kept.

    Args:
        given: Seconds; True: for a day; None and False: as its class says.

    Raises:
        TypeError: It is no number.
        ValueError: It is not above 0, or more than a year.
    """
    if given is None or given is False:
        return None
    if given is True:
        return DAY_SECONDS
    if not isinstance(given, int | float):
        raise TypeError(f"{given!r}; make it a number of seconds, or True for a day")
    if not 0 < given <= MAX_KEEP_SECONDS:
        raise ValueError(f"{given!r}; make it more than 0 seconds, and {MAX_KEEP_SECONDS:.0f} (a year) at most")
    return float(given)


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
