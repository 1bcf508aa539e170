"""The page of tasks, on real streams."""

from __future__ import annotations

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.operations.worker_service import worker_service
from diracx.tasks.plumbing.wire.names import Namespace
from support.answering import WORKER, answering
from support.dashboard_client import visiting


async def test_what_workers_do_not_say_of_running_tasks_is_told(connection: Connection, topology: Namespace) -> None:
    service = worker_service(topology)
    said = "No answer from host-1-small-w1: what runs there may be listed as parked."
    async with answering(connection, f"$SRV.PING.{service}", WORKER), visiting(connection, topology) as client:
        assert (await client.get("/tasks?label=of%3Datlas")).text.count(said) == 2, "of the search and of the parked"
        assert "These are the oldest" not in (await client.get("/tasks")).text
    left_off = answering(connection, f"$SRV.TASKS.{service}", WORKER | {"tasks": [], "left_off": 2})
    said = "Workers did not name 2 of their running tasks: these may be listed as parked."
    async with left_off, visiting(connection, topology) as client:
        assert said in (await client.get("/tasks")).text
