"""What a finished task leaves beside its message: its result, and its completion in its group.

Both are written before the message is settled, the result first. A message that comes back before it was settled writes
them again, which changes nothing in the group, and replaces the result. Most tasks have neither, and pay for two looks
at their headers.

Of an occurrence of a schedule it is noted how it has ended, once it is settled: see `wire.occurrence`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from diracx.tasks.plumbing.background import carried_through
from diracx.tasks.plumbing.clock import ServerClock
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.execution.job import Cancelled, Dead, Discarded, Outcome, Retry, Succeeded
from diracx.tasks.plumbing.groups.completions import GroupCompletions
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.observability.lasting_failure import LastingFailure
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.results.store import ResultStore
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.ending import Ending, Status
from diracx.tasks.plumbing.wire.envelope import TASK_GROUP, TASK_ID, TASK_KEEP_RESULT, TASK_NAME
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.occurrence import RunRecord, occurrence_of

logger = logging.getLogger("diracx.tasks.worker")

NOTE_SECONDS: Final = 2.0
"""How long the note of the end of a scheduled run may take."""
MAX_TYPE_CHARS: Final = 200

NEVER_RAN: Final = "TaskNeverRanError"
"""The type of the error of a task that was given up without an exception, e.g. since it is malformed."""


class Endings:
    """Writes the results and completions of one worker."""

    def __init__(
        self,
        registry: TaskRegistry,
        results: ResultStore,
        groups: GroupCompletions,
        worker: str,
        clock: ServerClock,
    ) -> None:
        self._results, self._groups = results, groups
        self._worker, self._clock = worker, clock
        self._keeping = {each.name: seconds for each in registry if (seconds := each.task_class.result_ttl_seconds)}
        """How long the result of a task is kept, by its name, in seconds."""
        self._unnoted = LastingFailure(logger, "the ends of scheduled runs are not noted", "they are noted again")

    def concern(self, headers: Mapping[str, str]) -> bool:
        """Whether the end of the message with these headers is to be written anywhere."""
        return (
            TASK_GROUP in headers
            or TASK_KEEP_RESULT in headers
            or (bool(self._keeping) and headers.get(TASK_NAME) in self._keeping)
        )

    async def write(self, delivery: Delivery, outcome: Outcome, record: AttemptRecord) -> None:
        """Write the end of a message, and return once the server has stored it. No cancellation breaks it off.

        Args:
            outcome: One that ends the task: `Succeeded`, `Dead`, `Discarded` or `Cancelled`.
            record: What was tried of it.

        Raises:
            ServerError: It was not stored; the message must not be settled.
        """
        headers = delivery.headers or {}
        id, task = headers.get(TASK_ID) or str(delivery.sequence), headers.get(TASK_NAME, "")  # noqa: A001
        if type(outcome) is Succeeded:
            ending = Ending(id, task, Status.SUCCEEDED, outcome.value)
        else:
            ending = self._unsuccessful(id, task, outcome, record)
        seconds = self._seconds_kept(headers)
        if seconds is not None:
            await carried_through(self._results.keep(ending, seconds))
        if (group := headers.get(TASK_GROUP)) is not None:
            await self._groups.record(group, ending, keeps_value=seconds is not None)

    async def note_run(self, delivery: Delivery, outcome: Outcome, duration: float) -> None:
        """Note how an occurrence of a schedule has ended, for operators; of any other task nothing. The message is
        settled: if it cannot be noted, a line a minute says so, and nothing else happens.

        Args:
            outcome: One that ends the run.
            duration: Seconds from the delivery to the end.
        """
        if (word := _run_word(outcome)) is None or (found := occurrence_of(delivery.headers or {})) is None:
            return
        schedule, due = found
        failure = outcome.failure if isinstance(outcome, Retry | Dead | Discarded) and word != "expired" else None
        kind = None if failure is None else failure.type[:MAX_TYPE_CHARS]
        ended, seconds = self._clock.now(), round(duration, 3)
        run = RunRecord(due=due, outcome=word, ended=ended, duration=seconds, error=kind, worker=self._worker)
        try:
            async with asyncio.timeout(NOTE_SECONDS):
                await self._results.keep_run(schedule, run)
        except TimeoutError:
            self._unnoted.failed(f"no answer within {NOTE_SECONDS:g} s")
        except ServerError as error:
            self._unnoted.failed(str(error))
        else:
            self._unnoted.succeeded()

    def _seconds_kept(self, headers: dict[str, str]) -> float | None:
        try:
            if 0 < (seconds := float(headers[TASK_KEEP_RESULT])) < math.inf:
                return seconds
        except (KeyError, ValueError):  # a message whose header is no number is malformed, and dead for that
            pass
        return self._keeping.get(headers.get(TASK_NAME, ""))

    def _unsuccessful(self, id: str, task: str, outcome: Outcome, record: AttemptRecord) -> Ending:  # noqa: A002
        match outcome:
            case Cancelled(reason=reason):
                return Ending(id, task, Status.CANCELLED, error=self._failure("TaskCancelledError", reason))
            case Discarded(expired=True, reason=reason):
                return Ending(id, task, Status.EXPIRED, error=self._failure("TaskExpiredError", reason))
            case Dead(reason=reason) | Discarded(reason=reason):
                failure = outcome.failure or record.last_failure or self._failure(NEVER_RAN, reason)
                return Ending(id, task, Status.FAILED, error=failure)
        raise TypeError(f"{outcome!r} does not end its task")

    def _failure(self, kind: str, reason: str) -> Failure:
        at: datetime = self._clock.now()
        return Failure(type=kind, message=reason, traceback="", worker=self._worker, at=at)


def _run_word(outcome: Outcome) -> str | None:
    match outcome:
        case Succeeded():
            return "succeeded"
        case Retry():
            return "retry"
        case Dead():
            return "dead"
        case Discarded(expired=expired):
            return "expired" if expired else "failed"
        case Cancelled():
            return "cancelled"
    return None  # it goes on: elsewhere, later, or when a lock is free
