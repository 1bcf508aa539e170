"""Workers on a real server: their size and their stop."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import ServerError, ServerUnavailableError
from diracx.tasks.plumbing.operations.worker_service import WorkerHealth
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.submitter import current_task_id
from diracx.tasks.plumbing.worker import Worker
from diracx.tasks.plumbing.worker import worker as worker_module
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.recording_tasks import Record, Soon, Wait, attempts_seen, ran, running


@pytest.fixture(autouse=True)
async def fresh() -> None:
    recording_tasks.reset()


class FailsOnceGone(Wait):
    """Waits as `Wait` does, then fails."""

    retry_policy = Soon()

    async def execute(self) -> None:
        await super().execute()
        raise ValueError("no")


class Large(Record):
    size = Size.LARGE


async def test_a_worker_takes_only_tasks_of_its_size(mesh: TaskMesh) -> None:
    mesh.register(Record, Large)
    await Large(1).schedule()
    await Record(2).schedule()
    await mesh.burst()
    assert ran == [2]
    await mesh.burst(size=Size.LARGE)
    assert ran == [2, 1]


async def test_what_is_published_by_hand_with_a_name_and_a_json_body_runs(mesh: TaskMesh) -> None:
    class ShowId(Record):
        async def execute(self) -> None:
            ran.append((self.n, current_task_id.get()))

    mesh.register(ShowId)
    first, second = await mesh.publish_by_hand(
        ({"Task-Name": "test:ShowId"}, b'{"n": 7, "unknown": [1, {}]}'),
        ({"Task-Name": "test:ShowId", "Task-Id": "by-hand", "Task-Labels": '{"a": "b"}'}, b'{"n": 8}'),
    )
    await mesh.burst(slots=1)
    assert ran == [(7, str(first)), (8, "by-hand")]
    assert second == first + 1


async def test_a_worker_that_stops_gives_back_what_runs_and_counts_it_as_no_attempt(mesh: TaskMesh) -> None:
    mesh.register(FailsOnceGone)
    await mesh.broker.schedule_many(FailsOnceGone(n) for n in range(3))
    async with mesh.working(slots=3, grace=timedelta(0)):
        await wait_until(lambda: len(running) == 3, description="all three run")
    assert not running
    assert not ran
    assert await mesh.residue() == {"tasks": 3, "in flight": 3}, "nothing was recorded"
    recording_tasks.go.set()
    async with mesh.working(slots=3):
        await wait_until(lambda: _equals(mesh.waiting(), 0), description="failed for good")
    assert sorted(ran) == [0, 0, 1, 1, 2, 2]
    assert sorted(attempts_seen) == [0, 0, 0, 1, 1, 1], "the interrupted execution used up no retry"


async def test_a_task_that_stopping_workers_give_back_time_and_again_is_not_taken_for_one_that_kills_them(
    mesh: TaskMesh,
) -> None:
    mesh.register(Wait)
    await Wait(1).schedule()
    for _ in range(7):
        async with mesh.working(grace=timedelta(0)):
            await wait_until(lambda: running, description="it runs")
        assert not running
    recording_tasks.go.set()
    await mesh.burst()
    assert ran == [1]
    assert not await mesh.dead_letters()


async def test_a_worker_that_stops_lets_running_tasks_end_within_the_grace_period(mesh: TaskMesh) -> None:
    mesh.register(Wait)
    await mesh.broker.schedule_many(Wait(n) for n in range(5))
    async with mesh.working(slots=2) as worker:
        await wait_until(lambda: len(running) == 2, description="two run")
        worker.stop()
        recording_tasks.go.set()
    assert sorted(ran) == [0, 1]
    assert await mesh.waiting() == 3, "it asked for nothing more, and held nothing more"
    await mesh.burst()
    assert sorted(ran) == [0, 1, 2, 3, 4]


async def test_stop_now_ends_the_grace_period(mesh: TaskMesh) -> None:
    mesh.register(Wait)
    await Wait(1).schedule()
    async with mesh.working() as worker:
        await wait_until(lambda: running, description="it runs")
        worker.stop()
        worker.stop_now()
    assert not ran
    recording_tasks.go.set()
    await mesh.burst()


async def test_a_stop_asked_for_before_the_worker_runs_is_not_lost(mesh: TaskMesh) -> None:
    mesh.register(Record)
    await Record(1).schedule()
    worker = mesh.worker()
    worker.stop()
    async with asyncio.timeout(10):
        await worker.run()
    assert not ran
    await mesh.burst()


async def test_a_worker_on_missing_queues_says_so(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    await mesh.connection.api(f"CONSUMER.DELETE.{mesh.namespace.tasks_stream}.normal-small")
    worker = mesh.worker()
    with pytest.raises(ServerError, match="consumer normal-small is missing: run `diracx-task-run setup`"):
        await worker.run()


async def test_a_worker_begins_once_it_has_read_the_configuration(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Record)
    mesh.allows_residue = True
    await ConfigurationBucket(mesh.connection, mesh.namespace).write("tasks: {test:Record: {enabled: false}}")
    await Record(1).schedule()
    read, tries = ConfigurationBucket.read, 0

    async def fails_twice(bucket: ConfigurationBucket) -> Any:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise ServerUnavailableError("no answer")
        return await read(bucket)

    monkeypatch.setattr(ConfigurationBucket, "read", fails_twice)
    async with mesh.working(lock_retry_delay=timedelta(hours=1)) as worker:
        await wait_until(lambda: worker.processed, description="it is held")
    assert not ran
    waits = [message for message in caplog.messages if message.startswith("waits up to 30 s for the configuration")]
    assert waits == ["waits up to 30 s for the configuration, with its holds and limits: no answer"]


@pytest.mark.parametrize("error", [ServerUnavailableError("no answer"), ServerError("refused")])
async def test_a_worker_does_not_wait_for_a_configuration_that_is_refused_nor_for_ever(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: ServerError
) -> None:
    async def fails(bucket: ConfigurationBucket) -> Any:
        raise error

    mesh.register(Record)
    monkeypatch.setattr(ConfigurationBucket, "read", fails)
    monkeypatch.setattr(worker_module, "FIRST_READ_SECONDS", 0.1)
    await Record(1).schedule()
    async with mesh.working():
        await wait_until(lambda: ran == [1], description="it serves")
    begins = "begins without the configuration: no task is held or limited by it until it can be read"
    assert (begins in caplog.messages) == isinstance(error, ServerUnavailableError)


async def test_a_worker_that_is_stopped_while_it_waits_for_the_configuration_ends(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(bucket: ConfigurationBucket) -> Any:
        raise ServerUnavailableError("no answer")

    monkeypatch.setattr(ConfigurationBucket, "read", fails)
    async with mesh.working() as worker:
        await wait_until(lambda: "waits up to" in caplog.text, description="it waits")
        worker.stop()
        health = WorkerHealth(worker, mesh.connection)
        assert health.why_not_ready() == "stopping"
    assert "begins without" not in caplog.text


async def why_not_ready(worker: Worker, mesh: TaskMesh) -> str | None:
    """Why a worker that pulls and is live is not ready."""
    health = WorkerHealth(worker, mesh.connection)
    await wait_until(lambda: worker.snapshot.last_pull is not None, description="it pulls")
    assert health.why_not_live() is None
    return health.why_not_ready()


async def test_a_worker_of_a_size_that_no_task_has_is_ready_and_says_that_it_is_idle(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Record)
    async with mesh.working(size=Size.LARGE) as worker:
        assert await why_not_ready(worker, mesh) is None
    idle = [record.levelname for record in caplog.records if "no large task is installed" in record.message]
    assert idle == ["WARNING"]


async def test_a_worker_whose_tasks_are_all_broken_or_missing_is_not_ready(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Record)
    mesh.registry.withdraw("test:Record", "it cannot work")
    mesh.registry.withdraw("test:Gone", "it could not be loaded")
    async with mesh.working() as worker:
        assert (await why_not_ready(worker, mesh) or "").startswith("no task is installed, or none can be served; see")
    assert "this worker has nothing to do: no task is installed" in caplog.text
    mesh.register(Large)
    async with mesh.working() as worker:
        assert (await why_not_ready(worker, mesh) or "").startswith("no small task can be served; see the log")


async def _equals(coroutine: Any, expected: object) -> bool:
    return bool(await coroutine == expected)
