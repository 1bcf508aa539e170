"""What `cancel` finds beside queues and workers: groups, full queues, workers that say nothing, other users."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.callbacks import spawn_with_callback
from diracx.tasks.plumbing.cancellations.follower import CancellationFollower
from diracx.tasks.plumbing.cancellations.note import Kind
from diracx.tasks.plumbing.dead_letters.dead_tasks import DeadTask, dead_tasks
from diracx.tasks.plumbing.dead_letters.replay import Replayer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import ServerError, TaskFailedError
from diracx.tasks.plumbing.groups.records import PartRecord, callback_id
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.jetstream.headers import schedule_headers
from diracx.tasks.plumbing.jetstream.micro import Service, ServiceStats, serving
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.operations.accounts import accounts_conf
from diracx.tasks.plumbing.operations.cancellation import MAX_KEYS, MAX_PARALLEL_REQUESTS, Canceller, Target
from diracx.tasks.plumbing.operations.worker_service import worker_service
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.cancelling import cancel, cancel_all, cancel_one, counts, following, serving_worker
from support.mesh import TaskMesh
from support.recording_tasks import Record, Wait, ran
from support.result_tasks import LONG, Keeps
from support.secured import connected, secured_server

NAME = "test:Record"
OPERATION = "diracx.tasks.plumbing.operations.cancellation"


@dataclasses.dataclass
class Dies(BaseTask):
    size = Size.SMALL
    dlq_eligible = True

    async def execute(self) -> None:
        ran.append("died")
        raise ValueError("no")


@pytest.fixture(autouse=True)
async def _fresh() -> None:
    recording_tasks.reset()


async def test_a_task_for_later_is_withdrawn(mesh: TaskMesh) -> None:
    mesh.register(Record, Wait)
    soon = datetime.now(UTC) + timedelta(hours=1)
    ids = [await Record(n).schedule(at_time=soon) for n in range(MAX_PARALLEL_REQUESTS + 2)]
    other = await Wait(0).schedule(at_time=soon)
    assert counts(await cancel_one(mesh, ids[0])) == {"withdrawn": 1}
    answer = await cancel_all(mesh, "test:Record")
    assert (counts(answer), answer.done) == ({"withdrawn": MAX_PARALLEL_REQUESTS + 1}, True)
    (left,) = await mesh.stored(mesh.namespace.later_stream, f"{mesh.namespace.name}.delayed.")
    assert left.headers["Task-Id"] == other
    again = await cancel_one(mesh, ids[0])
    assert (counts(again), again.done) == ({}, False), "nothing is left of it"


async def test_the_end_of_a_cancelled_task_for_later_is_written_where_its_result_is_kept(mesh: TaskMesh) -> None:
    """By its class, by its submission, and of a callback. It falls due at once, and a worker writes the end."""
    mesh.register(Record, Keeps, Wait)
    soon = datetime.now(UTC) + timedelta(hours=1)
    by_class = await Keeps().schedule(at_time=soon)
    by_submission = await Record(1).schedule(at_time=soon, keep_result=60)
    group = await spawn_with_callback([Wait(0)], Keeps())
    identities = [by_class, by_submission, callback_id(group)]
    answers = await cancel(mesh, *identities)
    assert [(counts(each), each.done) for each in answers] == [({"withdrawn": 1}, True)] * 3
    await cancel(mesh, group=group)
    async with serving_worker(mesh):
        for identity in identities:
            with pytest.raises(TaskFailedError, match="was cancelled: TaskCancelledError: cancelled by alice at"):
                await mesh.broker.result(identity, LONG)
    assert ran == []


async def dead_ones(mesh: TaskMesh) -> list[DeadTask]:
    return [each async for each in dead_tasks(mesh.connection, mesh.namespace, lambda _: True)]


async def test_a_dead_letter_stays_and_its_replay_runs(mesh: TaskMesh) -> None:
    mesh.register(Dies)
    identity = await Dies().schedule()
    await Dies().schedule()
    async with serving_worker(mesh):

        async def both_died() -> bool:
            return len(await mesh.dead_letters()) == len(await dead_ones(mesh)) == 2

        await wait_until(both_died, description="they died")
        answer = await cancel_one(mesh, identity)
        letter = next(each for each in await mesh.dead_letters() if each.headers["Task-Id"] == identity)
        dead = next(each for each in await dead_ones(mesh) if each.seq == letter.sequence)
        await Replayer(mesh.connection, mesh.namespace).replay(dead)
        await wait_until(lambda: len(ran) == 3, description="it ran again")
        await wait_until(both_died, description="and died again")
    assert (counts(answer), answer.dead_letters, answer.done) == ({"dead": 1}, [letter.sequence], False)


async def test_the_children_of_a_group_count_wherever_they_are(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    children = [({"Task-Name": NAME, "Task-Group": f"g:{index}"}, b'{"n":1}') for index in range(3)]
    await mesh.publish_by_hand(*children, ({"Task-Name": NAME, "Task-Group": "g-1:0"}, b"{}"))
    stored = PartRecord(tasks=(NAME,), queues=("normal.small",), children=(0,) * 3, stored=True)
    to_store = PartRecord(tasks=(NAME,), queues=("normal.small",), children=(0,) * 5, bodies=(msgspec.Raw(b"{}"),) * 5)
    for number, record in enumerate((stored, to_store)):
        await publish(mesh.connection, mesh.namespace.group_part_subject("g", number), msgspec.json.encode(record), {})
    await publish(mesh.connection, mesh.namespace.group_part_subject("g", 2), b"by hand", {})
    answer, missing = (await cancel(mesh, group="g")) + (await cancel(mesh, group="h"))
    assert (counts(answer), answer.done) == ({"waiting": 8}, True)
    assert (counts(missing), missing.done) == ({}, False)


async def test_the_part_of_a_group_that_is_to_be_stored_is_not_withdrawn(mesh: TaskMesh) -> None:
    far = {
        "Nats-Schedule": "@at 2099-01-01T00:00:00Z",
        "Nats-Schedule-Target": f"{mesh.namespace.name}.due.normal.small",
    }
    headers = far | {"Task-Name": "diracx:StoreChildren", "Task-Id": "g-part-0", "Task-Part": "g:0"}
    await publish(mesh.connection, mesh.namespace.delayed_subject("g-part-0"), b"{}", headers)
    assert counts(await cancel_one(mesh, "g-part-0")) == {}
    assert len(await mesh.stored(mesh.namespace.later_stream, f"{mesh.namespace.name}.delayed.")) == 1


async def test_a_task_that_fell_due_while_its_queue_was_full_counts_as_waiting(mesh: TaskMesh) -> None:
    mesh.register(Record)
    mesh.allows_residue = True
    await Record(1).schedule()
    await mesh.edit_stream(mesh.namespace.tasks_stream, max_msgs=1)
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    _, identity = [await Record(n).schedule(at_time=soon) for n in (2, 3)]

    async def has_fallen_due() -> bool:
        return len(await mesh.stored(mesh.namespace.later_stream, f"{mesh.namespace.name}.due.")) == 2

    await wait_until(has_fallen_due, description="it fell due")
    answer = await cancel_one(mesh, identity)
    assert (counts(answer), answer.done) == ({"waiting": 1}, True)


async def test_more_ids_than_one_question_takes_are_cancelled_in_one_command(mesh: TaskMesh) -> None:
    mesh.register(Wait)
    async with serving_worker(mesh, slots=MAX_KEYS + 20):
        ids = await mesh.broker.submit_many(Wait(n) for n in range(MAX_KEYS + 10))
        await wait_until(lambda: len(recording_tasks.running) == len(ids), description="all run")
        answers = await cancel(mesh, *ids, ids[0])
    assert [answer.key for answer in answers] == ids, "each once"
    assert all(answer.cancelled == 1 and answer.done for answer in answers)


async def test_a_worker_that_does_not_answer_is_named(mesh: TaskMesh) -> None:
    """As one of an earlier version, or whose event loop is held up."""
    mesh.register(Record)
    mesh.allows_residue = True
    await Record(1).schedule()
    service = Service(
        name=worker_service(mesh.namespace),
        id="node1-7-small",
        version="0.0.1",
        description="says nothing of its tasks",
        metadata={"id": "node1-7-small", "size": "small"},
        endpoint="execute",
        subject="nothing",
        queue_group="small",
        stats=ServiceStats,
    )
    async with serving(mesh.connection, service):
        answer = await cancel_all(mesh, NAME)
    assert (counts(answer), answer.silent, answer.done) == ({"waiting": 1}, ["node1-7-small"], False)


@pytest.mark.parametrize("more", [{}, {"Task-Keep-Result": "60"}])
async def test_a_schedule_of_that_name_is_withdrawn_though_its_message_has_no_id(
    mesh: TaskMesh, more: dict[str, str]
) -> None:
    """As one that was stored by hand. When it fell due its sequence would be its id, and it would run."""
    due = f"{mesh.namespace.name}.due.normal.small"
    headers = {"Task-Name": NAME, **more, **schedule_headers(datetime.now(UTC) + timedelta(hours=1), due)}
    await publish(mesh.connection, mesh.namespace.delayed_subject("by-hand"), b"{}", headers)
    answer = await cancel_one(mesh, "by-hand")
    assert (counts(answer), answer.done) == ({"withdrawn": 1}, True)
    assert await mesh.stored(mesh.namespace.later_stream, f"{mesh.namespace.name}.delayed.") == []


async def test_a_note_that_is_older_than_an_hour_and_than_each_message_is_removed(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.register(Record)
    mesh.allows_residue = True

    async def notes() -> list[str]:
        found = await mesh.stored(mesh.namespace.later_stream, f"{mesh.namespace.name}.cancelled.")
        return [message.subject.rpartition(".")[2] for message in found]

    await mesh.connection.request(f"{mesh.namespace.name}.cancelled.id.old", b"by hand")
    await cancel_one(mesh, "a")
    await cancel_one(mesh, "b")
    assert await notes() == ["old", "a", "b"]
    monkeypatch.setattr(f"{OPERATION}.KEPT", timedelta(0))
    delayed = await Record(1).schedule(at_time=datetime.now(UTC) + timedelta(hours=1))
    await Record(2).schedule()
    await cancel_one(mesh, "c")
    assert await notes() == ["c"], "the message in the queue is younger than the others"
    await cancel_one(mesh, delayed)
    assert await notes() == ["c", delayed], "and older than these"


async def test_a_schedule_that_fires_while_it_is_released_counts_where_it_is_found(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.register(Record)
    mesh.allows_residue = True
    subject = mesh.namespace.delayed_subject("late")
    due = f"{mesh.namespace.name}.due.normal.small"
    headers = {"Nats-Schedule": "@at 2099-01-01T00:00:00Z", "Nats-Schedule-Target": due, "Task-Name": NAME}
    headers |= {"Task-Id": "late", "Task-Keep-Result": "60"}
    await publish(mesh.connection, subject, b"{}", headers)
    release = Canceller._release

    async def fires_first(canceller: Canceller, message: object) -> int:
        await publish(mesh.connection, due, b"{}", {"Task-Name": NAME, "Task-Id": "late"})
        await mesh.connection.api(f"STREAM.PURGE.{mesh.namespace.later_stream}", {"filter": subject})
        await publish(mesh.connection, subject, b"{}", headers)
        return await release(canceller, message)  # type: ignore[arg-type]

    monkeypatch.setattr(Canceller, "_release", fires_first)
    assert counts(await cancel_one(mesh, "late")) == {"waiting": 1}


async def test_a_release_that_the_server_refuses_is_an_error_and_the_note_stands(mesh: TaskMesh) -> None:
    subject = mesh.namespace.delayed_subject("late")
    headers = {
        "Nats-Schedule": "@at 2099-01-01T00:00:00Z",
        "Nats-Schedule-Target": f"{mesh.namespace.name}.due.normal.small",
    }
    await publish(mesh.connection, subject, b"x" * 4_000, headers | {"Task-Id": "late", "Task-Keep-Result": "60"})
    await mesh.edit_stream(mesh.namespace.later_stream, max_msg_size=2_000)
    with pytest.raises(ServerError, match="message size exceeds maximum"):
        await cancel_one(mesh, "late")
    assert len(await mesh.stored(mesh.namespace.later_stream, f"{mesh.namespace.name}.cancelled.")) == 1


async def test_a_note_that_somebody_removes_at_once_is_an_error(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(f"{OPERATION}.read_message", nothing)
    with pytest.raises(ServerError, match="the cancellation of id a was removed at once; try again"):
        await cancel_one(mesh, "a")


async def test_the_users_of_the_shipped_accounts_cancel_or_follow_as_their_role_says() -> None:
    names = Namespace("diracx")
    with secured_server("diracx") as server:
        async with connected(server, "diracx", "operator") as operator, connected(server, "diracx", "worker") as worker:
            await ensure(operator, assets(names), tolerant=False)
            follower = CancellationFollower(worker, names)
            (answer,) = await Canceller(operator, names).cancel([Target(Kind.ID, "a")])
            await follower.refresh()
            assert follower.standing(Kind.ID, "a") is not None
            for role in ("producer", "worker", "scheduler", "observer"):
                async with connected(server, "diracx", role) as other:
                    with pytest.raises(ServerError):
                        await Canceller(other, names).cancel([Target(Kind.ID, "b")])
            async with connected(server, "diracx", "producer") as producer:
                with pytest.raises(PermissionDeniedError):
                    await CancellationFollower(producer, names).refresh()
            await follower.refresh()
            assert follower.standing(Kind.ID, "b") is None
            assert not answer.found


async def test_a_worker_that_may_not_subscribe_hears_by_its_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with accounts of an earlier version."""
    names, granted = Namespace("diracx"), '"diracx.cancelled.*.*"'
    assert accounts_conf(names).count(granted) == 1
    monkeypatch.setattr("support.secured.accounts_conf", lambda names: accounts_conf(names).replace(granted, ""))
    with secured_server("diracx") as server:
        async with connected(server, "diracx", "operator") as operator:
            await ensure(operator, assets(names), tolerant=False)
            async with connected(server, "diracx", "worker") as worker, following(worker, names) as follower:
                await Canceller(operator, names).cancel([Target(Kind.ID, "a")])
                await wait_until(lambda: follower.any, description="the poll has it", timeout=10)
