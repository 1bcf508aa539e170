"""A scheduler process for operators: a NATS micro service, and its health."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.micro import Service, ServiceStats, serving
from diracx.tasks.plumbing.scheduler.scheduler import Scheduler
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import to_rfc3339


def scheduler_service(namespace: Namespace) -> str:
    """The name of the micro service of all schedulers of a namespace, e.g. `diracx-scheduler`."""
    return f"{namespace.name}-scheduler"


class SchedulerHealth:
    """Implements `health.Health` for a scheduler."""

    def __init__(self, scheduler: Scheduler, connection: Connection) -> None:
        self._scheduler = scheduler
        self._connection = connection

    def why_not_live(self) -> str | None:
        """Not live if git hangs while it reads the VOs. Otherwise a scheduler that can answer is alive."""
        return self._scheduler.why_stuck()

    def why_not_ready(self) -> str | None:
        """Not ready without a connection, streams and buckets: it can then neither lead nor stand by."""
        return self._scheduler.problem if self._connection.is_connected else "not connected to NATS"


@asynccontextmanager
async def advertised(scheduler: Scheduler, connection: Connection, namespace: Namespace) -> AsyncIterator[None]:
    """Answer the requests of `nats micro` for a scheduler during the block."""

    def stats() -> ServiceStats:
        following, ahead = scheduler.next_occurrence, scheduler.clock_ahead
        return ServiceStats(
            requests=scheduler.published,
            data={
                "leads": scheduler.leads,
                "next": None if following is None else to_rfc3339(following),
                "clock_ahead_seconds": None if ahead is None else round(ahead.total_seconds(), 3),
            },
        )

    service = Service(
        name=scheduler_service(namespace),
        id=scheduler.id,
        version=version("diracx-tasks"),
        description=f"Submits the periodic tasks of the namespace {namespace.name}",
        metadata={
            "id": scheduler.id,
            "namespace": namespace.name,
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
        },
        endpoint="publish",
        subject=f"{namespace.name}.periodic.>",
        queue_group="leader",
        stats=stats,
        started=connection.clock.now(),
    )
    async with serving(connection, service):
        yield
