"""A worker to its operators: a NATS micro service, and its health.

**Alive** is a worker whose last pull was answered a short while ago. An idle one pulls for 30 s at a time, so it is
never older than that for long. One that has reasons not to ask (all slots in use, a suspect that runs alone) is alive
whatever the age. A server that is away for longer makes a worker not live, too: by then the leases on what it had in
hand have lapsed, and a restart costs nothing.

**Ready** is one that is connected, and whose pull is answered.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from typing import Final

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.micro import Service, ServiceStats, serving
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.snapshot import Tally, WorkerFacts
from diracx.tasks.plumbing.worker.worker import Worker

LIVE_WITHIN: Final = timedelta(seconds=90)
READY_WITHIN: Final = timedelta(seconds=45)
_SAMPLE_EVERY: Final = 1.0
_NANOSECONDS: Final = 1_000_000_000


def worker_service(namespace: Namespace) -> str:
    """The name of the service that the workers of a namespace are, e.g. `diracx-worker`."""
    return f"{namespace.name}-worker"


class WorkerHealth:
    """Satisfies `health.Health`."""

    def __init__(self, worker: Worker, connection: Connection, clock: Clock = boottime) -> None:
        self._worker = worker
        self._connection = connection
        self._clock = clock
        self._since = clock()

    def why_not_live(self) -> str | None:
        """Its pulls are not answered."""
        return self._why_no_pull(LIVE_WITHIN)

    def why_not_ready(self) -> str | None:
        """It stops, is not connected, or its pulls are not answered."""
        if self._worker.facts.stopping:
            return "stopping"
        if not self._connection.is_connected:
            return "not connected to NATS"
        if self._worker.facts.last_pull is None:
            return "starting"
        return self._why_no_pull(READY_WITHIN)

    def _why_no_pull(self, within: timedelta) -> str | None:
        facts = self._worker.facts
        # Until a moment ago it may have had reasons not to ask.
        age = self._clock() - max(self._since, facts.last_pull or 0.0, facts.changed)
        if not facts.asks or age <= within.total_seconds():
            return None
        return f"no pull was answered for {age:.0f} s"


@asynccontextmanager
async def advertised(worker: Worker, tally: Tally, connection: Connection, namespace: Namespace) -> AsyncIterator[None]:
    """Answer `nats micro` for a worker until the end of the block."""
    sampling = asyncio.create_task(_sample(tally), name="tally")
    try:
        async with serving(connection, _service(worker, tally, namespace)):
            yield
    finally:
        sampling.cancel()


def _service(worker: Worker, tally: Tally, namespace: Namespace) -> Service:
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
        stats=lambda: _stats(worker.facts, tally),
    )


def _stats(facts: WorkerFacts, tally: Tally) -> ServiceStats:
    return ServiceStats(
        requests=facts.processed,
        errors=tally.failures,
        last_error=tally.last_error,
        processing_ns=int(facts.busy_seconds * _NANOSECONDS),
        data={
            "slots": facts.slots,
            "busy": facts.busy,
            "in_hand": facts.in_hand,
            "per_second": round(tally.per_second, 3),
            "last_pull_seconds": None if facts.last_pull is None else round(boottime() - facts.last_pull, 3),
            "stopping": facts.stopping,
        },
    )


async def _sample(tally: Tally) -> None:
    while True:
        tally.sample()
        await asyncio.sleep(_SAMPLE_EVERY)
