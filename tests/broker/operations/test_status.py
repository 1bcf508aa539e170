"""The status of a mesh."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.micro import Service, ServiceStats, serving
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.operations.scheduler_service import advertised as scheduler_advertised
from diracx.tasks.plumbing.operations.status import QueueStatus, StatusReader, StatusSnapshot
from diracx.tasks.plumbing.operations.worker_service import advertised, worker_service
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.scheduler import Scheduler, SchedulerSettings
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.schedules import IntervalSeconds
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.snapshot import Counters, HeldTask
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.clock import wrong_clock
from support.deliveries import leave_crashes
from support.mesh import TaskMesh
from support.recording_tasks import Record, RecordRealtime, Wait


@dataclasses.dataclass
class Locked(Wait):
    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.n)]


class Later(BaseTask):
    """Fails once, and would be retried in an hour."""

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=3600, max_retries=1)

    async def execute(self) -> None:
        raise ValueError("not now")


class Dies(BaseTask):
    size = Size.SMALL
    dlq_eligible = True

    async def execute(self) -> None:
        raise ValueError("never")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    recording_tasks.reset()
    yield
    recording_tasks.reset()


def queue(snapshot: StatusSnapshot, name: str) -> QueueStatus:
    return next(each for each in snapshot.status.queues if f"{each.priority}-{each.size}" == name)


async def test_an_empty_mesh_has_nine_empty_queues_in_order_and_no_process(mesh: TaskMesh) -> None:
    snapshot = await StatusReader(mesh.connection, mesh.namespace).read()
    document = msgspec.json.decode(msgspec.json.encode(snapshot.status))
    assert " ".join(document) == (
        "namespace server queues delayed dead_letters locks scheduler workers held groups cancelled catching_up alerts "
        "at next streams storage"
    )
    assert document["namespace"] == mesh.namespace.name
    assert document["server"].startswith("nats://127.0.0.1:")
    assert [(each["priority"], each["size"]) for each in document["queues"]] == [
        (priority, size) for priority in ("realtime", "normal", "background") for size in ("small", "medium", "large")
    ]
    for each in document["queues"]:
        assert list(each) == [
            "subject",
            "priority",
            "size",
            "waiting",
            "in_hand",
            "redelivered",
            "oldest_seconds",
            "paused_until",
            "missing",
            "parked",
        ]
        assert (each["waiting"], each["in_hand"], each["redelivered"]) == (0, 0, 0)
        assert (each["oldest_seconds"], each["paused_until"]) == (None, None)
    assert (document["delayed"], document["dead_letters"], document["locks"]) == (0, 0, 0)
    assert document["scheduler"] == {"leader": None, "standbys": [], "clock_ahead_seconds": {}}
    assert (document["workers"], document["held"]) == ([], [])
    assert (document["groups"], document["cancelled"], document["catching_up"]) == (0, 0, [])


async def test_the_streams_and_buckets_are_listed_with_their_limits(mesh: TaskMesh) -> None:
    snapshot = await StatusReader(mesh.connection, mesh.namespace).read()
    document = msgspec.json.decode(msgspec.json.encode(snapshot.status))
    assert (document["alerts"], document["next"]) == ([], None)
    streams = {each["name"]: each for each in document["streams"]}
    assert set(streams) >= {mesh.namespace.tasks_stream, mesh.namespace.dead_letters_stream}
    assert list(streams[mesh.namespace.tasks_stream]) == [
        "name",
        "messages",
        "bytes",
        "max_bytes",
        "max_messages",
        "refuses",
    ]
    assert streams[mesh.namespace.tasks_stream]["max_bytes"] == 256 << 20
    assert streams[mesh.namespace.later_stream]["max_bytes"] is None
    assert abs(datetime.fromisoformat(document["at"]) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_waiting_tasks_are_counted_by_queue_with_the_age_of_the_oldest(mesh: TaskMesh) -> None:
    mesh.register(Record, RecordRealtime)
    await Record(1).schedule()
    await Record(2).schedule()
    await RecordRealtime(3).schedule()
    await Record(4).schedule(at_time=datetime.now(UTC) + timedelta(hours=1))
    await Record(5).schedule(at_time=datetime.now(UTC) + timedelta(hours=2))
    reader = StatusReader(mesh.connection, mesh.namespace)
    first = await reader.read()
    assert queue(first, "normal-small").waiting == 2
    assert queue(first, "realtime-small").waiting == 1
    assert first.status.delayed == 2
    age = queue(first, "normal-small").oldest_seconds
    assert age is not None
    stored = (await mesh.connection.api(f"STREAM.MSG.GET.{mesh.namespace.tasks_stream}", {"seq": 1}))["message"]["time"]
    assert age == pytest.approx((first.at - datetime.fromisoformat(stored)).total_seconds(), abs=0.001)
    later = queue(await reader.read(), "normal-small").oldest_seconds
    assert later is not None
    assert 0 <= age < later
    await mesh.burst()


async def test_running_tasks_are_in_flight_and_tasks_that_wait_for_a_retry_or_a_lock_are_parked(mesh: TaskMesh) -> None:
    mesh.register(Locked, Later, Dies, Record)
    mesh.allows_residue = True
    reader = StatusReader(mesh.connection, mesh.namespace)
    async with (
        mesh.working(slots=4, lock_retry_delay=timedelta(hours=1)) as worker,
        advertised(worker, Counters(), mesh.connection, mesh.namespace),
    ):
        await Locked(7).schedule()
        await wait_until(lambda: recording_tasks.running, description="the holder runs")
        for task in (Locked(7), Later(), Dies(), Record(1)):
            await task.schedule()
        await wait_until(lambda: recording_tasks.ran and worker.processed == 4, description="the others are settled")

        async def has_settled() -> bool:
            snapshots.append(await reader.read())
            return snapshots[-1].status.dead_letters == 1

        snapshots: list[StatusSnapshot] = []
        await wait_until(has_settled, description="the server has received every settlement")
        recording_tasks.go.set()
    snapshot = snapshots[-1]
    small = queue(snapshot, "normal-small")
    assert (small.waiting, small.in_hand, small.redelivered) == (0, 1, 0)
    assert small.parked == 2
    assert snapshot.status.locks == 1
    assert [(each.id, each.size, each.slots, each.busy) for each in snapshot.status.workers] == [
        (worker.id, Size.SMALL, 4, 1)
    ]
    assert str(snapshot.status.workers[0].pid) in worker.id
    assert snapshot.status.workers[0].host in worker.id
    assert snapshot.status.workers[0].since <= datetime.now(UTC) + timedelta(seconds=2), "by the server's clock"
    assert (await reader.read()).status.workers == []


async def test_a_worker_with_an_isolated_task_names_it_from_its_wait_to_its_end(mesh: TaskMesh) -> None:
    mesh.register(Wait)
    reader = StatusReader(mesh.connection, mesh.namespace)

    async def isolated() -> str | None:
        (listed,) = (await reader.read()).status.workers
        return listed.isolated

    suspect = await Wait(1).schedule()
    await leave_crashes(mesh, 1, 2)
    await Wait(2).schedule()
    async with (
        mesh.working(isolation_window=timedelta(seconds=0)) as worker,
        advertised(worker, Counters(), mesh.connection, mesh.namespace),
    ):
        await wait_until(lambda: worker.snapshot.isolated, description="the suspect waits for the other one")
        await wait_until(lambda: recording_tasks.running == [2], description="the other one runs")
        assert await isolated() == f"test:Wait {suspect}"
        recording_tasks.go.set()
        await wait_until(lambda: recording_tasks.ran == [2, 1], description="both are done")
        await wait_until(lambda: worker.processed == 2, description="both are settled")
        assert await isolated() is None


async def test_tasks_that_the_configuration_holds_are_listed_once_with_their_vo(mesh: TaskMesh) -> None:
    class Periodic(PeriodicBaseTask):
        size = Size.SMALL
        default_schedule = IntervalSeconds(3600)

        async def execute(self) -> None:
            """Do nothing."""

    mesh.register(Record, Later, Dies, Periodic)
    reader = StatusReader(mesh.connection, mesh.namespace)
    text = """
    tasks:
      Later: {enabled: false}
      test:Record: {vos: {lhcb: {enabled: false}, atlas: {enabled: false}, cms: {concurrency_limit: 1}}}
      test:Dies: {enabled: true}
      test:Periodic: {enabled: false}
      test:NotInstalled: {enabled: false}
    """
    async with AsyncExitStack() as stack:
        for _ in range(2):
            worker = await stack.enter_async_context(mesh.working())
            await stack.enter_async_context(advertised(worker, Counters(), mesh.connection, mesh.namespace))
        assert (await reader.read()).status.held == []
        await ConfigurationBucket(mesh.connection, mesh.namespace).write(text)

        async def held() -> list[HeldTask]:
            return (await reader.read()).status.held

        await wait_until(held, description="the workers have seen it")
        listed = msgspec.to_builtins(await held())
    assert listed == [
        {"task": "test:Later", "vo": None},
        {"task": "test:Record", "vo": "atlas"},
        {"task": "test:Record", "vo": "lhcb"},
    ]


async def test_a_worker_of_an_earlier_version_tells_of_no_isolation(mesh: TaskMesh) -> None:
    earlier = Service(
        name=worker_service(mesh.namespace),
        id="node1-412-small",
        version="0.0.1",
        description="Answers as a worker that does not tell of isolation",
        metadata={"id": "node1-412-small", "size": "small", "host": "node1", "pid": "412"},
        endpoint="execute",
        subject=f"{mesh.namespace.name}.tasks.*.small",
        queue_group="small",
        stats=lambda: ServiceStats(
            0, 0, "", 0, {"slots": 1, "busy": 0, "in_hand": {}, "per_second": 0.0, "last_pull_seconds": None}
        ),
    )
    async with serving(mesh.connection, earlier):
        (listed,) = (await StatusReader(mesh.connection, mesh.namespace).read()).status.workers
    assert (listed.host, listed.isolated) == ("node1", None)


async def test_processes_tell_how_far_their_clocks_are_ahead_and_began_by_the_time_of_the_server(
    mesh: TaskMesh,
) -> None:
    mesh.register(Record)
    reader = StatusReader(mesh.connection, mesh.namespace)
    with wrong_clock(mesh.connection, timedelta(hours=2)):
        await mesh.state()  # its answer has the time of the server
        vos = VirtualOrganisations([])
        scheduler = Scheduler(mesh.connection, mesh.namespace, mesh.registry, vos, SchedulerSettings(), name="s")
        async with (
            mesh.working() as worker,
            advertised(worker, Counters(), mesh.connection, mesh.namespace),
            scheduler_advertised(scheduler, mesh.connection, mesh.namespace),
        ):
            snapshot = await reader.read()
    (listed,) = snapshot.status.workers
    ahead = snapshot.status.scheduler.clock_ahead_seconds["s"]
    assert listed.clock_ahead_seconds == pytest.approx(7200, abs=60)
    assert ahead == pytest.approx(7200, abs=60)
    assert abs(snapshot.at - listed.since) < timedelta(minutes=1)


async def test_the_leading_scheduler_and_the_standbys_are_distinguished(mesh: TaskMesh) -> None:
    schedulers = [
        Scheduler(mesh.connection, mesh.namespace, mesh.registry, VirtualOrganisations([]), SchedulerSettings(), name=n)
        for n in ("a-1-scheduler", "b-2-scheduler")
    ]
    async with asyncio.TaskGroup() as group:
        for scheduler in schedulers:
            group.create_task(scheduler.run())
        await wait_until(lambda: any(each.leads for each in schedulers), description="one leads")
        async with (
            scheduler_advertised(schedulers[0], mesh.connection, mesh.namespace),
            scheduler_advertised(schedulers[1], mesh.connection, mesh.namespace),
        ):
            status = (await StatusReader(mesh.connection, mesh.namespace).read()).status
        leader, standby = sorted(schedulers, key=lambda each: not each.leads)
        for scheduler in schedulers:
            scheduler.stop()
    assert (status.scheduler.leader, status.scheduler.standbys) == (leader.id, [standby.id])


async def test_a_missing_queue_keeps_its_row_and_its_tasks_wait(mesh: TaskMesh) -> None:
    mesh.register(Record, Wait)
    await Record(1).schedule()
    await Record(2).schedule()
    stream = mesh.namespace.tasks_stream
    await mesh.connection.api(f"CONSUMER.DELETE.{stream}.normal-small")
    await mesh.connection.api(f"CONSUMER.DELETE.{stream}.background-large")
    snapshot = await StatusReader(mesh.connection, mesh.namespace).read()
    assert [f"{each.priority}-{each.size}" for each in snapshot.status.queues if each.missing] == [
        "normal-small",
        "background-large",
    ]
    assert len(snapshot.status.queues) == 9
    small, large = queue(snapshot, "normal-small"), queue(snapshot, "background-large")
    assert (small.waiting, small.in_hand, small.redelivered, large.waiting) == (2, 0, 0, 0)
    assert small.oldest_seconds is not None
    assert small.oldest_seconds >= 0
    assert (small.paused_until, large.oldest_seconds) == (None, None)
    assert {each.parked for each in snapshot.status.queues} == {0}
    assert [alert.name for alert in snapshot.status.alerts] == ["consumer-missing", "queue-not-served"]
    await ensure(mesh.connection, assets(mesh.namespace))
    await mesh.burst()
    assert recording_tasks.ran == [1, 2]


async def test_a_missing_namespace_is_an_error(connection: Connection, names: Namespace) -> None:
    with pytest.raises(ServerError, match="stream not found"):
        await StatusReader(connection, names).read()
