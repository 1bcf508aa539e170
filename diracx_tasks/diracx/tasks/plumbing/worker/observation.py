"""One delivery as telemetry, logs and operators see it."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from datetime import datetime
from typing import Final

from diracx.tasks.plumbing.clock import ServerClock
from diracx.tasks.plumbing.exceptions import MalformedTaskError, shown
from diracx.tasks.plumbing.execution.job import (
    Cancelled,
    Dead,
    Discarded,
    Held,
    Interrupted,
    LockBusy,
    Outcome,
    Retry,
    Succeeded,
    WrongQueue,
)
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.observability.telemetry import Received, Telemetry
from diracx.tasks.plumbing.wire.ending import Status
from diracx.tasks.plumbing.wire.envelope import TASK_DUE, TASK_ID, TASK_LABELS, TASK_NAME, read_labels, trace_id_of
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.times import from_rfc3339
from diracx.tasks.plumbing.worker.attempts import Attempts

MAX_LOGGED_LABELS: Final = 4_096
"""Labels that are longer as JSON, in characters, are in no log line: each line of a task would have them."""

OUTCOME_WORDS: Final[dict[type[Outcome], str]] = {
    Succeeded: "succeeded",
    Retry: "retry",
    LockBusy: "lock_busy",
    Held: "held",
    Dead: "dead",
    Discarded: "discarded",
    Cancelled: "cancelled",
    Interrupted: "interrupted",
    WrongQueue: "misplaced",
}


def outcome_in_words(outcome: Outcome) -> str:
    """The outcome in one word, as telemetry shows it."""
    return OUTCOME_WORDS[type(outcome)]


def status_of(outcome: Outcome) -> Status | None:
    """How the task has ended; None: it goes on, elsewhere or later."""
    match outcome:
        case Succeeded():
            return Status.SUCCEEDED
        case Cancelled():
            return Status.CANCELLED
        case Discarded(expired=True):
            return Status.EXPIRED
        case Dead() | Discarded():
            return Status.FAILED
    return None


def error_of(outcome: Outcome) -> str | None:
    """The failure in one line; None when the delivery did not fail."""
    match outcome:
        case Retry() | Dead() | Discarded() if outcome.failure is not None:
            return f"{outcome.failure.type}: {outcome.failure.message}"
        case Dead() | Discarded():
            return outcome.reason
    return None


def log_fields(delivery: Delivery, attempt: int, details: bool = False) -> dict[str, object]:
    """The fields that each log line of a delivery has.

    Args:
        attempt: 1 for the first execution. Only failures raise it.
        details: Also its queue and, as far as the message has them, the id of its trace and its labels.
    """
    headers = delivery.headers or {}
    fields: dict[str, object] = {
        "task": shown(headers.get(TASK_NAME, "")),
        "id": shown(headers.get(TASK_ID) or str(delivery.sequence)),
        "attempt": attempt,
    }
    if details:
        fields["queue"] = queue_of(delivery.subject)
        if (trace := trace_id_of(headers)) is not None:
            fields["trace_id"] = trace
        with suppress(MalformedTaskError):  # which the outcome says
            if 0 < len(headers.get(TASK_LABELS, "")) <= MAX_LOGGED_LABELS:
                fields["labels"] = read_labels(headers)
    return fields


async def observed(
    telemetry: Telemetry, delivery: Delivery, attempts: Attempts, work: Awaitable[Outcome], clock: ServerClock
) -> Outcome:
    """Await the outcome of a delivery, and record it in telemetry."""
    with telemetry.processing(_received(delivery, attempts, clock.now())) as processing:
        before = attempts.record.last_failure
        outcome = await work
        processing.end(outcome_in_words(outcome), error_of(outcome), _raised(outcome, before))
        return outcome


def _raised(outcome: Outcome, before: Failure | None) -> Failure | None:
    """The failure of this execution; None when it raised no error, or the outcome tells of an earlier one, `before`."""
    match outcome:
        case Retry() | Dead() | Discarded() if outcome.failure is not before:
            return outcome.failure
    return None


def _received(delivery: Delivery, attempts: Attempts, now: datetime) -> Received:
    headers = delivery.headers or {}
    return Received(
        task=shown(headers.get(TASK_NAME, "")),
        id=shown(headers.get(TASK_ID) or str(delivery.sequence)),
        subject=delivery.subject,
        consumer=queue_of(delivery.subject),
        headers=headers,
        size=len(delivery.body),
        delivered=delivery.delivered,
        retries=attempts.record.failed,
        waited=_waited(delivery, headers.get(TASK_DUE), now) if delivery.delivered == 1 else None,
    )


def queue_of(subject: str) -> str:
    """`<priority>-<size>`, the consumer of `<namespace>.tasks.<priority>.<size>`."""
    return "-".join(subject.split(".")[-2:])


def _waited(delivery: Delivery, due: str | None, now: datetime) -> float:
    since = delivery.stored_ns / 1e9
    if due is not None:
        with suppress(ValueError):  # then the message is malformed, which the outcome says
            since = min(since, from_rfc3339(due).timestamp())
    return max(0.0, now.timestamp() - since)
