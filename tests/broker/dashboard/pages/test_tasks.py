"""The page of tasks, on real streams."""

from __future__ import annotations

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.operations.worker_service import worker_service
from diracx.tasks.plumbing.wire.names import Namespace
from support.answering import WORKER, answering
from support.dashboard_client import visiting
from support.mesh import TaskMesh
from support.recording_tasks import Record


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


async def test_a_part_of_a_name_leads_to_the_whole_name(mesh: TaskMesh) -> None:
    mesh.register(Record)
    async with visiting(mesh.connection, mesh.namespace, mesh.registry) as client:
        page = await client.get("/tasks?name=record&label=vo%3Dlhcb")
        assert "Did you mean test:Record?" in page.text
        assert "/tasks?name=test%3ARecord&label=vo%3Dlhcb" in page.links
        assert "Did you mean" not in (await client.get("/tasks?name=test%3ARecord")).text
