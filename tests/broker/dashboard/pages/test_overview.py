"""The overview, on a real server."""

from __future__ import annotations

import dataclasses
import re
from contextlib import AsyncExitStack

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


async def test_workers_are_listed_in_the_order_of_their_numbers(connection: Connection, topology: Namespace) -> None:
    async with AsyncExitStack() as stack:
        for number in (10, 9, 1):
            await stack.enter_async_context(serving(connection, simulated_worker(topology, number)))
        page = await (await stack.enter_async_context(signed_in(connection, topology))).text("/")
    assert re.findall(r'id="worker-node([0-9]+)-', page) == ["1", "9", "10"]
