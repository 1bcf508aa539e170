"""What became of the earlier deliveries of a task: those that ended, and were no successes.

The workers remember the latest ones, see `recent_failures`. So this tells nothing of a worker that has ended since, and
nothing of a success. Errors with their tracebacks stand in the attempts of a task and in its dead letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final

import msgspec

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.operations.recent_failures import recent_failures
from diracx.tasks.plumbing.operations.task_document import PastDelivery, TaskDocument
from diracx.tasks.plumbing.wire.ending import Status
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import readable_time

CLOCK_TOLERANCE: Final = timedelta(seconds=1)
_FAILED: Final = frozenset({"retry", "dead", "discarded"})


@dataclass(frozen=True, slots=True)
class PastEvent:
    """One line of the past of a task."""

    at: datetime
    text: str
    failed: bool
    """Whether its code failed, or it was given up."""


async def past_deliveries(connection: Connection, namespace: Namespace, wanted: str) -> list[PastDelivery]:
    """What the workers remember of the deliveries of a task, the earliest first. None if they may not be asked.

    Args:
        wanted: The id of the task.
    """
    try:
        found = await recent_failures(connection, namespace, given_back=True, ids=[wanted])
    except PermissionDeniedError:
        return []
    return [
        msgspec.convert(msgspec.structs.asdict(each.ended) | {"worker": each.worker}, PastDelivery)
        for each in reversed(found)
    ]


def past_events(document: TaskDocument) -> list[PastEvent]:
    """The past of a task in sentences, without what its errors, its dead letter and its cancellation tell.

    Deliveries in a row that ended alike are one event: a busy lock gives back the same task many times.
    """
    told = list(_told_elsewhere(document))
    untold = [each for each in _not_among(document.past, document.errors) if each not in told]
    alike = groupby(untold, key=lambda each: (each.outcome, each.error, each.message, each.attempt))
    return [_event(list(deliveries)) for _, deliveries in alike]


def _not_among(past: Iterable[PastDelivery], errors: Iterable[Failure]) -> Iterator[PastDelivery]:
    """Those deliveries whose error is none of these. An error is written down before its delivery ends."""
    open_errors, others = list(errors), list[PastDelivery]()
    for delivery in sorted(past, key=lambda each: each.at, reverse=True):
        own = next((error for error in reversed(open_errors) if _is_error_of(delivery, error)), None)
        if own is None:
            others.append(delivery)
        else:
            open_errors.remove(own)
    yield from reversed(others)


def _is_error_of(delivery: PastDelivery, error: Failure) -> bool:
    same = (error.type, error.worker) == (delivery.error, delivery.worker)
    return same and error.at <= delivery.at + CLOCK_TOLERANCE


def _told_elsewhere(document: TaskDocument) -> Iterator[PastDelivery]:
    """The delivery of which the task became the dead letter that is there, and the one that dropped it as cancelled."""
    by_outcome = {each.outcome: each for each in document.past}
    if document.dead_letter is not None and "dead" in by_outcome:
        yield by_outcome["dead"]
    if document.cancelled is not None and "cancelled" in by_outcome:
        yield by_outcome["cancelled"]


def _event(alike: list[PastDelivery]) -> PastEvent:
    first, last = alike[0], alike[-1]
    often = "" if len(alike) == 1 else f" {len(alike)} times until {readable_time(last.at)}, the last time"
    return PastEvent(first.at, _text(last, often), first.outcome in _FAILED)


def _text(delivery: PastDelivery, often: str) -> str:
    why = f"{delivery.error}: {delivery.message}" if delivery.error else delivery.message
    match delivery.outcome:
        case "retry":
            return f"attempt {delivery.attempt} failed{often} on {delivery.worker}: {why}"
        case "dead":
            return f"became a dead letter{often} on {delivery.worker}: {why}"
        case "discarded" if delivery.status == Status.EXPIRED:
            return f"dropped{often} on {delivery.worker}: it had expired"
        case "discarded" if delivery.error:
            return f"attempt {delivery.attempt} failed for good{often} on {delivery.worker}: {why}"
        case "discarded" | "cancelled":
            return f"dropped{often} on {delivery.worker}: {why}"
    return f"given back{often} by {delivery.worker}: {why}"
