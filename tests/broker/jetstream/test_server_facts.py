"""What the server does and this system leans on; a release that does otherwise fails here first."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.clock import LATEST_TIME
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.errors import WRONG_LAST_SEQUENCE, ApiError
from diracx.tasks.plumbing.jetstream.headers import SCHEDULE, schedule_headers
from diracx.tasks.plumbing.jetstream.publish import PubAck, publish
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import to_rfc3339
from diracx.tasks.testing import wait_until

QUEUE = "normal-small"


class Queue:
    """The queue of small tasks, spoken to in the bare protocol."""

    def __init__(self, connection: Connection, names: Namespace) -> None:
        self.connection = connection
        self.names = names
        self.subject = names.task_subject(Priority.NORMAL, Size.SMALL)

    async def put(self, *bodies: bytes) -> None:
        for body in bodies:
            await publish(self.connection, self.subject, body, {})

    async def next(self) -> Delivery | None:
        """One message, if there is one now."""
        client = self.connection.client
        inbox = client.new_inbox()
        replies = await client.subscribe(inbox)
        await client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self.names.tasks_stream}.{QUEUE}", b'{"batch":1,"no_wait":true}', reply=inbox
        )
        answer = await replies.next_msg(5)
        await replies.unsubscribe()
        if not answer.reply:
            return None
        return Delivery(self.connection, Received(b"", answer.reply.encode(), b"", answer.data), 0.0)

    async def take(self) -> Delivery:
        """The next message, waiting for it."""
        found: list[Delivery] = []

        async def came() -> bool:
            if (delivery := await self.next()) is not None:
                found.append(delivery)
            return bool(found)

        await wait_until(came, description="a message came")
        return found[0]

    async def info(self) -> dict[str, Any]:
        return await self.connection.api(f"CONSUMER.INFO.{self.names.tasks_stream}.{QUEUE}")

    async def left(self) -> int:
        info = await self.connection.api(f"STREAM.INFO.{self.names.tasks_stream}")
        return int(info["state"]["messages"])

    async def edit(self, **fields: Any) -> None:
        stream, config = self.names.tasks_stream, (await self.info())["config"]
        subject = f"CONSUMER.CREATE.{stream}.{QUEUE}.{config['filter_subject']}"
        await self.connection.api(subject, {"stream_name": stream, "config": {**config, **fields}})


@pytest.fixture
def queue(connection: Connection, topology: Namespace) -> Queue:
    return Queue(connection, topology)


async def store(connection: Connection, subject: str, headers: dict[str, str]) -> PubAck | int:
    try:
        return await publish(connection, subject, b"x", headers)
    except ApiError as error:
        return error.err_code


async def test_an_ack_of_a_work_queue_removes_the_message(queue: Queue) -> None:
    await queue.put(b"a")
    (await queue.take()).ack()
    await wait_until(lambda: _settled(queue), description="the message is gone")


async def _settled(queue: Queue) -> bool:
    return await queue.left() == 0 and (await queue.info())["num_ack_pending"] == 0


async def test_a_nak_with_a_delay_brings_the_message_back_no_earlier_and_lets_others_pass(queue: Queue) -> None:
    await queue.put(b"a")
    first = await queue.take()
    begun = time.monotonic()
    first.nak(timedelta(seconds=0.4))
    await queue.put(b"b")
    assert (await queue.take()).body == b"b"
    again = await queue.take()
    assert (again.body, again.delivered, again.sequence) == (b"a", 2, first.sequence)
    assert time.monotonic() - begun >= 0.4


async def test_a_beat_is_answered_and_starts_ack_wait_anew(queue: Queue) -> None:
    await queue.edit(ack_wait=1_000_000_000)
    await queue.put(b"beaten", b"left")
    beaten, left = await queue.take(), await queue.take()
    came = [left]

    async def beat_until_the_other_came_twice() -> bool:
        await beaten.in_progress(timeout=5)
        if (delivery := await queue.next()) is not None:
            came.append(delivery)
        return len(came) == 3

    await wait_until(beat_until_the_other_came_twice, description="two ack_waits have passed")
    assert [(delivery.body, delivery.delivered) for delivery in came] == [(b"left", 1), (b"left", 2), (b"left", 3)]
    left.ack()
    # Without beats it comes back.
    again = await queue.take()
    assert (again.body, again.delivered) == (b"beaten", 2)


async def test_a_stale_beat_is_answered_like_a_valid_one(queue: Queue) -> None:
    # So an answer proves nothing once a message was settled: never beat after settling.
    await queue.put(b"a")
    delivery = await queue.take()
    delivery.ack()
    await wait_until(lambda: _settled(queue), description="the message is gone")
    await delivery.in_progress(timeout=5)


async def advisory(connection: Connection, names: Namespace, kind: str) -> dict[str, Any]:
    """The last of its kind that the stream of dead letters keeps."""
    subject = f"$JS.EVENT.ADVISORY.CONSUMER.{kind}.{names.tasks_stream}.{QUEUE}"
    stream = names.dead_letters_stream

    async def came() -> bool:
        state = (await connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": subject}))["state"]
        return bool(state.get("subjects"))

    await wait_until(came, description=f"the advisory {kind} was stored")
    found = (await connection.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}))["message"]
    body: dict[str, Any] = json.loads(b64decode(found["data"]))
    return body


async def test_a_term_removes_the_message_and_its_reason_is_in_the_advisory(queue: Queue) -> None:
    await queue.put(b"a")
    delivery = await queue.take()
    delivery.term('no retry is left:\n"ValueError"  ümlaut')
    told = await advisory(queue.connection, queue.names, "MSG_TERMINATED")
    assert told["reason"] == 'no retry is left: "ValueError" ümlaut'
    assert (told["stream_seq"], told["deliveries"]) == (delivery.sequence, 1)
    await wait_until(lambda: _settled(queue), description="the message is gone")


async def test_the_revision_of_a_key_is_deleted_without_a_trace(connection: Connection, topology: Namespace) -> None:
    bucket = topology.locks_bucket
    stored = await publish(connection, f"$KV.{bucket}.k", b"v", {"Nats-TTL": "30s"})
    await connection.api(f"STREAM.MSG.DELETE.KV_{bucket}", {"seq": stored.seq, "no_erase": True})
    state = (await connection.api(f"STREAM.INFO.KV_{bucket}", {"subjects_filter": ">"}))["state"]
    assert (state["messages"], state.get("subjects"), state.get("num_deleted", 0)) == (0, None, 0)
    again = await publish(connection, f"$KV.{bucket}.k", b"v", {"Nats-Expected-Last-Subject-Sequence": "0"})
    assert again.seq > stored.seq


async def test_what_expects_to_be_the_first_on_its_subject_is_stored_once(
    connection: Connection, topology: Namespace
) -> None:
    first = {"Nats-Expected-Last-Subject-Sequence": "0"}
    subject = topology.dead_letter_subject("test:Greet", 7)
    outcomes = await asyncio.gather(*(store(connection, subject, first) for _ in range(10)))
    assert sum(isinstance(outcome, PubAck) for outcome in outcomes) == 1
    assert outcomes.count(WRONG_LAST_SEQUENCE) == 9
    other = await store(connection, topology.dead_letter_subject("test:Greet", 8), first)
    assert isinstance(other, PubAck)


async def test_a_message_id_is_stored_once_though_its_message_was_acknowledged(queue: Queue) -> None:
    headers = {"Nats-Msg-Id": "0192"}
    stored = await publish(queue.connection, queue.subject, b"a", headers)
    assert not stored.duplicate
    (await queue.take()).ack()
    await wait_until(lambda: _settled(queue), description="the message is gone")
    again = await publish(queue.connection, queue.subject, b"a", headers)
    assert (again.duplicate, again.seq) == (True, stored.seq)
    assert await queue.left() == 0


async def test_neither_retries_nor_waiting_tasks_count_against_a_limit_of_the_queue(queue: Queue) -> None:
    await queue.put(*(b"%d" % number for number in range(60)))
    for _ in range(60):
        (await queue.take()).nak(timedelta(seconds=60))
    await queue.put(b"fresh")
    assert (await queue.take()).body == b"fresh"
    assert (await queue.info())["num_ack_pending"] == 61


async def test_a_schedule_is_held_until_2262_and_a_later_one_is_taken_for_any_other_time(
    connection: Connection, topology: Namespace
) -> None:
    target = topology.due_subject(Priority.NORMAL, Size.SMALL)
    # The server counts nanoseconds in 64 bits: 2300 wraps to a past time, and 1500 to one in 2084.
    times = {"last": LATEST_TIME, "late": datetime(2300, 1, 1, tzinfo=UTC), "early": datetime(1500, 1, 1, tzinfo=UTC)}
    for name, moment in times.items():
        headers = {**schedule_headers(LATEST_TIME, target), SCHEDULE: f"@at {to_rfc3339(moment)}"}
        await publish(connection, topology.delayed_subject(name), name.encode(), headers)

    async def fired() -> bool:
        info = await connection.api(f"STREAM.INFO.{topology.tasks_stream}")
        return bool(info["state"]["messages"])

    await wait_until(fired, description="the one of 2300 has fired")
    info = await connection.api(f"STREAM.INFO.{topology.later_stream}", {"subjects_filter": ">"})
    held = [name for name in times if topology.delayed_subject(name) in info["state"]["subjects"]]
    assert held == ["last", "early"]
