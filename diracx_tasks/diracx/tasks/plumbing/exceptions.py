"""Every error that this system raises on purpose.

* TaskError
  x TaskRetryRequestedError        raised by a task: try me again, as the policy allows
  x StopRetryingError              no further retry
    - UnretryableError             raised by a task: no retry can help
    - TooManyRetriesError          the policy's budget is used up
  x UnableToAcquireLockError       a lock is held by somebody else
  x LockLostError                  a lock lapsed while it was held
  x SendTaskError                  a task could not be handed to JetStream
  x ResultIsMissingError           no result is kept under that id
  x TaskDefinitionError            a task class, schedule or entry point that cannot work
    - ResourceError                what tasks need of their surroundings is not set or cannot be used
  x ScheduleEndedError             a schedule has no further occurrence
  x UnknownTaskError               no task of that name is installed
  x MalformedTaskError             a message or an argument that does not fit its task
  x ServerError
    - ServerUnavailableError       no server could be reached or entered
    - UnsupportedServerError       the server is too old
    - TopologyDriftError           a stream, consumer or bucket stands, but not as needed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta


class TaskError(Exception):
    """Base of every error that this system raises on purpose."""


class TaskRetryRequestedError(TaskError):
    """Raise it in `execute()` to ask for a retry; the task's policy decides when and how often.

    Logged as the request that it is, without a traceback.
    """


class StopRetryingError(TaskError):
    """Raised in `execute()` or in `schedule_retry()`: this failure is final, whatever the policy says."""


class UnretryableError(StopRetryingError):
    """Raise it in `execute()` when no retry can help: bad input, a missing owner, a gone job."""


class TooManyRetriesError(StopRetryingError):
    """The policy allowed no further retry."""


class UnableToAcquireLockError(TaskError):
    """A lock is held by somebody else. Nothing was executed.

    Args:
        key: The key of the lock in its bucket.
        holder: Who holds it and since when, as a person reads it; None when unknown.
        retry_after: How long until another try makes sense; None when only the holder knows.
        pace: How long one success is apart from the next, where the lock knows; None where it does not.
        reason: What is said instead of who holds it.
    """

    def __init__(
        self,
        key: str,
        holder: str | None = None,
        retry_after: timedelta | None = None,
        *,
        pace: timedelta | None = None,
        reason: str | None = None,
    ) -> None:
        self.key = key
        self.holder = holder
        self.retry_after = retry_after
        self.pace = pace
        self.reason = reason
        super().__init__(reason or (f"{key} is held by {holder}" if holder else f"{key} is held"))


class LockLostError(TaskError):
    """A lock lapsed while its task ran: somebody else may hold it now.

    Args:
        key: The key of the lock in its bucket.
        why: What was seen: a passed deadline, or another owner.
    """

    def __init__(self, key: str, why: str) -> None:
        self.key = key
        super().__init__(f"{key} was lost: {why}")


class SendTaskError(TaskError):
    """A task could not be handed to JetStream; it will not run unless it is submitted again.

    Args:
        message: What was refused, and why.
        unsent: Of many tasks that were submitted together, the positions of those that were not stored.
    """

    def __init__(self, message: str, unsent: Sequence[int] = ()) -> None:
        self.unsent = tuple(unsent)
        super().__init__(message)


class ResultIsMissingError(TaskError):
    """No result is kept under that task id: it never finished, kept none, or it expired."""


class TaskDefinitionError(TaskError):
    """A task class, lock type, schedule or entry point that cannot work; the text names it and the mend."""


class ResourceError(TaskDefinitionError):
    """Databases, settings or the configuration that tasks need are not set, or cannot be used.

    Args:
        lines: One for each thing that is missing: the task, what it needs, and the mend.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


class ScheduleEndedError(TaskError):
    """A schedule has no further occurrence: its COUNT or UNTIL is reached. Nothing is wrong.

    Args:
        schedule: The schedule in words.
        after: The aware time after which nothing follows.
    """

    def __init__(self, schedule: str, after: datetime) -> None:
        self.schedule = schedule
        self.after = after
        super().__init__(f"{schedule} has ended: no occurrence after {after.isoformat()}")


MIN_LIKENESS = 0.5
MAX_LIKENESS_GAP = 0.1
"""The gap in likeness between the nearest name and another name that is still suggested beside it."""


def near_names(name: str, known: Sequence[str]) -> list[str]:
    """Return up to three of the known names that the user may have meant, the nearest first.

    Case does not matter. `<category>:<ClassName>` of another category comes before names that are only alike.
    """
    wanted = name.lower()
    namesakes = [each for each in known if each.lower().rpartition(":")[2] == wanted.rpartition(":")[2]]
    if namesakes:
        return namesakes[:3]
    likeness = {each: difflib.SequenceMatcher(None, each.lower(), wanted).ratio() for each in known}
    least = max(MIN_LIKENESS, max(likeness.values(), default=0) - MAX_LIKENESS_GAP)
    return sorted((each for each in known if likeness[each] >= least), key=lambda each: -likeness[each])[:3]


class UnknownTaskError(TaskError):
    """No task of that name is installed here.

    Args:
        name: The name that was asked for, `<category>:<ClassName>`.
        known: The names that are installed; the nearest are suggested.
    """

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        self.known = sorted(known)
        self.near = near_names(name, self.known)
        hint = f"; did you mean {' or '.join(self.near)}?" if self.near else ""
        super().__init__(f"unknown task {name!r}{hint}")


class MalformedTaskError(TaskError):
    """A message or an argument that does not fit its task; the text holds the path of the bad field."""


class ServerError(TaskError):
    """Base of what is wrong with the server rather than with a task."""


class ServerUnavailableError(ServerError):
    """No server could be reached, or the server let us in not."""


class UnsupportedServerError(ServerError):
    """The server lacks what this system builds on.

    Args:
        found: The version of the server.
        needed: The oldest version that works.
    """

    def __init__(self, found: str, needed: str) -> None:
        super().__init__(f"nats-server {found} is too old: {needed} or newer is needed; upgrade the server")


class TopologyDriftError(ServerError):
    """A stream, consumer or bucket stands on the server with a setting that cannot be changed safely.

    Args:
        asset: What it is, e.g. `stream DIRACX_TASKS`.
        field: The field of its configuration.
        found: What the server has.
        needed: What this system needs.
    """

    def __init__(self, asset: str, field: str, found: object, needed: object) -> None:
        self.asset = asset
        self.field = field
        super().__init__(
            f"{asset}: {field} is {found!r} on the server, {needed!r} is needed, and it cannot be changed "
            f"safely; drain and remove the {asset.split()[0]}, or use another --namespace"
        )
