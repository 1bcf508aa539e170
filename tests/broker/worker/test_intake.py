"""The intake on a real server: the order of messages, no more of them than slots, and the end of a burst."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import NANOSECONDS, assets
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.operations.worker_service import WorkerHealth
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase
from diracx.tasks.plumbing.submitter import current_task_id
from diracx.tasks.plumbing.worker.isolation import ISOLATE_AFTER_CRASHES
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.deliveries import leave_crashes
from support.mesh import TaskMesh
from support.recording_tasks import (
    Record,
    RecordBackground,
    RecordRealtime,
    Wait,
    WaitBackground,
    WaitRealtime,
    most_at_once,
    ran,
    running,
)


@pytest.fixture(autouse=True)
async def fresh() -> None:
    recording_tasks.reset()


@dataclasses.dataclass
class Child(BaseTask):
    n: int
    size = Size.SMALL

    async def execute(self) -> None:
        ran.append(("child", self.n, current_task_id.get()))


@dataclasses.dataclass
class Parent(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
        ids = [await Child(n).schedule() for n in range(3)]
        ran.append(("parent", current_task_id.get(), ids))


async def test_realtime_goes_first_then_normal_then_background_each_first_in_first_out(mesh: TaskMesh) -> None:
    mesh.register(Record, RecordRealtime, RecordBackground)
    for first, kind in ((200, RecordBackground), (100, Record), (0, RecordRealtime)):
        for n in range(first, first + 50):
            await kind(n).schedule()
    await mesh.burst(slots=1)
    assert ran == [*range(50), *range(100, 150), *range(200, 250)]


async def test_a_task_that_arrives_at_an_idle_worker_runs_whatever_its_priority(mesh: TaskMesh) -> None:
    mesh.register(Record, RecordRealtime, RecordBackground)
    async with mesh.working(slots=1):
        for n, kind in enumerate((RecordBackground, Record, RecordRealtime) * 3):
            await kind(n).schedule()
            await wait_until(lambda n=n: n in ran, description=f"task {n} ran")  # type: ignore[misc]
    assert ran == list(range(9))


async def test_no_more_tasks_run_at_once_than_there_are_slots(mesh: TaskMesh) -> None:
    mesh.register(Wait, WaitRealtime, WaitBackground)
    async with mesh.working(slots=5):
        for _ in range(2):
            kinds = [kind for kind in (Wait, WaitRealtime, WaitBackground) for _ in range(10)]
            ids = await mesh.broker.schedule_many(kind(n) for n, kind in enumerate(kinds))
            assert len(set(ids)) == 30
            await wait_until(lambda: len(running) == 5, description="all slots are in use")
            recording_tasks.go.set()
            await wait_until(lambda: _equals(mesh.waiting(), 0), description="all are done")
            recording_tasks.go.clear()
    assert max(most_at_once) == 5
    assert sorted(ran) == sorted([*range(30)] * 2)


async def test_more_arrivals_than_free_slots_at_an_idle_worker_run_one_after_another(mesh: TaskMesh) -> None:
    mesh.register(Wait, WaitRealtime, WaitBackground)
    async with mesh.working(slots=1):
        for _ in range(5):
            await mesh.broker.schedule_many(kind(n) for n, kind in enumerate((Wait, WaitRealtime, WaitBackground)))
            await wait_until(lambda: running, description="the first one runs")
            recording_tasks.go.set()
            await wait_until(lambda: _equals(mesh.waiting(), 0), description="all three are done")
            recording_tasks.go.clear()
    assert max(most_at_once) == 1
    assert sorted(ran) == sorted([0, 1, 2] * 5)


async def test_nothing_is_held_without_a_slot_where_another_worker_has_one(mesh: TaskMesh) -> None:
    mesh.register(Wait, WaitRealtime, WaitBackground)
    async with mesh.working(slots=1), mesh.working(slots=1):
        kinds = [kind for kind in (Wait, WaitRealtime, WaitBackground) for _ in range(4)]
        await mesh.broker.schedule_many(kind(n) for n, kind in enumerate(kinds))
        await wait_until(lambda: len(running) == 2, description="both are busy")
        async with mesh.working(slots=20):
            await wait_until(lambda: len(running) == 12, description="a third one runs all others")
            recording_tasks.go.set()


async def test_a_free_slot_is_not_starved_by_long_tasks_in_the_others(mesh: TaskMesh) -> None:
    mesh.register(Wait, Record)
    async with mesh.working(slots=10):
        await mesh.broker.schedule_many(Wait(n) for n in range(9))
        await wait_until(lambda: len(running) == 9, description="nine long tasks run")
        for n in range(100, 103):
            await Record(n).schedule()
            await wait_until(lambda n=n: n in ran, description="the new task ran beside them")  # type: ignore[misc]
        assert len(running) == 9
        recording_tasks.go.set()


async def test_the_children_that_a_task_submits_name_it_as_their_parent(mesh: TaskMesh) -> None:
    class LaterChild(Child):
        size = Size.LARGE

    class Grandparent(Parent):
        async def execute(self) -> None:
            await LaterChild(1).schedule()

    mesh.register(LaterChild, Grandparent)
    parent = await Grandparent().schedule()
    await mesh.burst()
    (child,) = await mesh.stored(mesh.namespace.tasks_stream)
    assert child.headers["Task-Name"] == "test:LaterChild"
    assert child.headers["Task-Parent"] == parent
    await mesh.burst(size=Size.LARGE)


async def test_a_burst_runs_the_children_of_what_it_runs(mesh: TaskMesh) -> None:
    mesh.register(Parent, Child)
    await mesh.broker.schedule_many(Parent() for _ in range(20))
    worker = await mesh.burst(slots=3)
    parents = [seen for seen in ran if seen[0] == "parent"]
    children = [seen for seen in ran if seen[0] == "child"]
    assert len(parents) == 20
    assert sorted(task_id for _, _, task_id in children) == sorted(task_id for _, _, ids in parents for task_id in ids)
    assert worker.processed == 80


async def test_a_burst_waits_for_what_a_running_task_may_still_submit(mesh: TaskMesh) -> None:
    class SlowParent(Wait):
        async def execute(self) -> None:
            await super().execute()
            await Child(self.n).schedule()

    mesh.register(SlowParent, Child)
    await SlowParent(1).schedule()
    burst = asyncio.create_task(mesh.burst())
    await wait_until(lambda: running, description="the parent runs")
    # As many round trips as the burst needs to see that the queues are empty.
    for _ in range(10):
        await mesh.waiting()
    recording_tasks.go.set()
    await burst
    assert [seen[:2] for seen in ran if isinstance(seen, tuple)] == [("child", 1)]


async def test_a_burst_on_empty_queues_ends(mesh: TaskMesh) -> None:
    mesh.register(Record)
    assert (await mesh.burst()).processed == 0


async def test_a_burst_does_not_wait_for_a_retry_that_is_not_due(mesh: TaskMesh) -> None:
    class InAnHour(RetryPolicyBase):
        def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
            return datetime.now(UTC) + timedelta(hours=1)

    class Later(Record):
        retry_policy = InAnHour()

        async def execute(self) -> None:
            await super().execute()
            raise ValueError("no")

    mesh.register(Later, Record)
    mesh.allows_residue = True
    await Later(1).schedule()
    await Record(2).schedule()
    await mesh.burst(slots=1)
    assert ran == [1, 2]
    assert await mesh.residue() == {"tasks": 1, "in flight": 1, "attempt records": 1}


async def test_a_gate_that_closes_while_a_slot_is_awaited_lets_nothing_in(mesh: TaskMesh) -> None:
    released = asyncio.Event()

    class Neighbour(Wait):
        async def execute(self) -> None:
            running.append(self.n)
            await released.wait()

    mesh.register(Wait, Neighbour, Record)
    await Wait(1).schedule()
    await Neighbour(2).schedule()
    await leave_crashes(mesh, 1, ISOLATE_AFTER_CRASHES)
    async with mesh.working(slots=2):
        await wait_until(lambda: running == [2], description="both slots are in use, and one task waits to be alone")
        await Record(3).schedule()
        released.set()
        await wait_until(lambda: running == [2, 1], description="it runs alone")
        # As many round trips as a pull takes.
        for _ in range(10):
            await mesh.waiting()
        assert await deliveries(mesh) == 2, "the next message has yet to be asked for"
        recording_tasks.go.set()
        await wait_until(lambda: ran == [1, 3], description="the next one runs")
    assert await deliveries(mesh) == 3


async def test_the_ack_wait_is_read_again_after_each_reconnect(own_server: EmbeddedServer, namespace: str) -> None:
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        mesh.register(Wait)
        async with mesh.working() as worker:
            await wait_until(lambda: worker.snapshot.last_pull is not None, description="it pulls")
            await mesh.set_ack_wait(2)
            await asyncio.to_thread(own_server.restart)
            await wait_until(lambda: mesh.connection.generation == 1, description="connected again")
            await Wait(1).schedule()
            await wait_until(lambda: running, description="it runs")
            async with answers_heard(mesh) as heard:
                # At the earlier `ack_wait` of 30 s the third one would come after 30 s.
                await wait_until(lambda: heard.count(b"+WPI") == 3, description="it gets heartbeats", timeout=15)
            recording_tasks.go.set()
        assert len(most_at_once) == 1


async def test_a_queue_that_is_made_anew_is_served_by_its_own_ack_wait(mesh: TaskMesh) -> None:
    mesh.register(Wait)
    (queue,) = (asset for asset in assets(mesh.namespace) if asset.name == "normal-small")
    shorter = dataclasses.replace(queue, initial={**queue.initial, "ack_wait": 2 * NANOSECONDS})
    async with mesh.working() as worker:
        health = WorkerHealth(worker, mesh.connection)
        await wait_until(lambda: health.why_not_ready() is None, description="it is ready")
        await mesh.connection.api(f"CONSUMER.DELETE.{mesh.namespace.tasks_stream}.normal-small")
        await wait_until(lambda: health.why_not_ready(), description="the loss is noticed", timeout=40)
        await ensure(mesh.connection, [shorter])
        await wait_until(lambda: health.why_not_ready() is None, description="it is ready again")
        await Wait(1).schedule()
        await wait_until(lambda: running, description="it runs")
        async with answers_heard(mesh) as heard:
            # At the earlier `ack_wait` of 30 s the third one would come after 30 s.
            await wait_until(lambda: heard.count(b"+WPI") == 3, description="it gets heartbeats", timeout=15)
        recording_tasks.go.set()


async def test_a_message_whose_lapsed_execution_has_not_ended_waits_for_its_end(
    own_server: EmbeddedServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Deaf(Wait):
        async def execute(self) -> None:
            running.append(self.n)
            most_at_once.append(len(running))
            while not recording_tasks.go.is_set():
                try:
                    await recording_tasks.go.wait()
                except asyncio.CancelledError:
                    ran.append("cancelled")
            running.remove(self.n)

    async with TaskMesh.open(own_server.url, namespace) as mesh:
        mesh.register(Deaf)
        await mesh.set_ack_wait(1)
        await Deaf(1).schedule()
        async with mesh.working():
            try:
                await wait_until(lambda: running, description="it runs")
                await asyncio.to_thread(own_server.kill)
                await wait_until(lambda: ran, description="its lease lapsed, and it goes on")
                await asyncio.to_thread(own_server.start)
                refused = "gave back a message: an earlier delivery of message 1 still executes here"
                await wait_until(lambda: refused in caplog.text, description="it is delivered again", timeout=20)
            finally:
                recording_tasks.go.set()
            await wait_until(lambda: _equals(mesh.waiting(), 0), description="it is settled", timeout=20)
    assert most_at_once == [1, 1]


async def test_a_stop_counts_before_the_start_and_may_come_again_after_the_end(mesh: TaskMesh) -> None:
    mesh.register(Record)
    await Record(1).schedule()
    worker = mesh.worker()
    worker.stop()
    await worker.run()
    worker.stop()
    assert not ran
    assert await deliveries(mesh) == 0
    await mesh.burst()


async def test_a_worker_at_a_leaf_node_pulls_from_the_jetstream_domain_of_its_prefix(
    namespace: str, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hub_config = f'jetstream {{ store_dir: "{tmp_path}/hub", domain: hub }}\nleafnodes {{ listen: "{address}" }}'
    leaf_config = (
        f'jetstream {{ store_dir: "{tmp_path}/leaf", domain: leaf }}\n'
        f'leafnodes {{ remotes: [{{ url: "nats-leaf://{address}" }}] }}'
    )
    with EmbeddedServer(extra_config=hub_config) as hub, EmbeddedServer(extra_config=leaf_config) as leaf:
        async with TaskMesh.open(hub.url, namespace):
            settings = ConnectionSettings(servers=(leaf.url,), api_prefix="$JS.hub.API")
            async with JetStreamBroker.connect(
                settings=settings, namespace=namespace, registry=TaskRegistry()
            ) as at_leaf_node:
                mesh = TaskMesh(at_leaf_node)
                mesh.register(Record, Wait)
                async with mesh.working():
                    await Wait(1).schedule()
                    await wait_until(lambda: running, description="a long poll brought it")
                    await Record(2).schedule()
                    recording_tasks.go.set()
                    await wait_until(lambda: _equals(mesh.waiting(), 0), description="all are settled")
                assert sorted(ran) == [1, 2]
                assert not await mesh.residue()


@asynccontextmanager
async def answers_heard(mesh: TaskMesh) -> AsyncIterator[list[bytes]]:
    """The answers and heartbeats that reach the server."""
    heard: list[bytes] = []
    subscription = await mesh.connection.client.listen("$JS.ACK.>", lambda message: heard.append(message.data))
    await mesh.connection.client.flush()
    yield heard
    await mesh.connection.client.leave(subscription)


async def deliveries(mesh: TaskMesh) -> int:
    """How many messages of small tasks of normal priority were delivered so far, each time counted."""
    info = await mesh.connection.api(f"CONSUMER.INFO.{mesh.namespace.tasks_stream}.normal-small")
    return int(info["delivered"]["consumer_seq"])


async def _equals(coroutine: Any, expected: object) -> bool:
    return bool(await coroutine == expected)
