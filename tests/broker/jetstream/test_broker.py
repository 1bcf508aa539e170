"""Tasks that a broker submits: the stored message, and the error for each refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.clock import LATEST_TIME
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import MalformedTaskError, SendTaskError, TaskDefinitionError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.submitter import current_task_id
from diracx.tasks.plumbing.wire.envelope import DEAD_LETTER_BYTES
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import from_rfc3339
from diracx.tasks.testing import wait_until
from support.queues import edit_stream
from support.sample_tasks import Greet, connect, count, message, registry


class Unregistered(BaseTask):
    async def execute(self) -> None: ...


@pytest.fixture
async def broker(server: EmbeddedServer, names: Namespace) -> AsyncIterator[JetStreamBroker]:
    async with connect(server, names) as broker:
        yield broker


async def test_a_task_is_stored_under_its_id_before_schedule_returns(broker: JetStreamBroker) -> None:
    before = datetime.now(UTC)
    task_id = await Greet("alice").schedule(labels={"vo": "lhcb", "note": "ü"})
    subject, headers, body = await message(broker.connection, broker.namespace.tasks_stream, 1)
    assert subject == f"{broker.namespace.name}.tasks.realtime.small"
    assert body == b'{"name":"alice","times":1}'
    submitted = headers.pop("Task-Submitted")
    slack = timedelta(seconds=2)  # the time is the server's, known to within half a round trip
    assert before - slack <= from_rfc3339(submitted) <= datetime.now(UTC) + slack
    assert headers == {
        "Task-Name": "test:Greet",
        "Task-Id": task_id,
        "Task-Version": "1",
        "Nats-Msg-Id": task_id,
        "Task-Labels": r'{"vo":"lhcb","note":"\u00fc"}',
    }


async def test_labels_are_any_json_and_others_are_refused_before_anything_is_stored(broker: JetStreamBroker) -> None:
    await Greet("alice").schedule(labels={"n": 1, "tags": ["a"], "none": None, "x": {"y": 1.5}})
    _, headers, _ = await message(broker.connection, broker.namespace.tasks_stream, 1)
    assert headers["Task-Labels"] == '{"n":1,"tags":["a"],"none":null,"x":{"y":1.5}}'
    with pytest.raises(MalformedTaskError, match=r"^the label 'tags' is tuple \('a',\)"):
        await Greet("alice").schedule(labels={"tags": ("a",)})
    with pytest.raises(MalformedTaskError, match=r"^the labels are a list; write a mapping"):
        await Greet("alice").schedule(labels=["tags"])  # type: ignore[arg-type]
    with pytest.raises(MalformedTaskError, match=r"^the label 'n' is float nan"):
        await broker.submit_many([Greet("a"), Greet("b")], labels={"n": float("nan")})
    with pytest.raises(MalformedTaskError, match="the largest is 'long'"):
        await Greet("alice").schedule(labels={"long": "x" * 70_000}, at_time=datetime.now(UTC) + timedelta(hours=1))
    assert await count(broker.connection, broker.namespace.tasks_stream) == 1
    assert await count(broker.connection, broker.namespace.later_stream) == 0


async def test_what_a_task_submits_names_it_as_its_parent(broker: JetStreamBroker) -> None:
    async def executing() -> None:
        current_task_id.set("0192")
        await Greet("alice").schedule()

    await asyncio.create_task(executing())
    await Greet("alice").schedule()
    stream = broker.namespace.tasks_stream
    assert (await message(broker.connection, stream, 1))[1]["Task-Parent"] == "0192"
    assert "Task-Parent" not in (await message(broker.connection, stream, 2))[1]


async def test_the_same_id_is_stored_once_even_after_the_task_was_taken(broker: JetStreamBroker) -> None:
    task_id = await Greet("alice").schedule()
    stream, connection = broker.namespace.tasks_stream, broker.connection
    subject, headers, body = await message(connection, stream, 1)
    assert headers["Nats-Msg-Id"] == task_id
    again = await publish(connection, subject, body, headers)
    assert (again.duplicate, again.seq) == (True, 1)
    await connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 1})
    assert (await publish(connection, subject, body, headers)).duplicate
    assert await count(connection, stream) == 0


async def test_every_submission_is_a_task_of_its_own(broker: JetStreamBroker) -> None:
    task = Greet("alice")
    assert len({await task.schedule() for _ in range(5)}) == 5
    assert await count(broker.connection, broker.namespace.tasks_stream) == 5


async def test_a_full_stream_is_an_error_that_names_it_and_the_mend(broker: JetStreamBroker) -> None:
    stream = broker.namespace.tasks_stream
    task_id = await Greet("a").schedule()
    kept = (await broker.connection.api(f"STREAM.INFO.{stream}"))["state"]["bytes"]
    await edit_stream(broker.connection, stream, max_bytes=kept + 10)
    with pytest.raises(SendTaskError, match=rf"stream {stream} is full \(maximum bytes exceeded\).*edit {stream}"):
        await Greet("a").schedule()
    assert (await message(broker.connection, stream, 1))[1]["Task-Id"] == task_id


async def test_a_stream_that_is_missing_is_an_error_that_names_it(broker: JetStreamBroker) -> None:
    stream = broker.namespace.tasks_stream
    await broker.connection.api(f"STREAM.DELETE.{stream}")
    with pytest.raises(SendTaskError, match=f"no stream takes .*realtime.small: create {stream} with"):
        await Greet("a").schedule()


async def test_a_stream_that_comes_meanwhile_takes_the_task(broker: JetStreamBroker) -> None:
    # As during an election of its leader: nobody answers for a moment.
    stream, connection = broker.namespace.tasks_stream, broker.connection
    config = (await connection.api(f"STREAM.INFO.{stream}"))["config"]
    await connection.api(f"STREAM.DELETE.{stream}")
    submitting = asyncio.create_task(Greet("a").schedule())
    await asyncio.sleep(0)
    await connection.api(f"STREAM.CREATE.{stream}", config)
    await submitting
    assert await count(connection, stream) == 1


async def test_a_task_that_is_too_large_is_refused_with_both_sizes(broker: JetStreamBroker) -> None:
    with pytest.raises(SendTaskError, match=r"realtime\.small did not take the task: .* over .* max_payload, 1048576"):
        await Greet("a" * 1_100_000).schedule()
    # The largest that is taken has room for the headers of a dead letter, which would not leave its queue otherwise.
    most = broker.connection.max_payload - DEAD_LETTER_BYTES - len('{"name":"","times":1}')
    with pytest.raises(SendTaskError, match=rf"fields are {most + 22} bytes .* store the data elsewhere"):
        await Greet("a" * (most + 1)).schedule()
    await Greet("a" * most).schedule()


async def test_without_a_server_it_is_an_error_in_time(own_server: EmbeddedServer) -> None:
    async with JetStreamBroker.connect(own_server.url, registry=registry()) as connected:
        impatient = JetStreamBroker(connected.connection, connected.namespace, connected.registry, timeout=0.2)
        own_server.kill()
        await wait_until(lambda: not connected.connection.is_connected, description="the connection is lost")
        with pytest.raises(SendTaskError, match="not connected"):
            await impatient.submit(Greet("a"))
        submitting = asyncio.create_task(Greet("a").schedule())
        await asyncio.to_thread(own_server.start)
        assert len(await submitting) == 32
        assert await count(connected.connection, connected.namespace.tasks_stream) == 1


async def test_a_task_for_later_arrives_in_its_queue_when_it_is_due(broker: JetStreamBroker) -> None:
    connection, names = broker.connection, broker.namespace
    due = datetime.now(UTC) + timedelta(seconds=0.7)
    task_id = await Greet("alice").schedule(at_time=due, labels={"vo": "lhcb", "n": [1]})
    assert await count(connection, names.tasks_stream) == 0
    subject, headers, body = await message(connection, names.later_stream, 1)
    assert subject == f"{names.name}.delayed.{task_id}"
    when = due.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert (
        headers.items()
        >= {
            "Nats-Schedule": f"@at {when}",
            "Nats-Schedule-Target": f"{names.name}.due.realtime.small",
            "Nats-Schedule-TTL": "720h",
            "Task-Due": when,
            "Nats-Msg-Id": task_id,
        }.items()
    )

    async def has_come() -> bool:
        return await count(connection, names.tasks_stream) == 1

    await wait_until(has_come, description="the task is due")
    assert datetime.now(UTC) >= due
    subject, arrived, arrived_body = await message(connection, names.tasks_stream, 1)
    assert subject == f"{names.name}.tasks.realtime.small"
    assert arrived_body == body == b'{"name":"alice","times":1}'
    ours = {name: value for name, value in headers.items() if name.startswith("Task-")}
    assert {name: value for name, value in arrived.items() if name.startswith("Task-")} == ours
    assert ours["Task-Id"] == task_id


async def test_a_time_in_the_past_means_at_once(broker: JetStreamBroker) -> None:
    await Greet("alice").schedule(at_time=datetime.now(UTC) - timedelta(days=1))
    await Greet("bob").schedule(at_time=datetime.min.replace(tzinfo=UTC))
    _, headers, _ = await message(broker.connection, broker.namespace.tasks_stream, 1)
    assert "Task-Due" not in headers
    assert await count(broker.connection, broker.namespace.later_stream) == 0


async def test_a_naive_time_is_refused_with_the_task_and_the_remedy_and_nothing_is_stored(
    broker: JetStreamBroker,
) -> None:
    with pytest.raises(ValueError, match="test:Greet") as refused:
        await Greet("alice").schedule(at_time=datetime(2030, 1, 1))  # noqa: DTZ001 - the mistake
    assert "2030-01-01T00:00:00 has no time zone; use e.g. datetime.now(UTC)" in str(refused.value)
    with pytest.raises(TypeError, match=r"test:Greet cannot be scheduled at '2030-01-01'; give an aware datetime"):
        await Greet("alice").schedule(at_time="2030-01-01")  # type: ignore[arg-type]
    assert await count(broker.connection, broker.namespace.tasks_stream) == 0
    assert await count(broker.connection, broker.namespace.later_stream) == 0


@pytest.mark.parametrize(
    "late",
    [
        LATEST_TIME + timedelta(microseconds=1),
        datetime(5000, 1, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
    ],
    ids=str,
)
async def test_a_time_that_the_server_cannot_hold_is_refused_and_nothing_is_stored(
    broker: JetStreamBroker, late: datetime
) -> None:
    with pytest.raises(ValueError, match=r"test:Greet cannot be scheduled at .* (is too late|is out of range)"):
        await Greet("alice").schedule(at_time=late)
    assert await count(broker.connection, broker.namespace.tasks_stream) == 0
    assert await count(broker.connection, broker.namespace.later_stream) == 0


async def test_what_cannot_be_a_message_is_refused_before_anything_is_sent(broker: JetStreamBroker) -> None:
    with pytest.raises(TaskDefinitionError, match="Unregistered is not registered"):
        await Unregistered().schedule()
    with pytest.raises(MalformedTaskError, match="Greet"):
        await Greet(object()).schedule()  # type: ignore[arg-type]
    with pytest.raises(MalformedTaskError, match=r"^Greet: Expected `int`, got `str` - at `\$\.times`$"):
        await Greet("a", "5").schedule()  # type: ignore[arg-type]
    with pytest.raises(MalformedTaskError, match=r"^Greet: the value at \$\.name is UUID.*, and would arrive as '0"):
        await broker.submit_many([Greet("a"), Greet(UUID(int=1))])  # type: ignore[arg-type]
    with pytest.raises(TaskDefinitionError):
        await broker.submit_many([Greet("a"), Unregistered()])
    assert await count(broker.connection, broker.namespace.tasks_stream) == 0


async def test_many_tasks_are_stored_and_their_ids_come_in_order(broker: JetStreamBroker) -> None:
    ids = await broker.submit_many((Greet("a", number) for number in range(5000)), labels={"run": "7"})
    assert len(set(ids)) == 5000
    stream = broker.namespace.tasks_stream
    assert await count(broker.connection, stream) == 5000
    for sequence in (1, 2500, 5000):
        _, headers, body = await message(broker.connection, stream, sequence)
        assert body == b'{"name":"a","times":%d}' % ids.index(headers["Task-Id"])
        assert headers["Task-Labels"] == '{"run":"7"}'
    assert await broker.submit_many([]) == []


async def test_the_earlier_name_of_submit_many_works_too(broker: JetStreamBroker) -> None:
    assert len(await broker.schedule_many([Greet("a"), Greet("b")])) == 2
    assert await count(broker.connection, broker.namespace.tasks_stream) == 2


async def test_when_some_of_many_are_refused_their_positions_are_told(broker: JetStreamBroker) -> None:
    tasks = [Greet("a" * 1_100_000 if number in (3, 700) else "a", number) for number in range(800)]
    with pytest.raises(SendTaskError, match=r"2 of 800 tasks were not stored; the first: .*max_payload") as caught:
        await broker.submit_many(tasks)
    assert caught.value.unsent == (3, 700)
    assert await count(broker.connection, broker.namespace.tasks_stream) == 798


async def test_when_many_fill_the_stream_those_left_out_are_told(broker: JetStreamBroker) -> None:
    stream = broker.namespace.tasks_stream
    await edit_stream(broker.connection, stream, max_bytes=20_000)
    with pytest.raises(SendTaskError, match=f"stream {stream} is full") as caught:
        await broker.submit_many(Greet("a", number) for number in range(300))
    stored = set()
    for sequence in range(1, await count(broker.connection, stream) + 1):
        body = (await message(broker.connection, stream, sequence))[2]
        stored.add(int(body.removeprefix(b'{"name":"a","times":').removesuffix(b"}")))
    assert set(caught.value.unsent) == set(range(300)) - stored
    assert stored
