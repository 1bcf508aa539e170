"""Where is this task, and why does it not run? One test for each place where a task can be, on a real mesh."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.cancellations.note import Kind, Note
from diracx.tasks.plumbing.dead_letters.dead_tasks import dead_tasks
from diracx.tasks.plumbing.dead_letters.replay import Replayer
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED, pause
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.micro import Service, ServiceStats, serving
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.operations.task_document import State
from diracx.tasks.plumbing.operations.task_lookup import TaskLookup
from diracx.tasks.plumbing.operations.task_reasons import UNKNOWN_MEANS
from diracx.tasks.plumbing.operations.worker_service import advertised, worker_service
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.envelope import (
    TASK_GROUP,
    TASK_ID,
    TASK_NAME,
    TASK_PARENT,
)
from diracx.tasks.plumbing.wire.names import Namespace, escape
from diracx.tasks.plumbing.wire.times import readable_time
from diracx.tasks.plumbing.worker.snapshot import Counters
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.deliveries import leave_crashes
from support.failing_tasks import Dies, Later
from support.mesh import TaskMesh
from support.recording_tasks import Record, RecordRealtime, Wait
from support.task_lookups import find, put

AT = datetime(2026, 12, 1, 6, tzinfo=UTC)


@pytest.fixture(autouse=True)
async def _fresh() -> None:
    recording_tasks.reset()


@dataclasses.dataclass
class OfVo(Record):
    vo: str = ""


async def test_a_delayed_task_tells_its_time_and_an_id_with_wildcards_names_only_itself(mesh: TaskMesh) -> None:
    mesh.register(Record)
    mesh.allows_residue = True
    task_id = await Record(1).schedule(at_time=datetime(2099, 1, 1, tzinfo=UTC), labels={"of": "atlas"})
    found = await find(mesh, task_id)
    assert (found.state, found.task, found.args, found.labels) == (
        State.DELAYED,
        "test:Record",
        {"n": 1},
        {"of": "atlas"},
    )
    assert (found.until, found.due) == (datetime(2099, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC))
    assert found.why == ["it was submitted for 2099-01-01T00:00:00Z"]
    assert (found.queue, found.sequence, found.place) == (None, None, None)
    assert (await find(mesh, "*")).state is State.UNKNOWN


async def test_a_task_behind_others_tells_its_place_and_that_no_worker_answers(mesh: TaskMesh) -> None:
    mesh.register(Record, RecordRealtime)
    ids = await mesh.broker.schedule_many([Record(n) for n in range(1_200)])
    await mesh.broker.schedule_many([RecordRealtime(n) for n in range(3)])
    first, last = await find(mesh, ids[0]), await find(mesh, ids[-1])
    assert (first.state, first.place, first.queue, first.sequence) == (State.WAITING, 1, "normal-small", 1)
    assert last.place == 1_200
    assert last.why == [
        "no worker of size small answers: start one with `diracx-task-run worker --worker-size small`",
        "about 1199 tasks of its queue come before it, and 3 of more urgent queues",
    ]
    await pause(mesh.connection, mesh.namespace.tasks_stream, "normal-small", UNTIL_RESUMED)
    paused = await find(mesh, ids[5])
    assert paused.why[0] == "its queue is paused until it is resumed: `diracx-task-run resume normal-small`"
    await mesh.connection.api(f"CONSUMER.DELETE.{mesh.namespace.tasks_stream}.normal-small")
    missing = await find(mesh, ids[5])
    assert missing.why[0] == "its queue normal-small is missing on the server: run `diracx-task-run setup`"
    assert missing.place == 6
    mesh.allows_residue = True


async def test_a_running_task_names_its_worker_and_one_behind_it_that_all_slots_are_in_use(mesh: TaskMesh) -> None:
    mesh.register(Wait)
    async with mesh.working(slots=1) as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
        runs = await Wait(0).schedule()
        await wait_until(lambda: recording_tasks.running == [0], description="the first one runs")
        waits = await Wait(1).schedule()
        running, waiting = await find(mesh, runs), await find(mesh, waits)
        mesh.allows_residue = True
        await mesh.connection.api(f"STREAM.MSG.DELETE.{mesh.namespace.tasks_stream}", {"seq": running.sequence})
        settled = await find(mesh, runs)
        recording_tasks.go.set()
    assert (settled.state, settled.task, settled.sequence) == (State.RUNNING, "test:Wait", None)
    (only,) = running.running
    assert (running.state, only.worker, only.attempt, only.state) == (State.RUNNING, worker.id, 1, "executing")
    assert running.why[0].startswith(f"{worker.id} has it since ")
    assert running.why[0].endswith(": executing")
    assert (waiting.state, waiting.place) == (State.WAITING, 1)
    assert waiting.why == [
        "all slots of size small are in use: 1 in 1 worker",
        "it is the next one of its queue",
    ]


async def test_a_suspect_waits_for_isolation_and_others_wait_for_it(mesh: TaskMesh) -> None:
    mesh.register(Wait, Record)
    suspect = await Wait(1).schedule()
    await leave_crashes(mesh, 1, 2)
    await Wait(2).schedule()
    async with mesh.working() as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
        await wait_until(lambda: worker.snapshot.isolated, description="the suspect waits for the other one")
        await wait_until(lambda: recording_tasks.running == [2], description="the other one runs")
        behind = await Record(3).schedule()
        waits, other = await find(mesh, suspect), await find(mesh, behind)
        recording_tasks.go.set()
        await wait_until(lambda: 3 in recording_tasks.ran, description="all have run")
    assert waits.why[0].endswith(": waiting for isolation")
    assert waits.attempts == 2
    assert other.why[0] == f"{worker.id} takes nothing else while it isolates test:Wait {suspect}"


async def test_a_failed_task_tells_when_it_is_tried_again_and_with_which_error_it_failed(mesh: TaskMesh) -> None:
    mesh.register(Later)
    mesh.allows_residue = True
    task_id = await Later().schedule()
    async with mesh.working() as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
        await wait_until(lambda: worker.processed == 1, description="it has failed")
        found = await find(mesh, task_id)
    assert (found.state, found.attempts, found.place) == (State.PARKED, 1, None)
    (error,) = found.errors
    assert (error.type, error.message) == ("ValueError", "no such owner")
    assert found.until is not None
    assert timedelta(minutes=50) < found.until - datetime.now(UTC) < timedelta(minutes=70)
    assert found.why == [
        f"it is tried again at {found.until:%Y-%m-%dT%H:%M:%SZ}, since it failed with ValueError: no such owner"
    ]


async def test_a_task_that_the_configuration_holds_says_so_before_and_after_its_first_delivery(mesh: TaskMesh) -> None:
    mesh.register(OfVo, Wait)
    mesh.allows_residue = True
    hold = "tasks: {test:OfVo: {vos: {atlas: {enabled: false}}}}"
    await ConfigurationBucket(mesh.connection, mesh.namespace).write(hold)
    async with (
        mesh.working(slots=1, lock_retry_delay=timedelta(hours=1)) as worker,
        advertised(worker, Counters(), mesh.connection, mesh.namespace),
    ):
        delivered = await OfVo(1, "atlas").schedule()
        await wait_until(lambda: worker.processed == 1, description="it was held")
        await Wait(2).schedule()
        await wait_until(lambda: recording_tasks.running == [2], description="the slot is in use")
        waits, other = await OfVo(3, "atlas").schedule(), await OfVo(4, "lhcb").schedule()
        found = [await find(mesh, each) for each in (delivered, waits, other)]
        recording_tasks.go.set()
    says = "the configuration holds test:OfVo: `enabled` is false, see `diracx-task-run config show`"
    assert [each.state for each in found] == [State.PARKED, State.WAITING, State.WAITING]
    assert [says in each.why for each in found] == [True, True, False]


async def test_a_parked_task_may_run_in_a_worker_that_does_not_answer(mesh: TaskMesh) -> None:
    mesh.register(Wait)
    mute = Service(
        name=worker_service(mesh.namespace),
        id="mute-1-small",
        version="0.1",
        description="Is held up",
        metadata={"id": "mute-1-small", "size": "small", "host": "mute", "pid": "1"},
        endpoint="execute",
        subject="a",
        queue_group="small",
        stats=lambda: ServiceStats(
            data={"slots": 1, "busy": 0, "per_second": 0, "last_pull_seconds": 0, "in_hand": {}}
        ),
    )
    async with mesh.working() as worker:
        task_id = await Wait(1).schedule()
        await wait_until(lambda: recording_tasks.running == [1], description="it runs in a worker that nobody asks")
        async with serving(mesh.connection, mute):
            silent = await find(mesh, task_id)
        async with advertised(worker, Counters(), mesh.connection, mesh.namespace):
            assert (await find(mesh, task_id)).state is State.RUNNING
        recording_tasks.go.set()
    assert (silent.state, silent.why) == (State.PARKED, ["it may run in mute-1-small, which did not answer"])


async def test_a_dead_task_names_its_dead_letter_with_reason_and_errors(mesh: TaskMesh) -> None:
    mesh.register(Dies)
    task_id, _ = await Dies().schedule(labels={"of": "atlas"}), await Dies().schedule()
    await mesh.burst()
    found = await find(mesh, task_id)
    assert found.dead_letter is not None
    (why,) = found.why
    assert why.startswith(f"it is dead letter {found.dead_letter.seq}, see `diracx-task-run dlq show ")
    assert why.endswith(": no retry is left after 1 execution: ValueError: no such mouse")
    assert (found.state, found.task, found.labels, found.attempts) == (State.DEAD, "test:Dies", {"of": "atlas"}, 1)
    assert [error.message for error in found.errors] == ["no such mouse"]


async def note(mesh: TaskMesh, kind: Kind, key: str, by: str = "") -> None:
    await put(mesh, mesh.namespace.cancelled_subject(kind, key), Note(kind=kind, key=key, at=AT, by=by))


async def test_a_cancelled_task_says_by_whom_and_that_its_turn_drops_it(mesh: TaskMesh) -> None:
    mesh.register(Record, RecordRealtime)
    mesh.allows_residue = True
    plain, later = await Record(1).schedule(), await Record(2).schedule(at_time=datetime(2099, 1, 1, tzinfo=UTC))
    headers = {TASK_NAME: "test:Wait", TASK_ID: "g-0-3", TASK_GROUP: "g-0:3", TASK_PARENT: "g"}
    await mesh.publish_by_hand((headers, b'{"n":3}'))
    for key in (plain, "gone"):
        await note(mesh, Kind.ID, key, "alice")
    await note(mesh, Kind.GROUP, "g-0")
    for task in ("test:Record", "test:RecordRealtime"):
        await note(mesh, Kind.TASK, task, "bob")
    # Without the time of its submission, which is worked out: that at which the stream stored it counts.
    await mesh.publish_by_hand(({TASK_NAME: "test:RecordRealtime", TASK_ID: (after := "after")}, b'{"n":4}'))
    await put(mesh, mesh.namespace.cancelled_subject("id", after), "no note")
    by_id, gone, of_group, delayed, spared = [await find(mesh, each) for each in (plain, "gone", "g-0-3", later, after)]
    assert by_id.state is State.WAITING
    assert by_id.cancelled is not None
    assert (
        by_id.why[0]
        == f"alice has cancelled it at {readable_time(by_id.cancelled.at)}; it is dropped when its turn comes"
    )
    assert gone.state is State.CANCELLED
    assert gone.why[0].startswith("alice has cancelled it at ")
    assert of_group.why[0].startswith("an operator has cancelled its group g-0 at ")
    assert (of_group.group, of_group.index, of_group.parent) == ("g-0", 3, "g")
    assert delayed.why[0].startswith("bob has cancelled all test:Record submitted until ")
    assert spared.cancelled is None, "it was submitted after that"


async def test_a_task_that_has_ended_is_known_by_its_kept_result(mesh: TaskMesh) -> None:
    results = Bucket(mesh.connection, mesh.namespace.results_bucket)
    record = {"id": "a.b", "task": "test:Record", "status": "failed", "ended": "2026-12-01T06:00:00Z", "worker": "w"}
    error = {"type": "ValueError", "message": "no such\nowner", "traceback": "...", "more": 1}
    await results.create(escape("a.b"), msgspec.json.encode(record | {"error": error}))
    await results.create("odd", b"no JSON")
    found, odd = await find(mesh, "a.b"), await find(mesh, "odd")
    assert found.result is not None
    assert (found.state, found.task, found.result.status) == (State.DONE, "test:Record", "failed")
    assert found.why == ["it has failed at 2026-12-01T06:00:00Z on w: ValueError: no such owner"]
    assert (odd.state, odd.result) == (State.UNKNOWN, None)


async def test_messages_by_hand_are_found_by_their_sequence_and_malformed_ones_say_so(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    headers = {TASK_NAME: "test:Unknown", TASK_ID: "bad", "Task-Due": "soon"}
    nameless, by_hand, _ = await mesh.publish_by_hand(
        (None, b"\xff"), ({TASK_NAME: "test:Unknown"}, b'{"n":1}'), (headers, b"{}")
    )
    found = await find(mesh, str(by_hand))
    assert (found.state, found.sequence, found.task, found.args) == (State.WAITING, by_hand, "test:Unknown", {"n": 1})
    odd, bad = await find(mesh, str(nameless)), await find(mesh, "bad")
    assert (odd.task, odd.args) == (None, None)
    assert odd.why[0].endswith("the header Task-Name is missing")
    assert bad.why[0].startswith("it is malformed, and becomes a dead letter in its turn: Task-Due")


async def test_an_occurrence_that_has_not_fallen_due_and_a_task_that_is_not_moved_yet_are_found(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    names = mesh.namespace
    schedule = {"Nats-Schedule": "@at 2099-01-01T00:00:00Z", "Nats-Schedule-Target": f"{names.name}.due.normal.small"}
    occurrence = {TASK_NAME: "test:Record", TASK_ID: "occurrence"}
    await put(mesh, names.periodic_subject("test:Record", None, "1"), {"n": 1}, **schedule, **occurrence)
    found = await find(mesh, "occurrence")
    assert (found.state, found.until) == (State.DELAYED, datetime(2099, 1, 1, tzinfo=UTC))
    stream = names.later_stream
    info = await mesh.connection.api(f"STREAM.INFO.{names.tasks_stream}")
    await mesh.connection.api(f"STREAM.UPDATE.{names.tasks_stream}", info["config"] | {"sources": []})
    await put(mesh, f"{names.name}.due.normal.small", {"n": 2}, **(occurrence | {TASK_ID: "stuck"}))
    stuck = await find(mesh, "stuck")
    assert (stuck.state, stuck.until) == (State.DELAYED, None), stream
    assert stuck.why[0].startswith("it has fallen due, and the server has not moved it to its queue")
    assert (await find(mesh, "occurrence")).until == found.until


async def test_an_unknown_id_says_what_that_may_mean(mesh: TaskMesh) -> None:
    found = await find(mesh, "unknown")
    assert (found.state, found.task, found.groups) == (State.UNKNOWN, None, [])
    assert found.why == [UNKNOWN_MEANS]


async def test_a_namespace_without_a_mesh_is_an_error(connection: Connection, namespace: str) -> None:
    with pytest.raises(ServerError):
        await TaskLookup(connection, Namespace(namespace), TaskRegistry()).find("1")


@pytest.mark.one_server("it makes a mesh on a server of its own")
async def test_whoever_may_not_ask_the_workers_is_told_so(mesh: TaskMesh) -> None:
    users = '{ user: blind, password: x, permissions: { publish: { deny: "$SRV.>" } } }'
    with EmbeddedServer(
        extra_config=f"authorization {{ users: [ {{ user: seen, password: x }}, {users} ] }}"
    ) as server:
        settings = [ConnectionSettings(servers=(server.url,), user=user, password="x") for user in ("seen", "blind")]
        async with (
            Connection.open(settings[0], name="seen", inbox_prefix="_INBOX_seen") as seen,
            Connection.open(settings[1], name="blind", inbox_prefix="_INBOX_blind") as blind,
        ):
            await ensure(seen, assets(mesh.namespace))
            headers = {TASK_NAME: "test:Record", TASK_ID: "7"}
            await seen.request(mesh.namespace.task_subject(Priority.NORMAL, Size.SMALL), b"{}", headers=headers)
            found = await TaskLookup(blind, mesh.namespace, mesh.registry).find("7")
    assert (found.state, found.why[0]) == (
        State.WAITING,
        "whether a worker serves it is not known: this user may not ask the workers",
    )


async def test_a_malformed_message_that_was_given_back_says_so(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    headers = {TASK_NAME: "test:Record", TASK_ID: "bad", "Task-Due": "soon"}
    (sequence,) = await mesh.publish_by_hand((headers, b"{}"))
    stream = mesh.namespace.tasks_stream
    client, received = mesh.connection.client, list[object]()
    inbox = client.new_inbox()
    subscription = await client.listen(inbox, received.append)
    await mesh.connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.normal-small", b'{"batch":1}', reply=inbox)
    await wait_until(lambda: received, description="somebody has it")
    await client.leave(subscription)
    found = await find(mesh, "bad")
    assert (found.state, found.sequence, found.place) == (State.PARKED, sequence, None)
    assert found.why[0].startswith("it is malformed, and becomes a dead letter in its turn: Task-Due")


async def test_a_replayed_task_says_when_it_was_put_back_and_its_trace(mesh: TaskMesh) -> None:
    mesh.register(Dies)
    mesh.allows_residue = True
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {TASK_NAME: "test:Dies", TASK_ID: "replay-x", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    await mesh.publish_by_hand((headers, b"{}"))
    first = await find(mesh, "replay-x")
    assert (first.replayed, first.trace_id) == (None, trace)
    await mesh.burst()
    (dead,) = [each async for each in dead_tasks(mesh.connection, mesh.namespace, lambda letter: True, last=2)]
    began = mesh.connection.clock.now() - timedelta(seconds=1)
    await Replayer(mesh.connection, mesh.namespace).replay(dead)

    async def is_back() -> bool:
        return (await find(mesh, "replay-x")).state is State.WAITING

    await wait_until(is_back, description="it is in its queue again")
    again = await find(mesh, "replay-x")
    assert again.replayed is not None
    assert began <= again.replayed <= mesh.connection.clock.now() + timedelta(seconds=1)
    assert again.trace_id == trace
