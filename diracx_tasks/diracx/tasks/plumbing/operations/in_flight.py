"""What the workers of a mesh have in flight: each answers for itself.

A worker whose event loop is held up answers from another thread, some seconds after that began; until then, and if it
is of an earlier version, it is listed as one that did not answer. A worker of which nothing is heard is not listed: it
is gone, cut off, or does not answer yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.jetstream.micro import PREFIX, ask_all
from diracx.tasks.plumbing.operations.worker_service import TASKS, worker_service
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.snapshot import InFlightQuery, InFlightTask

MAX_IDS: Final = 500
"""In one question."""


@dataclass(frozen=True, slots=True)
class WorkerTasks:
    """The tasks in flight in one worker."""

    worker: str
    """Its id."""
    size: Size
    tasks: list[InFlightTask] = field(default_factory=list)
    """Those that were asked for."""
    answered: bool = True
    """Whether it answered. False: it is there, and what it executes is not known."""
    left_off: int = 0
    """Tasks that were asked for, and that its answer has no room for."""


async def tasks_in_flight(
    connection: Connection,
    namespace: Namespace,
    *,
    ids: Sequence[str] = (),
    task: str | None = None,
    group: str | None = None,
    details: bool = False,
) -> list[WorkerTasks]:
    """Ask all workers for their tasks in flight that fit any of the arguments; without any, for all of them.

    It takes about half a second, two at the most.

    Args:
        task: The name of tasks.
        group: The id of a group, whose children are asked for.
        details: Whether to ask for arguments and labels, too. An answer has room for fewer of such tasks.

    Returns:
        Each worker, sorted by its id, also one without such tasks.

    Raises:
        PermissionDeniedError: This user may not ask the workers.
        NotConnectedError: Nothing was sent.
    """
    service = worker_service(namespace)
    queries = [
        InFlightQuery(tuple(ids[first : first + MAX_IDS]), task, group, details)
        for first in range(0, max(1, len(ids)), MAX_IDS)
    ]
    there, *answers = await asyncio.gather(
        ask_all(connection, service, "PING"),
        *(ask_all(connection, service, TASKS, msgspec.json.encode(query)) for query in queries),
    )
    if there is None:
        raise PermissionDeniedError("publish", f"{PREFIX}.PING.{service}")
    by_worker = {each["metadata"]["id"]: [each] for each in there}
    for answer in [each for some in answers for each in some or ()]:
        by_worker.setdefault(answer["metadata"]["id"], []).append(answer)
    return [_merged(by_worker[each]) for each in sorted(by_worker)]


def _merged(answers: Sequence[dict[str, Any]]) -> WorkerTasks:
    """All that one worker has answered."""
    named = [answer for answer in answers if "tasks" in answer]
    tasks = [msgspec.convert(task, InFlightTask) for answer in named for task in answer["tasks"]]
    return WorkerTasks(
        worker=answers[0]["metadata"]["id"],
        size=Size(answers[0]["metadata"]["size"]),
        tasks=list({task.sequence: task for task in tasks}.values()),
        answered=bool(named),
        left_off=sum(answer["left_off"] for answer in named),
    )
