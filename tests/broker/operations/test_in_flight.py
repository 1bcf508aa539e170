"""Which worker has which tasks in flight: asked of workers that run, that wait, that block, and that do not answer."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.execution.cancellation import Cancellation, Cause
from diracx.tasks.plumbing.execution.execution import current_execution
from diracx.tasks.plumbing.jetstream.micro import ask_all, serving
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.operations import worker_service as worker_service_module
from diracx.tasks.plumbing.operations.in_flight import WorkerTasks, tasks_in_flight
from diracx.tasks.plumbing.operations.worker_service import MAX_TASKS, advertised, worker_service
from diracx.tasks.plumbing.wire.envelope import TASK_LABELS, TASK_NAME, TRACEPARENT
from diracx.tasks.plumbing.worker.snapshot import Counters
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.answering import earlier_worker
from support.mesh import TaskMesh
from support.recording_tasks import Wait, WaitRealtime

WAIT = "test:Wait"


async def asked(mesh: TaskMesh, *ids: str, task: str | None = None) -> WorkerTasks:
    """The answer of the only worker."""
    (worker,) = await tasks_in_flight(mesh.connection, mesh.namespace, ids=ids, task=task)
    return worker


async def test_workers_tell_the_tasks_that_were_asked_for_by_id_or_name(mesh: TaskMesh) -> None:
    recording_tasks.reset()
    mesh.register(Wait, WaitRealtime)
    async with mesh.working(slots=5) as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
        first = await Wait(0).schedule()
        urgent = await WaitRealtime(1).schedule()
        (sequence,) = await mesh.publish_by_hand(({TASK_NAME: WAIT}, b'{"n":2}'))
        await wait_until(lambda: len(recording_tasks.running) == 3, description="all run")
        everything = await asked(mesh)
        by_id = await asked(mesh, first, str(sequence), "unknown")
        many_ids = await asked(mesh, *map(str, range(10_000, 11_000)), first)
        by_name = await asked(mesh, task="test:WaitRealtime")
        nothing = await asked(mesh, "unknown")
        recording_tasks.go.set()
    assert (everything.worker, everything.size) == (worker.id, Size.SMALL)
    assert (everything.answered, everything.left_off) == (True, 0)
    assert {task.id for task in everything.tasks} == {first, urgent, str(sequence)}
    assert {task.id for task in by_id.tasks} == {first, str(sequence)}
    assert [task.id for task in many_ids.tasks] == [first]
    (only,) = by_name.tasks
    assert (only.id, only.task, only.attempt, only.state) == (urgent, "test:WaitRealtime", 1, "executing")
    assert only.subject == f"{mesh.namespace.name}.tasks.realtime.small"
    assert abs(datetime.now(UTC) - only.since) < timedelta(minutes=1)
    assert (only.cancelled_since, only.cancelled_for, only.blocked_at) == (None, None, None)
    assert (nothing.tasks, nothing.answered) == ([], True)


@dataclasses.dataclass
class Holds(BaseTask):
    """Runs under a lock until the test sets `go`."""

    text: str
    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, 7)]

    async def execute(self) -> None:
        recording_tasks.running.append(0)
        await recording_tasks.go.wait()


async def test_the_arguments_and_labels_of_a_task_are_told_on_demand_and_its_locks_and_trace_always(
    mesh: TaskMesh,
) -> None:
    recording_tasks.reset()
    mesh.register(Holds)
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {TASK_NAME: "test:Holds", TRACEPARENT: f"00-{trace}-b7ad6b7169203331-01", TASK_LABELS: '{"site":"LCG"}'}
    async with mesh.working() as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
        await mesh.publish_by_hand((headers, b'{"text":"%s"}' % (b"x" * 600)))
        await wait_until(lambda: len(recording_tasks.running) == 1, description="it runs")
        (plain,) = (await asked(mesh)).tasks
        ((detailed,),) = [each.tasks for each in await tasks_in_flight(mesh.connection, mesh.namespace, details=True)]
        recording_tasks.go.set()
    assert (plain.args, plain.labels, plain.locks, plain.trace_id) == (None, {}, ["mutex.job.7"], trace)
    assert detailed.args == f'{{"text":"{"x" * 491}'
    assert (detailed.labels, detailed.locks) == ({"site": "LCG"}, ["mutex.job.7"])


async def test_an_answer_holds_no_more_tasks_than_it_has_room_for(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording_tasks.reset()
    mesh.register(Wait)
    monkeypatch.setattr(worker_service_module, "MAX_ANSWER_BYTES", 1_000)
    async with mesh.working() as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
        await mesh.broker.schedule_many([Wait(n) for n in range(10)])
        await wait_until(lambda: len(recording_tasks.running) == 10, description="all run")
        answer = await asked(mesh)
        recording_tasks.go.set()
    assert 0 < len(answer.tasks) < 5
    assert len(answer.tasks) + answer.left_off == 10


async def test_more_tasks_than_an_answer_holds_are_counted(mesh: TaskMesh) -> None:
    recording_tasks.reset()
    mesh.register(Wait)
    count = MAX_TASKS + 3
    async with mesh.working(slots=count) as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
        await mesh.broker.schedule_many([Wait(n) for n in range(count)])
        await wait_until(lambda: len(recording_tasks.running) == count, description="all run")
        answer = await asked(mesh)
        recording_tasks.go.set()
    assert (len(answer.tasks), answer.left_off) == (MAX_TASKS, 3)


class Insists(BaseTask):
    """Is cancelled as an operator would, and yields without an end until the test sets `go`."""

    size = Size.SMALL

    async def execute(self) -> None:
        execution = current_execution.get()
        assert execution is not None
        execution.cancel(Cancellation(Cause.CANCELLED, "cancelled by an operator"))
        recording_tasks.running.append(0)
        while not recording_tasks.go.is_set():
            try:
                await recording_tasks.go.wait()
            except asyncio.CancelledError:
                recording_tasks.running.append(1)


async def test_a_task_that_swallows_its_cancellation_is_told_with_the_reason(mesh: TaskMesh) -> None:
    recording_tasks.reset()
    mesh.register(Insists)
    async with mesh.working() as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
        await Insists().schedule()
        await wait_until(lambda: 1 in recording_tasks.running, description="it has swallowed its cancellation")
        (task,) = (await asked(mesh)).tasks
        recording_tasks.go.set()
    assert (task.state, task.cancelled_for, task.blocked_at) == ("executing", "cancelled by an operator", None)
    assert task.cancelled_since is not None
    assert task.since <= task.cancelled_since


released = threading.Event()


@dataclasses.dataclass
class Blocks(BaseTask):
    """Holds up the event loop until the test ends that from another thread."""

    size = Size.SMALL

    async def execute(self) -> None:
        released.wait(60)


async def test_a_worker_whose_loop_is_held_up_answers_from_another_thread_and_names_the_line(mesh: TaskMesh) -> None:
    released.clear()
    mesh.register(Blocks)
    await mesh.set_ack_wait(9)  # so that relief is due after 1.5 s
    found: list[WorkerTasks] = []

    def ask() -> None:
        """As an operator in another process would, until the worker answers."""

        async def until_answered() -> None:
            async with mesh.connection.twin() as twin, asyncio.timeout(60):
                while not any(worker.tasks for worker in found):
                    found.extend(await tasks_in_flight(twin, mesh.namespace))

        try:
            asyncio.run(until_answered())
        finally:
            released.set()

    async with mesh.working() as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
        task_id = await Blocks().schedule()
        await asyncio.to_thread(ask)
    (answer,) = [worker for worker in found if worker.tasks]
    (task,) = answer.tasks
    assert (answer.worker, task.id, task.state) == (worker.id, task_id, "executing")
    assert task.blocked_at is not None
    assert " in " in task.blocked_at


async def test_a_worker_that_does_not_know_the_question_is_listed_as_one_that_did_not_answer(mesh: TaskMesh) -> None:
    earlier = earlier_worker(mesh.namespace)
    async with serving(mesh.connection, earlier):
        assert await asked(mesh) == WorkerTasks("host-1-small", Size.SMALL, [], answered=False)
    assert await tasks_in_flight(mesh.connection, mesh.namespace) == []


async def test_a_question_that_cannot_be_read_is_not_answered(mesh: TaskMesh) -> None:
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(mesh.working())
        await stack.enter_async_context(advertised(worker, Counters(), mesh.connection, mesh.namespace))
        assert await ask_all(mesh.connection, worker_service(mesh.namespace), "TASKS", b'{"ids":4}') == []
