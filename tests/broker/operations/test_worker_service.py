"""A worker as a NATS micro service, read with the classes of the client library for ADR-32."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import nats
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.micro import Service, ask_all, serving
from diracx.tasks.plumbing.jetstream.micro import ServiceStats as OurStats
from diracx.tasks.plumbing.operations.worker_service import advertised
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from diracx.tasks.plumbing.worker.snapshot import Counters, QueueTotals
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.recording_tasks import Record

DATA_FIELDS = [
    "slots",
    "busy",
    "in_hand",
    "per_second",
    "last_pull_seconds",
    "stopping",
    "isolated",
    "left_behind",
    "held",
    "not_served",
    "clock_ahead_seconds",
    "queues",
    "memory_bytes",
    "cpu_seconds",
]


class Breaks(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
        raise ValueError("broken")


async def asked(connection: Connection, subject: str) -> dict[str, Any]:
    """The first answer to a plain client."""
    url = connection.client.connected_url
    assert url is not None
    client = await nats.connect(url.geturl())
    try:
        answer: dict[str, Any] = json.loads((await client.request(subject, timeout=5)).data)
        return answer
    finally:
        await client.close()


def a_service(name: str, id: str = "host.example.org-1-small") -> Service:  # noqa: A002
    return Service(
        name=name,
        id=id,
        version="1.2.3",
        description="A test",
        metadata={"id": id},
        endpoint="execute",
        subject="a.*.small",
        queue_group="small",
        stats=lambda: OurStats(4, 1, "it broke", 8_000, {"busy": 2}),
    )


async def test_ping_info_and_stats_are_answered_by_all_by_the_service_and_by_the_instance(
    connection: Connection, namespace: str
) -> None:
    async with serving(connection, a_service(namespace)):
        for where in (f".{namespace}", f".{namespace}.host=2Eexample=2Eorg-1-small"):
            ping = ServicePing.from_dict(await asked(connection, f"$SRV.PING{where}"))
            assert (ping.name, ping.id, ping.version) == (namespace, "host=2Eexample=2Eorg-1-small", "1.2.3")
            info = ServiceInfo.from_dict(await asked(connection, f"$SRV.INFO{where}"))
            assert info.description == "A test"
            assert info.endpoints[0].subject == "a.*.small"
            stats = ServiceStats.from_dict(await asked(connection, f"$SRV.STATS{where}"))
            assert datetime.now(UTC) - stats.started.replace(tzinfo=UTC) < timedelta(minutes=1)
            endpoint = stats.endpoints[0]
            assert (endpoint.num_requests, endpoint.num_errors, endpoint.last_error) == (4, 1, "it broke")
            assert (endpoint.processing_time, endpoint.average_processing_time) == (8_000, 2_000)
            assert endpoint.data == {"busy": 2}
        assert (await asked(connection, "$SRV.PING"))["type"] == "io.nats.micro.v1.ping_response"


async def test_a_service_that_ended_does_not_answer(connection: Connection, namespace: str) -> None:
    async with serving(connection, a_service(namespace)):
        assert await ask_all(connection, namespace) != []
    assert await ask_all(connection, namespace) == []


async def test_every_process_of_a_service_is_found(connection: Connection, namespace: str) -> None:
    async with (
        serving(connection, a_service(namespace, "one")),
        serving(connection, a_service(namespace, "two")),
        serving(connection, a_service(f"{namespace}_other", "three")),
    ):
        found = await ask_all(connection, namespace)
    assert found is not None
    assert [answer["id"] for answer in found] == ["one", "two"]


async def test_the_first_answer_of_a_busy_machine_may_be_late(connection: Connection, namespace: str) -> None:
    loop, later = asyncio.get_running_loop(), list[asyncio.Task[None]]()

    def receive(message: Received) -> None:
        answering = connection.publish(message.reply, b'{"id":"late"}')
        loop.call_later(0.6, lambda: later.append(loop.create_task(answering)))

    subscription = await connection.client.listen(f"$SRV.PING.{namespace}", receive)
    assert await ask_all(connection, namespace, "PING") == [{"id": "late"}]
    await connection.client.leave(subscription)
    await asyncio.gather(*later)


def test_an_unknown_verb_has_no_answer() -> None:
    assert a_service("any").answer("SCHEMA") is None


def test_a_further_verb_answers_what_it_was_asked_and_nothing_to_what_it_cannot_read() -> None:
    questions = {"ECHO": lambda request: {"said": msgspec.json.decode(request)}}
    service = dataclasses.replace(a_service("any"), questions=questions)
    answer = msgspec.json.decode(service.answer("ECHO", b'"hello"') or b"null")
    assert (answer["type"], answer["name"], answer["said"]) == ("io.nats.micro.v1.echo_response", "any", "hello")
    assert service.answer("ECHO", b"no JSON") is None


async def test_a_question_that_is_broken_off_leaves_nothing_behind(connection: Connection, namespace: str) -> None:
    def waiting() -> list[asyncio.Task[Any]]:
        return [each for each in asyncio.all_tasks() if each.get_name() == "an answer arrives"]

    async with serving(connection, a_service(namespace)):
        asking = asyncio.create_task(ask_all(connection, namespace))
        await wait_until(lambda: bool(waiting()), description="it waits for answers")
        asking.cancel()
        await asyncio.wait([asking])
        await asyncio.sleep(0)
        assert not waiting()


async def test_the_stats_of_a_worker_count_its_deliveries(mesh: TaskMesh) -> None:
    recording_tasks.reset()
    mesh.register(Record, Breaks)
    tally = Counters()
    settings = WorkerSettings(size=Size.SMALL, max_concurrent_tasks=3, burst=True)
    worker = Worker(mesh.connection, mesh.namespace, mesh.registry, Injector(), settings, counters=tally)
    for n in range(4):
        await Record(n).schedule()
    broken = await Breaks().schedule()
    async with advertised(worker, tally, mesh.connection, mesh.namespace):
        await worker.run()
        answers = await ask_all(mesh.connection, f"{mesh.namespace.name}-worker")
    assert answers is not None
    stats = answers[0]["endpoints"][0]
    assert (stats["num_requests"], stats["num_errors"]) == (5, 1)
    assert stats["last_error"] == f"test:Breaks {broken}: ValueError: broken"
    assert 0 < stats["average_processing_time"] < stats["processing_time"]
    assert list(stats["data"]) == DATA_FIELDS
    totals = msgspec.convert(stats["data"]["queues"], dict[str, QueueTotals])
    assert list(totals) == ["normal-small"]
    assert (totals["normal-small"].succeeded, totals["normal-small"].dropped) == (4, 1)
    assert sum(totals["normal-small"].wait) == 5
    assert 10_000_000 < stats["data"]["memory_bytes"] < 10_000_000_000
    assert stats["data"]["cpu_seconds"] > 0
    assert (stats["data"]["in_hand"], stats["data"]["held"]) == ({}, [])
    assert (stats["data"]["slots"], stats["data"]["busy"], stats["data"]["stopping"]) == (3, 0, False)
    assert stats["data"]["isolated"] is None
    assert stats["data"]["last_pull_seconds"] >= 0


async def test_a_worker_reports_its_tasks_in_flight(mesh: TaskMesh) -> None:
    recording_tasks.reset()
    mesh.register(recording_tasks.Wait, recording_tasks.WaitRealtime)
    name = f"{mesh.namespace.name}-worker"
    async with mesh.working(slots=5) as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
        await mesh.broker.schedule_many(
            [recording_tasks.Wait(0), recording_tasks.Wait(1), recording_tasks.WaitRealtime(2)]
        )
        await wait_until(lambda: len(recording_tasks.running) == 3, description="all run")
        answers = await ask_all(mesh.connection, name)
        recording_tasks.go.set()
    assert answers is not None
    data = answers[0]["endpoints"][0]["data"]
    prefix = f"{mesh.namespace.name}.tasks"
    assert data["in_hand"] == {f"{prefix}.normal.small": 2, f"{prefix}.realtime.small": 1}
    assert data["busy"] == 3


NO_SERVICES = """
authorization {
  users: [
    { user: seen, password: x }
    { user: blind, password: x, permissions: { publish: { deny: "$SRV.>" }, subscribe: { deny: "$SRV.>" } } }
  ]
}
"""


@contextlib.asynccontextmanager
async def connected(server: EmbeddedServer, user: str) -> AsyncIterator[Connection]:
    settings = ConnectionSettings(servers=(server.url,), user=user, password="x")
    async with Connection.open(settings, name=user, inbox_prefix=f"_INBOX_{user}") as opened:
        yield opened


async def test_a_user_who_may_neither_ask_nor_answer_still_works() -> None:
    with EmbeddedServer(extra_config=NO_SERVICES) as server:
        async with connected(server, "seen") as seen, connected(server, "blind") as blind:
            async with serving(blind, a_service("one")), serving(seen, a_service("two")):
                assert await ask_all(blind, "two") is None
                assert await ask_all(seen, "one") == []
                assert await ask_all(seen, "two") != []
            assert (await blind.api("INFO"))["streams"] == 0
