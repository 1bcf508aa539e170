"""Every error that DiracX tasks raise on purpose.

* TaskError
  x TaskRetryRequestedError        a task asks for a retry; its policy decides
  x StopRetryingError              a failure is final
    - UnretryableError             a task says that no retry can help
    - TooManyRetriesError          the retry policy allows no further retry
  x UnableToAcquireLockError       another task holds a lock; nothing was executed
  x LockLostError                  a lock lapsed while its task ran
  x NotServedError                 a worker lacks a resource of a task, and gives it back; nothing was executed
  x LoopHeldUpError                a small task blocked the event loop for longer than its lease
  x SendTaskError                  JetStream did not store a task
  x TaskFailedError                a task whose result was asked for has failed, elsewhere
  x ResultIsMissingError           no result is stored for a task id
  x TaskDefinitionError            a task class, lock type, schedule or entry point cannot work
    - ResourceError                a database, setting or configuration is missing or unusable
    - UnknownLockTypeError         a lock type is not registered; it is a ValueError, too
  x ScheduleEndedError             a schedule has no further occurrence
  x UnknownTaskError               no task of that name is installed
  x MalformedTaskError             a message or an argument does not fit its task
  x BackgroundEndedError           a process lost what must run beside its work, e.g. its lock renewal
  x ServerError
    - ServerUnavailableError       no server could be reached, or it refused the login
    - UnsupportedServerError       the server is too old
    - TopologyDriftError           a stream, consumer or bucket has a setting that cannot be changed safely
    - UnsendableError              a message is larger than the server takes; to try again is of no use
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

_MAX_SHOWN_CHARS: Final = 200
"""Longer than any name or id that somebody chose."""


def shown(text: str) -> str:
    """A name, an id or another header of a message for logs and errors: it is cut, since anybody may publish 64 kB."""
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]} [cut]"


class TaskError(Exception):
    """Base of every error that DiracX tasks raise on purpose."""


class TaskRetryRequestedError(TaskError):
    """Raise it in `execute()` to ask for a retry. The retry policy of the task decides whether and when.

    The worker logs it as a request, without a traceback:

        if not await transfer.is_done():
            raise TaskRetryRequestedError("the transfer is still running")
    """


class StopRetryingError(TaskError):
    """The failure is final, whatever the policy says. Raise it in `execute()` or in `schedule_retry()`."""


class UnretryableError(StopRetryingError):
    """Raise it in `execute()` when no retry can help: bad input, a missing owner, a job that is gone."""


class TooManyRetriesError(StopRetryingError):
    """The retry policy allows no further retry."""


class UnableToAcquireLockError(TaskError):
    """Another task holds a lock. Nothing was executed.

    Args:
        key: The key of the lock in its bucket.
        holder: The holder and its start time, as text for people; None if unknown.
        retry_after: The wait before another try can succeed; None if only the holder knows.
        pace: The shortest time between two acquisitions, for a lock that limits a rate; None for all others.
        reason: The text of the error, for a lock without one holder; None builds it from `key` and `holder`.
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
        super().__init__(reason or (f"{shown(key)} is held by {holder}" if holder else f"{shown(key)} is held"))


class NotServedError(TaskError):
    """This worker cannot execute a task at the moment: something that it needs is not open. Nothing was executed.

    Args:
        reason: What is missing, and why.
        delay: The wait before the next try.
        quiet: Whether the log has said so of this task lately.
    """

    def __init__(self, reason: str, delay: timedelta = timedelta(0), *, quiet: bool = False) -> None:
        self.delay = delay
        self.quiet = quiet
        super().__init__(reason)


class LoopHeldUpError(TaskError):
    """A small task blocked the event loop that it shares for longer than its lease. It has failed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"blocked the loop for {seconds:.0f} s, longer than its lease: declare it MEDIUM")


class LockLostError(TaskError):
    """A lock lapsed while its task ran, so another task may hold it now.

    Args:
        key: The key of the lock in its bucket.
        why: The evidence: a passed deadline, or another owner.
    """

    def __init__(self, key: str, why: str) -> None:
        self.key = key
        super().__init__(f"{shown(key)} was lost: {why}")


class SendTaskError(TaskError):
    """JetStream did not store a task. The task will not run unless it is submitted again.

    Args:
        message: The task or stream that was refused, and the reason.
        unsent: For tasks that were submitted together, the positions of those that were not stored, from 0.
    """

    def __init__(self, message: str, unsent: Sequence[int] = ()) -> None:
        self.unsent = tuple(unsent)
        super().__init__(message)


class TaskFailedError(TaskError):
    """A task whose result was asked for has not succeeded: it failed for good, expired, or was cancelled.

    Args:
        id: The id of the task.
        task: Its name, `<category>:<ClassName>`.
        status: `failed`, `expired` or `cancelled`.
        type: The class of the exception, with its module unless it is built in.
        message: The text of the exception.
        traceback: As text, from the worker; empty if there is none.
    """

    def __init__(self, id: str, task: str, status: str, type: str, message: str, traceback: str = "") -> None:  # noqa: A002
        self.id = id
        self.task = task
        self.status = status
        self.type = type
        self.message = message
        self.traceback = traceback
        ended = "was cancelled" if status == "cancelled" else status
        super().__init__(f"{shown(task)} ({shown(id)}) {ended}: {type}: {message}")


class ResultIsMissingError(TaskError):
    """No result is stored for a task id: the task has not ended, its result is not kept, or has expired.

    Args:
        id: The id of the task.
        reason: Why, as far as is known.
    """

    def __init__(self, id: str, reason: str) -> None:  # noqa: A002
        self.id = id
        self.reason = reason
        super().__init__(f"no result of {shown(id)}: {reason}")


class TaskDefinitionError(TaskError):
    """A task class, lock type, schedule or entry point cannot work. The text names it, the cause and the fix."""


class ResourceError(TaskDefinitionError):
    """Databases, settings or the configuration that tasks need are missing or unusable.

    Args:
        lines: One line for each of them: the task, the resource that it needs, and the fix.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


