"""The overview, on a real server."""

from __future__ import annotations

import dataclasses

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.micro import ServiceStats, serving
from diracx.tasks.plumbing.wire.names import Namespace
from support.busy_mesh import simulated_worker
from support.dashboards import signed_in


async def test_each_worker_is_asked_once_for_all_that_the_page_shows(
    connection: Connection, topology: Namespace
) -> None:
    worker, asked = simulated_worker(topology, 3), list[object]()

    def stats() -> ServiceStats:
        asked.append(None)
        return worker.stats()

    async with (
        serving(connection, dataclasses.replace(worker, stats=stats)),
        signed_in(connection, topology) as site,
    ):
        page = await site.text("/")
        assert worker.id in page
        assert "3 of 20 slots busy" in page
        assert len(asked) == 1
