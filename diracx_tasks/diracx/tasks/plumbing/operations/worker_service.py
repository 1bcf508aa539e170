"""A worker process for operators: a NATS micro service, and its health.

* Live: the last pull was answered within `LIVE_WITHIN`. An idle worker pulls for 30 s at a time, so its last answer is
  rarely older. A worker with a reason not to pull (no free slot, or an isolated task) is live whatever the age. So is
  one that the server refuses, e.g. since a queue is missing: a restart does not help.
* Not live: a worker that ends itself (`Worker.why_it_ends`), and one whose server is away for longer than that. The
  leases of its tasks have lapsed by then, so a restart costs nothing.
* Ready: tasks of this size can be had. The worker is connected, does not stop, serves at least one of them if any is
  installed, its queues, streams and buckets are there, and its last pull was answered within `READY_WITHIN`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.background import in_background
from diracx.tasks.plumbing.cancellations.note import Kind
from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.micro import Service, ServiceStats, serving
from diracx.tasks.plumbing.observability import telemetry
from diracx.tasks.plumbing.observability.telemetry import Gauge
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.snapshot import Counters, EndedQuery, InFlightQuery, WorkerSnapshot
from diracx.tasks.plumbing.worker.worker import Worker

TASKS: Final = "TASKS"
"""The verb that asks a worker for its tasks in flight: `$SRV.TASKS.<service>`, with an `InFlightQuery` as JSON."""
CANCELLED: Final = "CANCELLED"
"""The verb that asks a worker what it has done about cancellations, by a list of their `[kind, key]` as JSON."""
ENDED: Final = "ENDED"
"""The verb that asks a worker for its latest deliveries that were no successes, with an `EndedQuery` as JSON."""
MAX_TASKS: Final = 500
"""A worker names no more in one answer: its answer has to fit into one message."""
MAX_ANSWER_BYTES: Final = 500_000
"""As `MAX_TASKS`: the tasks in one answer take no more."""
LIVE_WITHIN: Final = timedelta(seconds=90)
READY_WITHIN: Final = timedelta(seconds=45)
_SAMPLE_SECONDS: Final = 1.0
_NANOSECONDS_PER_SECOND: Final = 1_000_000_000


def worker_service(namespace: Namespace) -> str:
    """The name of the micro service of all workers of a namespace, e.g. `diracx-worker`."""
    return f"{namespace.name}-worker"


class NoteEffect(msgspec.Struct, frozen=True):
    """What one worker has done about one cancellation."""

    sequence: int
    """Of the note, in its stream."""
    cancelled: int
    """How many tasks it has settled as cancelled."""
    finished: int
    """How many tasks were running, and came to their end all the same."""


class WorkerHealth:
    """Implements `health.Health` for a worker."""

    def __init__(self, worker: Worker, connection: Connection, clock: Clock = boottime) -> None:
        self._worker = worker
        self._connection = connection
        self._clock = clock
        self._since = clock()

    def why_not_live(self) -> str | None:
        """Why the worker is not live: it ends by itself, or no pull was answered. None if it is live."""
        return self._worker.why_it_ends or self._why_no_pull(LIVE_WITHIN, self._worker.snapshot.last_word)

    def why_not_ready(self) -> str | None:
        """Why the worker is not ready: it stops, is not connected, cannot pull, or serves no task. None if it is."""
        facts = self._worker.snapshot
        if facts.stopping:
            return "stopping"
        if not self._connection.is_connected:
            return "not connected to NATS"
        if (reason := self._worker.why_not_served) is not None:
            return reason
        return "starting" if facts.last_pull is None else self._why_no_pull(READY_WITHIN, facts.last_pull)

    def _why_no_pull(self, within: timedelta, last: float | None) -> str | None:
        facts = self._worker.snapshot
        # The time since the last change counts, too: until then the worker may have had a reason not to pull.
        age = self._clock() - max(self._since, last or 0.0, facts.changed_at)
        if not facts.pulls or age <= within.total_seconds():
            return None
        return f"no pull was answered for {age:.0f} s"


@asynccontextmanager
async def advertised(
    worker: Worker, counters: Counters, connection: Connection, namespace: Namespace
) -> AsyncIterator[None]:
    """Answer the requests of `nats micro` for a worker, and tell its gauges to telemetry, during the block."""
    service = _service(worker, counters, namespace, connection.clock.now())
    worker.answer_while_held_up(lambda twin: serving(twin, service))
    with telemetry.observing(partial(_gauges, worker)):
        async with (
            in_background(lambda _: worker.stop(), counters=_sample(counters)),
            serving(connection, service),
        ):
            yield


def _service(worker: Worker, counters: Counters, namespace: Namespace, now: datetime) -> Service:
    size = worker.settings.size
    return Service(
        name=worker_service(namespace),
        id=worker.id,
        version=version("diracx-tasks"),
        description=f"Executes {size} tasks of the namespace {namespace.name}",
        metadata={
            "id": worker.id,
            "namespace": namespace.name,
            "size": str(size),
            "slots": str(worker.settings.max_concurrent_tasks),
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
        },
        endpoint="execute",
        subject=f"{namespace.name}.tasks.*.{size}",
        queue_group=str(size),
        stats=lambda: _stats(worker.snapshot, counters),
        started=now,
        questions={
            TASKS: lambda request: _tasks(worker, request),
            CANCELLED: lambda request: _cancelled(worker, request),
            ENDED: lambda request: _ended(counters, request),
        },
    )


def _tasks(worker: Worker, request: bytes) -> Mapping[str, Any]:
    found = worker.tasks_in_flight(msgspec.json.decode(request or b"{}", type=InFlightQuery))
    fitting = _fitting(found[:MAX_TASKS])
    return {"tasks": fitting, "left_off": len(found) - len(fitting)}


def _ended(counters: Counters, request: bytes) -> Mapping[str, Any]:
    found = counters.ended(msgspec.json.decode(request or b"{}", type=EndedQuery))
    fitting = _fitting(found)
    return {"ended": fitting, "left_off": len(found) - len(fitting)}


def _fitting(found: Sequence[msgspec.Struct]) -> list[msgspec.Raw]:
    """As many of them as JSON as an answer has room for."""
    encoded, room = [], MAX_ANSWER_BYTES
    for each in found:
        text = msgspec.json.encode(each)
        if (room := room - len(text)) < 0:
            break
        encoded.append(msgspec.Raw(text))
    return encoded


def _cancelled(worker: Worker, request: bytes) -> Mapping[str, Any]:
    asked = msgspec.json.decode(request or b"[]", type=list[tuple[Kind, str]])
    known = [standing for kind, key in asked if (standing := worker.standing(kind, key)) is not None]
    return {"notes": [NoteEffect(each.sequence, each.cancelled, each.finished) for each in known]}


def _stats(facts: WorkerSnapshot, counters: Counters) -> ServiceStats:
    return ServiceStats(
        requests=facts.processed,
        errors=counters.failures,
        last_error=counters.last_error,
        processing_ns=int(facts.busy_seconds * _NANOSECONDS_PER_SECOND),
        data={
            "slots": facts.slots,
            "busy": facts.busy,
            "in_hand": facts.in_flight,
            "per_second": round(counters.per_second, 3),
            "last_pull_seconds": None if facts.last_pull is None else round(boottime() - facts.last_pull, 3),
            "stopping": facts.stopping,
            "isolated": facts.isolated,
            "left_behind": facts.left_behind,
            "held": facts.held,
            "not_served": facts.not_served,
            "clock_ahead_seconds": None if facts.clock_ahead is None else round(facts.clock_ahead.total_seconds(), 3),
            "queues": counters.queues,
            "memory_bytes": resident_bytes(),
            "cpu_seconds": round(time.process_time(), 3),
        },
    )


def resident_bytes() -> int | None:
    """The memory that this process takes up (RSS); None where the platform does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _gauges(worker: Worker) -> Iterator[Gauge]:
    facts, size = worker.snapshot, {"diracx.tasks.size": str(worker.settings.size)}
    yield Gauge("diracx.tasks.worker.up", 1, size)
    yield Gauge("diracx.tasks.worker.slots", facts.slots, size)
    yield Gauge("diracx.tasks.worker.running", facts.busy, size)
    yield Gauge("diracx.tasks.worker.isolated", int(facts.isolated is not None), size)


async def _sample(counters: Counters) -> None:
    while True:
        counters.sample()
        await asyncio.sleep(_SAMPLE_SECONDS)
