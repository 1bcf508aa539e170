"""Alerts of a real mesh: what is missing, full, not handed over, without a leader or without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.hearing import listening
from diracx.tasks.plumbing.jetstream.micro import Service, ServiceStats, serving
from diracx.tasks.plumbing.jetstream.stream_messages import read_message
from diracx.tasks.plumbing.locks.acquired import LockOwner
from diracx.tasks.plumbing.operations import storage
from diracx.tasks.plumbing.operations.alerts import LEVELS, Alert
from diracx.tasks.plumbing.operations.scheduler_service import advertised as scheduler_advertised
from diracx.tasks.plumbing.operations.status import StatusReader
from diracx.tasks.plumbing.operations.worker_service import worker_service
from diracx.tasks.plumbing.scheduler import Scheduler, SchedulerSettings
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.schedules import IntervalSeconds
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import from_rfc3339
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.queues import edit_stream, set_ack_wait
from support.recording_tasks import Record


class Hourly(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None:
        """Do nothing."""


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


async def alerts(connection: Connection, namespace: Namespace) -> dict[str, Alert]:
    found = (await StatusReader(connection, namespace).read()).status.alerts
    assert [alert.name for alert in found] == sorted((alert.name for alert in found), key=list(LEVELS).index)
    return {alert.name: alert for alert in found}


@pytest.mark.parametrize(
    ("asset", "name", "text"),
    [
        ("{0}_LATER", "stream-missing", "stream {0}_LATER is missing"),
        ("{0}_DLQ", "stream-missing", "stream {0}_DLQ is missing"),
        ("{0}_TASKS", "stream-missing", "stream {0}_TASKS is missing"),
        ("KV_{1}_locks", "bucket-missing", "bucket {1}_locks is missing"),
        ("KV_{1}_attempts", "bucket-missing", "bucket {1}_attempts is missing"),
    ],
)
async def test_without_any_one_stream_or_bucket_the_rest_is_shown(
    topology: Namespace, connection: Connection, asset: str, name: str, text: str
) -> None:
    names = topology.name.upper(), topology.name
    await connection.api(f"STREAM.DELETE.{asset.format(*names)}")
    status = (await StatusReader(connection, topology).read()).status
    (alert,) = status.alerts
    assert (alert.level, alert.name, alert.text) == ("critical", name, text.format(*names))
    assert alert.command == f"diracx-task-run setup --namespace {topology.name}"
    assert len(status.queues) == 9
    assert asset.format(*names) not in [stream.name for stream in status.streams]


async def test_a_full_stream_of_dead_letters_and_one_that_fills_are_told(mesh: TaskMesh) -> None:
    mesh.register(Dies)
    await Dies().schedule()
    await mesh.burst()
    found = await alerts(mesh.connection, mesh.namespace)
    assert list(found) == ["dead-letters"]
    assert found["dead-letters"].text == "1 dead letter stored"
    stream = mesh.namespace.dead_letters_stream
    used = (await mesh.connection.api(f"STREAM.INFO.{stream}"))["state"]["bytes"]
    await edit_stream(mesh.connection, stream, max_bytes=used + 10)
    assert "dead-letters-full" in await alerts(mesh.connection, mesh.namespace)
    await edit_stream(mesh.connection, stream, max_bytes=-1, max_msgs=1)
    assert "dead-letters-full" in await alerts(mesh.connection, mesh.namespace)


async def test_tasks_that_fell_due_and_are_not_taken_by_a_full_stream_are_told(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.register(Record)
    await Record(1).schedule()
    stream = mesh.namespace.tasks_stream
    used = (await mesh.connection.api(f"STREAM.INFO.{stream}"))["state"]["bytes"]
    await edit_stream(mesh.connection, stream, max_bytes=used + 10)
    for _ in range(2):
        await mesh.connection.request(mesh.namespace.due_subject(Record.priority, Record.size), b"{}")

    async def told() -> Alert | None:
        return (await alerts(mesh.connection, mesh.namespace)).get("due-not-sourced")

    assert await told() is None, "it may be on its way"
    monkeypatch.setattr(storage, "LATE_AFTER", timedelta(seconds=0))

    async def the_server_tells_nothing() -> bool:
        (source,) = (await mesh.connection.api(f"STREAM.INFO.{stream}"))["sources"]
        return bool(source["lag"] == 0 and source["active"] >= 0)

    await wait_until(the_server_tells_nothing, description="the source begins anew, which it does again and again")
    found = await alerts(mesh.connection, mesh.namespace)
    assert {"stream-full", "due-not-sourced", "queue-not-served"} <= set(found)
    assert "or more fell due and do not reach " in found["due-not-sourced"].text
    await edit_stream(mesh.connection, stream, max_bytes=-1)

    async def mended() -> bool:
        return await told() is None

    await wait_until(mended, description="the source goes on", timeout=30)
    await mesh.connection.api(f"STREAM.PURGE.{stream}")


async def test_a_young_task_that_fell_due_does_not_hide_one_that_is_stuck(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.register(Record)
    await Record(1).schedule()
    connection, stream, later = mesh.connection, mesh.namespace.tasks_stream, mesh.namespace.later_stream
    used = (await connection.api(f"STREAM.INFO.{stream}"))["state"]["bytes"]
    await edit_stream(connection, stream, max_bytes=used + 10)
    due = mesh.namespace.due_subject(Record.priority, Record.size)
    monkeypatch.setattr(storage, "LATE_AFTER", timedelta(seconds=1.5))
    monkeypatch.setattr(storage, "LOOK_BACK", timedelta(seconds=0.5))
    await connection.request(due, b"{}")
    stuck = await read_message(connection, later, last_by_subj=due)
    assert stuck is not None

    async def is_late() -> bool:
        info = await connection.api(f"STREAM.INFO.{later}")
        return from_rfc3339(info["ts"]) - stuck.stored >= storage.LATE_AFTER

    await wait_until(is_late, description="it is late")
    assert "due-not-sourced" in await alerts(connection, mesh.namespace)
    await connection.request(due, b"{}")
    assert "due-not-sourced" in await alerts(connection, mesh.namespace), "also beside one that fell due just now"
    await connection.api(f"STREAM.PURGE.{later}", {"filter": due})
    await edit_stream(connection, stream, max_bytes=-1)
    await connection.api(f"STREAM.PURGE.{stream}")


async def test_tasks_that_fell_due_and_wait_in_a_full_queue_are_where_they_belong(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LATE_AFTER", timedelta(seconds=0))
    mesh.register(Record)
    mesh.allows_residue = True
    stream = mesh.namespace.tasks_stream
    for _ in range(3):
        await mesh.connection.request(mesh.namespace.due_subject(Record.priority, Record.size), b"{}")

    async def taken() -> bool:
        return bool((await mesh.connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"] == 3)

    await wait_until(taken, description="the queue has them", timeout=30)
    used = (await mesh.connection.api(f"STREAM.INFO.{stream}"))["state"]["bytes"]
    await edit_stream(mesh.connection, stream, max_bytes=used + 10)
    found = await alerts(mesh.connection, mesh.namespace)
    assert "stream-full" in found
    assert "due-not-sourced" not in found
    await mesh.connection.api(f"STREAM.PURGE.{stream}")


async def test_nobody_leads_is_told_as_long_as_a_schedule_is_enabled(mesh: TaskMesh) -> None:
    mesh.register(Hourly)
    assert await alerts(mesh.connection, mesh.namespace) == {}
    vos = VirtualOrganisations([])
    scheduler = Scheduler(mesh.connection, mesh.namespace, mesh.registry, vos, SchedulerSettings())
    async with asyncio.TaskGroup() as group:
        group.create_task(scheduler.run())
        await wait_until(lambda: scheduler.next_occurrence, description="it leads and has supplied the schedule")
        async with scheduler_advertised(scheduler, mesh.connection, mesh.namespace):
            assert await alerts(mesh.connection, mesh.namespace) == {}
        scheduler.stop()
    (alert,) = (await alerts(mesh.connection, mesh.namespace)).values()
    assert (alert.name, alert.text) == ("no-scheduler", "nobody leads, no scheduler answers: 1 schedule will run dry")


def fake_worker(mesh: TaskMesh, name: str, **in_hand: int) -> Service:
    """A service that answers as a worker does."""
    counts = {f"{mesh.namespace.name}.tasks.{queue.replace('_', '.')}": count for queue, count in in_hand.items()}
    data = {"slots": 9, "busy": sum(in_hand.values()), "in_hand": counts, "per_second": 0.0, "last_pull_seconds": None}
    return Service(
        name=worker_service(mesh.namespace),
        id=name,
        version="0.0.1",
        description="Answers as a worker",
        metadata={"id": name, "size": "small", "host": "node1", "pid": "1"},
        endpoint="execute",
        subject=f"{mesh.namespace.name}.tasks.*.small",
        queue_group="small",
        stats=lambda: ServiceStats(data=data),
    )


async def take_one(mesh: TaskMesh) -> None:
    """Have one task in flight, of which nobody tells."""
    await Record(1).schedule()
    subject = mesh.connection.api_subject(f"CONSUMER.MSG.NEXT.{mesh.namespace.tasks_stream}.normal-small")
    taken = asyncio.Event()
    async with listening(mesh.connection, inbox := f"_INBOX.{mesh.namespace.name}", lambda _: taken.set()):
        await mesh.connection.publish(subject, b'{"batch":1}', reply=inbox)
        await taken.wait()


async def test_a_lock_whose_holder_does_not_answer_tells_of_a_worker_that_is_gone(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    mesh.register(Record)

    async def hold(key: str, worker: str) -> None:
        owner = LockOwner.new(task="test:Record", id="1", worker=worker)
        await mesh.locks.create(key, msgspec.json.encode(owner), timedelta(seconds=60))

    await hold("mutex.job.1", "node9-1-small-x7k2")
    await hold("mutex.job.2", "node9-1-small-x7k2")
    await hold("mutex.job.3", "node1-1-small-ab3d")
    await hold("mutex.job.4", "node1-1-call-qqqq")
    await hold("rate.job.5", "node8-1-small-x7k2")
    async with serving(mesh.connection, fake_worker(mesh, "node1-1-small-ab3d")):
        assert await alerts(mesh.connection, mesh.namespace) == {}, "nothing is parked"
        await take_one(mesh)
        (alert,) = (await alerts(mesh.connection, mesh.namespace)).values()
    assert (alert.level, alert.name) == ("warning", "worker-gone")
    assert alert.text.startswith("node9-1-small-x7k2 holds 2 locks and does not answer: ")
    assert "by 20" in alert.text


async def test_a_worker_that_had_tasks_and_went_without_a_word_is_told_until_their_leases_have_lapsed(
    mesh: TaskMesh,
) -> None:
    mesh.allows_residue = True
    mesh.register(Record)
    await set_ack_wait(mesh.connection, mesh.namespace, 2, [Size.SMALL])
    await take_one(mesh)
    reader = StatusReader(mesh.connection, mesh.namespace)

    async def gone() -> list[str]:
        return [each.id for each in (await reader.read()).gone]

    async with serving(mesh.connection, fake_worker(mesh, "node1-1-small-ab3d", normal_small=1)):
        assert await gone() == []
    assert await gone() == ["node1-1-small-ab3d"]

    async def lapsed() -> bool:
        return await gone() == []

    await wait_until(lapsed, description="the lease has lapsed")