class UnknownLockTypeError(TaskDefinitionError, ValueError):
    """A lock type is not registered. DiracX raises a `ValueError` here, so code that catches one goes on working.

    Args:
        name: The name that was asked for.
        known: The registered names.
    """

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f"unknown lock type {name!r}; registered: {', '.join(sorted(known)) or 'none'}. "
            f"Register it with register_locked_object_type({name!r}) in a module that is listed under the "
            "entry point group diracx.lock_object_types"
        )


class ScheduleEndedError(TaskError):
    """A schedule has no further occurrence, since its COUNT or UNTIL is reached. This is no failure.

    Args:
        schedule: The schedule as text for people.
        after: The aware time after which there is no occurrence.
    """

    def __init__(self, schedule: str, after: datetime) -> None:
        self.schedule = schedule
        self.after = after
        super().__init__(f"{schedule} has ended: no occurrence after {after.isoformat()}")


class UnknownTaskError(TaskError):
    """No task of that name is installed here.

    Args:
        name: The name that was asked for, `<category>:<ClassName>`.
        known: The installed names. The error suggests up to three similar ones.
    """

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        self.known = sorted(known)
        self.near = near_names(name[:_MAX_SHOWN_CHARS], self.known)
        hint = f"; did you mean {' or '.join(self.near)}?" if self.near else ""
        super().__init__(f"unknown task {shown(name)!r}{hint}")


class MalformedTaskError(TaskError):
    """A message or an argument does not fit its task. The text contains the path of the bad field, e.g. `$.owner`."""


class BackgroundEndedError(TaskError):
    """A coroutine that must run beside the work of a process ended while the work went on. The process ends, too.

    Args:
        name: The name of the coroutine, e.g. `lock renewal`.
        cause: The error that ended it, which becomes the `__cause__`; None if it returned.
    """

    def __init__(self, name: str, cause: BaseException | None) -> None:
        self.name = name
        self.__cause__ = cause
        if cause is None:
            why = "it returned"
        else:
            why = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
        super().__init__(f"{name} ended: {why}")


class ServerError(TaskError):
    """Base of errors of the NATS server, as opposed to errors of a task."""


class ServerUnavailableError(ServerError):
    """No server could be reached, or the server refused the login."""


class UnsendableError(ServerError):
    """A message, or its subject, is larger than the server takes. Nothing was sent, and to try again is of no use."""


class UnsupportedServerError(ServerError):
    """The server lacks a feature that DiracX tasks need.

    Args:
        found: The version of the server.
        needed: The oldest version that works.
    """

    def __init__(self, found: str, needed: str) -> None:
        super().__init__(f"nats-server {found} is too old: {needed} or newer is needed; upgrade the server")


class TopologyDriftError(ServerError):
    """A stream, consumer or bucket exists on the server with a setting that cannot be changed safely.

    Args:
        asset: The kind and name, e.g. `stream DIRACX_TASKS`.
        field: The field of its configuration.
        found: The value on the server.
        needed: The value that DiracX tasks need.
    """

    def __init__(self, asset: str, field: str, found: object, needed: object) -> None:
        self.asset = asset
        self.field = field
        super().__init__(
            f"{asset}: {field} is {found!r} on the server, {needed!r} is needed, and it cannot be changed "
            f"safely; drain and remove the {asset.split()[0]}, or use another --namespace"
        )


_MIN_SIMILARITY: Final = 0.5
_SIMILARITY_MARGIN: Final = 0.1
"""A name is suggested beside the most similar one if its similarity is smaller by at most this."""
_MAX_SUGGESTIONS: Final = 3


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that a mistyped one may mean, the most similar first; case does not matter.

    A task name with the right class and a wrong or missing category gives the tasks of that class only.
    """
    wanted = name.lower()
    candidates = list(known)
    same_class = [each for each in candidates if each.lower().rpartition(":")[2] == wanted.rpartition(":")[2]]
    if same_class:
        return same_class[:_MAX_SUGGESTIONS]
    # Only now: few processes ever meet an unknown name.
    from difflib import SequenceMatcher

    similarity = {each: SequenceMatcher(None, each.lower(), wanted).ratio() for each in candidates}
    least = max(_MIN_SIMILARITY, max(similarity.values(), default=0) - _SIMILARITY_MARGIN)
    found = [each for each in candidates if similarity[each] >= least]
    return sorted(found, key=lambda each: -similarity[each])[:_MAX_SUGGESTIONS]
