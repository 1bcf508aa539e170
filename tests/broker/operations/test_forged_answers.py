"""Others answer beside the workers and the scheduler, with anything: what they say is left out, and nothing fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.cancellations.note import Kind
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.operations.cancellation import Canceller, Target
from diracx.tasks.plumbing.operations.in_flight import tasks_in_flight
from diracx.tasks.plumbing.operations.recent_failures import recent_failures
from diracx.tasks.plumbing.operations.sampling import Sampler
from diracx.tasks.plumbing.operations.scheduler_service import scheduler_service
from diracx.tasks.plumbing.operations.status import StatusReader
from diracx.tasks.plumbing.operations.worker_service import advertised, worker_service
from diracx.tasks.plumbing.worker.snapshot import Counters
from support.mesh import TaskMesh

VERBS = ("PING", "STATS", "TASKS", "ENDED", "CANCELLED")


def forged(data: object = None, **changes: object) -> dict[str, Any]:
    """An answer as it should be, but for some fields."""
    good = {
        "slots": 1, "busy": 0, "in_hand": {}, "per_second": 0.0, "last_pull_seconds": 1.0, "leads": False, "next": None
    }  # fmt: skip
    return {
        "id": "forged",
        "metadata": {"id": "forged", "size": "small", "host": "h", "pid": "1"},
        "started": "2026-11-27T10:00:00Z",
        "endpoints": [{"data": {**good, **data} if isinstance(data, dict) else data}],
        "tasks": [{}],
        "left_off": 0,
        "ended": [{}],
        "notes": [{}],
        **changes,
    }


TEXTS = (b"", b"null", b"[]", b"{}", b"\xff\xfe", b"NaN", b"[" * 100_000, b'{"id":' + b"[" * 20_000)
NO_METADATA: tuple[Any, ...] = (None, {}, {"id": 5, "size": "small"}, {"id": ["x"]})
NO_ENDPOINTS: tuple[Any, ...] = (None, [], [{}], [{"data": None}])
NO_COUNTS: tuple[Any, ...] = ([], {"a": "b"}, {"a": -1}, {"a": 10**30})
DOCUMENTS = (
    {"id": "forged"},
    *({"id": "forged", "metadata": each} for each in NO_METADATA),
    forged(metadata={"id": "forged", "size": "huge", "host": "h", "pid": "1"}),
    forged({}, metadata={"id": "forged", "size": "small", "host": "h", "pid": "x"}),
    *(forged({}, started=each) for each in ("yesterday", "2026-11-27T10:00:00", "0001-01-01T00:00:00+12:00", 5)),
    *(forged({}, endpoints=each) for each in NO_ENDPOINTS),
    forged(None),
    *(forged({"in_hand": each}) for each in NO_COUNTS),
    *(forged({name: "x"}) for name in ("slots", "busy", "per_second", "last_pull_seconds", "queues")),
    *(forged({"queues": each}) for each in ({"normal-small": {"wait": ["x"]}}, {"normal-small": 1})),
    *(forged(each, metadata={"id": "forged"}) for each in ({"leads": 1}, {"next": 5}, {"leads": True, "next": "2026"})),
    *(forged({name: 5}) for name in ("held", "not_served", "isolated")),
    forged({"slots": -5, "busy": 10**30}),
)
ANSWERS = (*TEXTS, *(json.dumps(each).encode() for each in DOCUMENTS))


@asynccontextmanager
async def forging(connection: Connection, mesh: TaskMesh, answers: tuple[bytes, ...]) -> AsyncIterator[None]:
    """Answer every question to the services of a mesh, during the block."""

    async def send(reply: str) -> None:
        for answer in answers:
            await connection.publish(reply, answer)

    def receive(message: Received) -> None:
        sending.add(asyncio.create_task(send(message.reply)))

    sending: set[asyncio.Task[None]] = set()
    services = (worker_service(mesh.namespace), scheduler_service(mesh.namespace))
    subscriptions = [
        await connection.client.listen(f"$SRV.{verb}.{service}", receive) for service in services for verb in VERBS
    ]
    try:
        yield
    finally:
        for subscription in subscriptions:
            await connection.client.leave(subscription)
        await asyncio.gather(*sending)


async def test_answers_of_another_shape_are_left_out_and_the_worker_is_heard(mesh: TaskMesh) -> None:
    names, counters = mesh.namespace, Counters()
    async with (
        mesh.working(slots=1, counters=counters) as worker,
        advertised(worker, counters, mesh.connection, names),
        forging(mesh.connection, mesh, ANSWERS),
    ):
        status = (await StatusReader(mesh.connection, names).read()).status
        assert [each.id for each in status.workers] == [worker.id]
        assert status.scheduler.leader is None
        sample = await Sampler(mesh.connection, names).sample()
        assert sample.workers["small"].workers >= 1
        running = await tasks_in_flight(mesh.connection, names, details=True)
        assert worker.id in [each.worker for each in running if each.answered]
        assert [each.tasks for each in running] == [[]] * len(running)
        assert await recent_failures(mesh.connection, names) == []
        (answer,) = await Canceller(mesh.connection, names, by="test").cancel([Target(Kind.ID, "nothing")])
        assert not answer.running
