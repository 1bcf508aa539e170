"""What the workers of a mesh have in flight: each answers for itself.

A worker whose event loop is held up answers from another thread, some seconds after that began; until then, and if it
is of an earlier version, it is listed as one that did not answer. A worker of which nothing is heard is not listed: it
is gone, cut off, or does not answer yet.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.jetstream.micro import PREFIX, ask_all
from diracx.tasks.plumbing.operations.service_answers import TasksAnswer, WorkerAnswer
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
        ask_all(connection, service, "PING", shape=WorkerAnswer),
        *(ask_all(connection, service, TASKS, msgspec.json.encode(query), shape=TasksAnswer) for query in queries),
    )
    if there is None:
        raise PermissionDeniedError("publish", f"{PREFIX}.PING.{service}")
    return _by_worker(there, [answer for some in answers for answer in some or ()])


def _by_worker(there: Iterable[dict[str, Any]], answers: Iterable[dict[str, Any]]) -> list[WorkerTasks]:
    """What each worker has answered, of those that are there or have answered the question."""
    sizes, of_worker = dict[str, Size](), defaultdict[str, list[dict[str, Any]]](list)
    for answer in answers:
        of_worker[answer["metadata"]["id"]].append(answer)
    for answer in [*there, *(each for some in of_worker.values() for each in some)]:
        sizes[answer["metadata"]["id"]] = Size(answer["metadata"]["size"])
    return [_merged(worker, sizes[worker], of_worker[worker]) for worker in sorted(sizes)]


def _merged(worker: str, size: Size, answers: Sequence[dict[str, Any]]) -> WorkerTasks:
    """All that one worker has answered to the question."""
    tasks = [msgspec.convert(task, InFlightTask) for answer in answers for task in answer["tasks"]]
    return WorkerTasks(
        worker=worker,
        size=size,
        tasks=list({task.sequence: task for task in tasks}.values()),
        answered=bool(answers),
        left_off=sum(answer["left_off"] for answer in answers),
    )
