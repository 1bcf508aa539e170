"""What must not be lost, doubled or miscounted at the edges of one delivery."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.execution.job import Outcome, Retry, Succeeded
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.recording_tasks import Record, Soon, Wait, ran, running


@pytest.fixture(autouse=True)
async def fresh() -> None:
    recording_tasks.reset()


class CleansUpBadly(Wait):
    async def execute(self) -> None:
        try:
            await super().execute()
        except asyncio.CancelledError:
            raise RuntimeError("the clean-up failed") from None


@dataclasses.dataclass
class FailsOnce(Record):
    retry_policy = Soon()

    async def execute(self) -> None:
        await super().execute()
        if len(ran) == 1:
            raise ValueError("once")


@dataclasses.dataclass
class FailsTwice(Record):
    """Becomes a dead letter after two executions."""

    retry_policy = Soon()
    dlq_eligible = True

    async def execute(self) -> None:
        raise ValueError("each time")


async def test_a_task_whose_clean_up_fails_while_it_is_stopped_is_given_back_and_not_dropped(mesh: TaskMesh) -> None:
    mesh.register(CleansUpBadly)
    await CleansUpBadly(1).schedule()
    async with mesh.working(grace=timedelta(0)):
        await wait_until(lambda: running, description="it runs")
    assert await mesh.waiting() == 1
    recording_tasks.go.set()
    await mesh.burst()
    assert ran == [1]


async def test_a_delayed_task_that_is_settled_is_not_run_again_by_a_task_stream_made_anew(mesh: TaskMesh) -> None:
    mesh.register(Record)
    await Record(1).schedule(at_time=datetime.now(UTC) + timedelta(seconds=0.3))
    async with mesh.working():
        await wait_until(lambda: ran == [1], description="it ran when it was due")
        await wait_until(lambda: _holds(mesh, 0), description="nothing is held for later")
    await mesh.connection.api(f"STREAM.DELETE.{mesh.namespace.tasks_stream}")
    await ensure(mesh.connection, assets(mesh.namespace))
    await Record(2).schedule(at_time=datetime.now(UTC) + timedelta(seconds=0.3))
    async with mesh.working():
        await wait_until(lambda: 2 in ran, description="the stream made anew takes what falls due")
        await wait_until(lambda: _holds(mesh, 0), description="nothing is held for later")
    assert ran == [1, 2]


@pytest.mark.parametrize(("task", "end"), [(FailsOnce(1), "done: test:"), (FailsTwice(1), "dead: test:")])
async def test_a_record_that_cannot_be_deleted_leaves_its_task_settled_and_reported(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture, task: BaseTask, end: str
) -> None:
    caplog.set_level(logging.DEBUG, "diracx.tasks.worker")
    mesh.register(type(task))
    mesh.allows_residue = True
    outcomes: list[Outcome] = []
    await task.schedule()
    await mesh.edit_stream(f"KV_{mesh.namespace.attempts_bucket}", deny_delete=True)
    async with mesh.working(on_outcome=lambda name, task_id, outcome: outcomes.append(outcome)):
        await wait_until(lambda: len(outcomes) == 2, description="both outcomes were reported")
    assert isinstance(outcomes[0], Retry)
    assert await mesh.waiting() == 0
    assert end in caplog.text
    assert "unsettled" not in caplog.text
    (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    settled = f"test:{type(task).__name__} (message 1) is settled, but its attempt record was not deleted: "
    assert line.startswith(settled)


class CancelsItselfLate(FailsOnce):
    async def execute(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        await super().execute()
        asyncio.get_running_loop().call_soon(task.cancel)


async def test_code_that_cancels_its_asyncio_task_after_its_end_does_not_break_off_its_settlement(
    mesh: TaskMesh,
) -> None:
    mesh.register(CancelsItselfLate)
    outcomes: list[Outcome] = []
    await CancelsItselfLate(1).schedule()
    async with mesh.working(on_outcome=lambda name, task_id, outcome: outcomes.append(outcome)):
        await wait_until(lambda: len(outcomes) == 2, description="both outcomes were reported")
    assert [type(outcome) for outcome in outcomes] == [Retry, Succeeded]
    assert ran == [1, 1]


async def test_an_error_in_on_outcome_is_logged_and_its_task_is_settled(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    def on_outcome(name: str, task_id: str, outcome: Outcome) -> None:
        raise RuntimeError("broken")

    mesh.register(Record)
    await Record(1).schedule()
    async with mesh.working(on_outcome=on_outcome):
        await wait_until(lambda: "broken" in caplog.text, description="it was called")
    (line,) = [each.getMessage() for each in caplog.records]
    assert line == "test:Record (message 1) is settled, but on_outcome failed"


async def test_waiting_for_a_lock_does_not_use_up_the_tries_of_an_unknown_task(mesh: TaskMesh) -> None:
    newer = TaskRegistry()
    newer.add("test:Record", Record)
    (sequence,) = await mesh.publish_by_hand(({"Task-Name": "test:Record"}, b'{"n": 1}'))
    consumer = mesh.namespace.consumer(Record.priority, Record.size)
    for _ in range(5):
        await _take_and_give_back(mesh, consumer)
    async with mesh.working(unknown_tries=3, unknown_delay=timedelta(seconds=60)):
        await wait_until(lambda: _tries(mesh, sequence, 1), description="one try is counted")
    assert not await mesh.dead_letters()
    mesh.allows_residue = True


async def test_a_field_of_the_wrong_type_is_refused_where_it_is_submitted(mesh: TaskMesh) -> None:
    mesh.register(Record)
    with pytest.raises(MalformedTaskError, match=r"\$\.n"):
        await Record("five").schedule()  # type: ignore[arg-type]


async def _holds(mesh: TaskMesh, count: int) -> bool:
    return bool((await mesh.state(mesh.namespace.later_stream))["messages"] == count)


async def _tries(mesh: TaskMesh, sequence: int, count: int) -> bool:
    entry = await mesh.attempts.read(str(sequence))
    return entry is not None and f'"unknown":{count}'.encode() in entry.value


async def _take_and_give_back(mesh: TaskMesh, consumer: str) -> None:
    arrived: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    client = mesh.connection.client
    inbox = client.new_inbox()

    async def take(message: Any) -> None:
        if not arrived.done():
            arrived.set_result(message)

    subscription = await client.subscribe(inbox, cb=take)
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{mesh.namespace.tasks_stream}.{consumer}"
    await client.publish(subject, b'{"batch":1,"expires":5000000000}', reply=inbox)
    message = await arrived
    await client.publish(message.reply, b"-NAK")
    await subscription.unsubscribe()
