"""Which tasks run, wait, are parked, delayed or dead, on a real mesh."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.operations import task_search
from diracx.tasks.plumbing.operations.task_document import State
from diracx.tasks.plumbing.operations.task_search import FoundTask, SearchResult, TaskSearch, Wanted
from diracx.tasks.plumbing.operations.worker_service import advertised, worker_service
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.answering import WORKER, answering
from support.cancelling import cancel
from support.failing_tasks import Dies, Later
from support.mesh import TaskMesh
from support.pull_client import pulling
from support.recording_tasks import Record, Wait


@pytest.fixture(autouse=True)
async def _fresh() -> None:
    recording_tasks.reset()


class Locked(Wait):
    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, "alice")]


async def search(mesh: TaskMesh, **wanted: object) -> SearchResult:
    return await TaskSearch(mesh.connection, mesh.namespace, mesh.registry).find(Wanted(**wanted))  # type: ignore[arg-type]


async def found(mesh: TaskMesh, **wanted: object) -> list[tuple[State, str]]:
    return [(each.state, each.id) for each in (await search(mesh, **wanted)).tasks]


async def test_each_state_is_found_with_what_it_waits_for(mesh: TaskMesh) -> None:
    mesh.register(Record, Wait, Later, Dies, Locked)
    mesh.allows_residue = True
    retried, dead = await Later().schedule(), await Dies().schedule(labels={"of": "atlas"})
    delayed = await Record(1).schedule(at_time=datetime(2099, 1, 1, tzinfo=UTC))
    holder = await Locked(1).schedule()
    async with mesh.working(slots=2) as worker, advertised(worker, worker.counters, mesh.connection, mesh.namespace):
        await wait_until(lambda: recording_tasks.running, description="the holder runs")
        parked = await Locked(1).schedule()
        blocked = await wait_until_parked(mesh, parked)
        running = (await search(mesh, states=[State.RUNNING])).tasks
        failed = {each.id: each for each in (await search(mesh, states=[State.FAILED])).tasks}
        recording_tasks.go.set()
    waiting = await Record(2).schedule()
    # The others may be at their start for a moment, when their waits for the lock or for a retry are over.
    assert [(each.id, each.worker) for each in running if each.reason == "executing"] == [(holder, worker.id)]
    assert set(failed) == {retried, dead}
    assert (failed[retried].worker, failed[retried].reason) == (worker.id, "retry: ValueError: no such owner")
    assert [failed[each].attempts for each in (retried, dead)] == [1, 1], "each was executed once"
    assert blocked.reason is not None
    assert f"it waits for mutex.job.alice, held by test:Locked {holder} on {worker.id}" in blocked.reason
    assert blocked.locks == ["mutex.job.alice"]

    result = await search(mesh, states=[State.PARKED, State.WAITING, State.DELAYED, State.DEAD])
    by_id = {each.id: each for each in result.tasks}
    assert [each.state for each in result.tasks] == sorted(
        (each.state for each in result.tasks), key=task_search.STATES.index
    )
    assert not result.incomplete
    assert by_id[retried].state is State.PARKED
    assert "it is tried again at" in str(by_id[retried].reason)
    assert "ValueError: no such owner" in str(by_id[retried].reason)
    assert (by_id[retried].attempts, by_id[retried].until is not None) == (1, True)
    assert by_id[waiting].state is State.WAITING
    assert by_id[waiting].args == {"n": 2}
    assert (by_id[delayed].state, by_id[delayed].until) == (State.DELAYED, datetime(2099, 1, 1, tzinfo=UTC))
    assert (by_id[dead].state, by_id[dead].labels) == (State.DEAD, {"of": "atlas"})
    assert await found(mesh, labels={"of": "atlas"}) == [(State.DEAD, dead)]
    assert await found(mesh, task="test:Later") == [(State.PARKED, retried)]
    assert await found(mesh, task="test:Nobody") == []


async def wait_until_parked(mesh: TaskMesh, wanted: str) -> FoundTask:
    latest: list[FoundTask] = []

    async def parked() -> bool:
        latest[:] = [each for each in (await search(mesh, states=[State.PARKED])).tasks if each.id == wanted]
        return bool(latest) and bool(latest[0].locks)

    await wait_until(parked, description="the second one is parked")
    return latest[0]


async def test_what_keeps_a_queue_from_the_workers_is_the_reason_of_its_tasks(mesh: TaskMesh) -> None:
    mesh.register(Record)
    mesh.allows_residue = True
    consumer = f"{mesh.namespace.tasks_stream}.normal-small"
    lost, waiting = await Record(1).schedule(), await Record(2).schedule()

    async def reasons() -> dict[str, str]:
        return {each.id: str(each.reason) for each in (await search(mesh)).tasks}

    async def only_one_is_left() -> bool:
        return await mesh.waiting() == 1

    no_worker = "no worker of size small answers: start one with `diracx-task-run worker --worker-size small`"
    assert await reasons() == {lost: no_worker, waiting: no_worker}
    # As a worker that vanishes with it: nobody says that he has it.
    async with pulling(mesh.connection, mesh.namespace) as puller:
        await puller.pull.probe(1)
        await wait_until(lambda: puller.delivered, description="the first one is delivered")
    await mesh.connection.api(f"CONSUMER.PAUSE.{consumer}", {"pause_until": "2099-01-01T00:00:00Z"})
    async with mesh.working() as worker, advertised(worker, worker.counters, mesh.connection, mesh.namespace):
        paused = await reasons()
        assert (
            "its queue is paused until 2099-01-01T00:00:00Z: `diracx-task-run resume normal-small`" in paused[waiting]
        )
        await mesh.connection.api(f"CONSUMER.PAUSE.{consumer}", {"pause_until": "0001-01-01T00:00:00Z"})
        await wait_until(only_one_is_left, description="the other one is served")
        assert (await reasons())[lost].startswith("no worker says that it has it: one gave it back, vanished with it, ")


async def test_what_an_operator_has_cancelled_is_not_said_to_be_tried_again(mesh: TaskMesh) -> None:
    mesh.register(Record, Later, Wait)
    mesh.allows_residue = True
    retried = await Later().schedule()
    async with mesh.working() as worker, advertised(worker, worker.counters, mesh.connection, mesh.namespace):
        await wait_until(lambda: worker.counters.deliveries == 1, description="it failed")
    (before,) = (await search(mesh)).tasks
    assert str(before.reason).startswith("it is tried again at ")
    waiting = await Record(1).schedule()
    await cancel(mesh, retried, task="test:Record")
    later = await Record(2).schedule()
    reasons = {each.id: str(each.reason) for each in (await search(mesh)).tasks}
    assert reasons[retried].startswith("alice has cancelled it at ")
    assert "; it is dropped when its turn comes; its turn comes at " in reasons[retried]
    assert "tried again" not in reasons[retried]
    assert reasons[waiting].startswith("alice has cancelled all test:Record submitted until ")
    assert "cancelled" not in reasons[later]


async def test_a_search_that_ends_early_says_so(mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh.register(Record)
    mesh.allows_residue = True
    ids = [await Record(n).schedule(labels={"n": n, "of": "lhcb"}) for n in range(4)]
    few = await search(mesh, limit=3)
    assert [each.id for each in few.tasks] == ids[:3]
    assert (few.incomplete, few.limited, few.unread) == ([State.WAITING], [State.WAITING], [])
    assert (await search(mesh, limit=4)).incomplete == []
    # A label that is no text is compared in its JSON.
    assert await found(mesh, labels={"n": "2", "of": "lhcb"}) == [(State.WAITING, ids[2])]
    monkeypatch.setattr(task_search, "MAX_MESSAGES", 2)
    result = await search(mesh, labels={"n": "3"})
    assert (result.incomplete, result.limited, result.unread) == ([State.WAITING], [], [State.WAITING])
    labelled = await search(mesh, states=[State.FAILED], labels={"n": "3"})
    assert (labelled.tasks, labelled.incomplete) == ([], [State.FAILED])


async def test_what_workers_do_not_say_of_running_tasks_is_told(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    connection, service = mesh.connection, worker_service(mesh.namespace)
    async with answering(connection, f"$SRV.PING.{service}", WORKER):
        result = await search(mesh, states=[State.RUNNING, State.PARKED, State.WAITING])
        assert (result.silent, result.left_off) == (["host-1-small-w1"], 0)
        assert (result.incomplete, result.limited) == ([State.RUNNING, State.PARKED], [])
        async with answering(connection, f"$SRV.TASKS.{service}", WORKER | {"tasks": [], "left_off": 2}):
            result = await search(mesh)
    assert (result.silent, result.left_off) == ([], 2)
    assert (result.incomplete, result.limited) == ([State.RUNNING, State.PARKED], [])


async def test_a_message_that_is_no_task_is_found_and_says_why(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    await mesh.publish_raw(b"NATS/1.0\r\nTask-Submitted: noon\r\n\r\n", b"no json")
    (task,) = (await search(mesh)).tasks
    assert (task.id, task.task, task.state, task.args) == ("1", "", State.WAITING, None)
    assert "it is malformed" in str(task.reason)
