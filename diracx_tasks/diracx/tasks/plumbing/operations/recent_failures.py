"""The latest deliveries that did not end as successes, in all workers of a mesh: each answers for itself.

A worker keeps the latest ones in its memory, `MAX_ENDED` at the most, and forgets them when it ends. What became a dead
letter is stored, see `dead_letters.reader`. A worker of an earlier version does not answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.jetstream.micro import PREFIX, ask_all
from diracx.tasks.plumbing.operations.service_answers import EndedAnswer
from diracx.tasks.plumbing.operations.worker_service import ENDED, worker_service
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.snapshot import MAX_ENDED, EndedQuery, EndedTask


@dataclass(frozen=True, slots=True)
class RecentFailure:
    """A delivery that did not end as a success, and its worker."""

    worker: str
    """Its id."""
    size: Size
    """Of the worker."""
    ended: EndedTask

    @property
    def outcome(self) -> str:
        """Its outcome in the words of logs and counts, in which a task is dropped, and not discarded."""
        return "dropped" if self.ended.outcome == "discarded" else self.ended.outcome


async def recent_failures(
    connection: Connection,
    namespace: Namespace,
    *,
    limit: int = MAX_ENDED,
    given_back: bool = False,
    ids: Sequence[str] = (),
) -> list[RecentFailure]:
    """Ask all workers for their latest failures, the newest first. It takes about half a second, two at the most.

    Args:
        limit: Return so many at the most, and ask each worker for as many.
        given_back: Whether to ask for what was only given back, too, e.g. since a lock was busy.
        ids: Of the tasks whose failures are asked for; empty: all.

    Raises:
        PermissionDeniedError: This user may not ask the workers.
        NotConnectedError: Nothing was sent.
    """
    service = worker_service(namespace)
    query, wanted = EndedQuery(limit, given_back, tuple(ids)), set(map(shown, ids))
    answers = await ask_all(connection, service, ENDED, msgspec.json.encode(query), shape=EndedAnswer)
    if answers is None:
        raise PermissionDeniedError("publish", f"{PREFIX}.{ENDED}.{service}")
    found = [
        RecentFailure(answer["metadata"]["id"], Size(answer["metadata"]["size"]), ended)
        for answer in answers
        for ended in msgspec.convert(answer["ended"], list[EndedTask])
        if not wanted or ended.id in wanted  # a worker of an earlier version tells of all
    ]
    return sorted(found, key=lambda each: each.ended.at, reverse=True)[:limit]
