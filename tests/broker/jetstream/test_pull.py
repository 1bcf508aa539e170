"""Our own pull: strict priority, never more than asked, and nothing lost when an inbox is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.pull_client import (
    BACKGROUND,
    NORMAL,
    REALTIME,
    PullClient,
    labels,
    pull_beside_a_trickle,
    pulling,
)

pytestmark = pytest.mark.one_server("a cluster leaves polls standing, and shows a message a moment after its PubAck")


@pytest.fixture
async def puller(connection: Connection, topology: Namespace) -> AsyncIterator[PullClient]:
    async with pulling(connection, topology) as puller:
        yield puller


async def test_the_most_urgent_come_first_and_each_queue_in_its_order(puller: PullClient) -> None:
    await puller.put(BACKGROUND, *labels("b", 4))
    await puller.put(NORMAL, *labels("n", 4))
    await puller.put(REALTIME, *labels("r", 4))
    assert await puller.pull.probe(100) == (12, None)
    assert puller.bodies == labels("r", 4) + labels("n", 4) + labels("b", 4)


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 7])
async def test_a_probe_takes_what_is_most_urgent_and_never_more_than_asked(puller: PullClient, slots: int) -> None:
    await puller.put(BACKGROUND, *labels("b", 4))
    await puller.put(NORMAL, *labels("n", 4))
    await puller.put(REALTIME, *labels("r", 4))
    taken: list[int] = []
    while sum(taken) < 12:
        count, problem = await puller.pull.probe(slots)
        assert problem is None
        assert 0 < count <= slots
        taken.append(count)
        assert len(puller.delivered) == sum(taken) == await puller.in_flight()
    assert puller.bodies == labels("r", 4) + labels("n", 4) + labels("b", 4)
    assert await puller.pull.probe(slots) == (0, None)


async def test_what_is_more_urgent_overtakes_what_waits_longer(puller: PullClient) -> None:
    await puller.put(BACKGROUND, *labels("b", 3))
    assert await puller.pull.probe(1) == (1, None)
    await puller.put(REALTIME, "r")
    await puller.put(NORMAL, "n")
    for _ in range(4):
        # A queue seen empty a moment ago is passed over: look until what was put there is not new any more.
        await asyncio.sleep(0.003)
        assert await puller.pull.probe(1) == (1, None)
    assert puller.bodies == ["b0", "r", "n", "b1", "b2"]


async def test_empty_queues_answer_at_once_and_again(puller: PullClient) -> None:
    for _ in range(5):
        assert await puller.pull.probe(10) == (0, None)
    assert puller.pull.last_answer is not None
    assert await puller.in_flight() == 0


async def test_a_delivery_says_where_it_stands(puller: PullClient) -> None:
    before = datetime.now(UTC)
    await puller.put(NORMAL, "a")
    await publish(puller.connection, puller.names.task_subject(NORMAL, Size.SMALL), b"b", {"Task-Name": "t:B"})
    await puller.pull.probe(10)
    first, second = puller.delivered
    assert (first.sequence, first.delivered, first.body, first.headers) == (1, 1, b"a", None)
    assert (second.sequence, second.delivered, second.headers) == (2, 1, {"Task-Name": "t:B"})
    assert first.subject == puller.names.task_subject(NORMAL, Size.SMALL)
    assert before - timedelta(seconds=1) <= first.stored <= second.stored <= datetime.now(UTC) + timedelta(seconds=1)
    first.nak()
    await wait_until(lambda: puller.probed(3), description="it came again")
    assert (puller.delivered[2].sequence, puller.delivered[2].delivered) == (1, 2)
    assert puller.delivered[2].stored_ns == first.stored_ns


async def test_the_first_arrival_ends_a_wait(puller: PullClient) -> None:
    for priority in (NORMAL, REALTIME, BACKGROUND):
        waiting = await puller.polling()
        await puller.put(priority, priority)
        assert await waiting == ""
        # The other polls are gone with their inboxes: a later message goes to nobody.
        assert await puller.pull.probe(1) == (0, None)
    assert puller.bodies == [NORMAL, REALTIME, BACKGROUND]
    await puller.put(NORMAL, "later")
    assert len(puller.delivered) == 3
    assert await puller.in_flight() == 3


@pytest.mark.parametrize(("slots", "most"), [(1, 3), (2, 3), (3, 3), (5, 5), (100, 100)])
async def test_a_wait_asks_for_no_more_than_the_slots_or_one_of_each(
    connection: Connection, puller: PullClient, slots: int, most: int
) -> None:
    waiting = await puller.polling(slots)
    for _ in range(100):
        for priority in Priority:
            await connection.publish(puller.names.task_subject(priority, Size.SMALL), b"x")
    assert await waiting == ""
    # The server counts in hand, too, what it was about to send to an inbox just left.
    assert 1 <= len(puller.delivered) <= await puller.in_flight() <= most


async def test_waits_and_probes_beside_a_trickle_of_tasks_lose_and_double_nothing(
    server: EmbeddedServer, puller: PullClient
) -> None:
    async with Connection.open(
        ConnectionSettings(servers=(server.url,)), name="a producer", inbox_prefix="_INBOX_producer"
    ) as producer:
        settled = await pull_beside_a_trickle(puller, producer, 500, limit=25)
    # One that the server was about to send to an inbox just left is sent anew at once, and counted.
    assert settled.again <= 10
    await wait_until(lambda: _nothing_left(puller), description="everything is settled")


async def _nothing_left(puller: PullClient) -> bool:
    return await puller.left() == 0 and await puller.in_flight() == 0


async def test_a_poll_that_is_given_up_takes_nothing_with_it(puller: PullClient) -> None:
    # Given up while messages are on their way: each is delivered once, or stays in its queue.
    async def give_up_while_they_come(number: int) -> None:
        waiting = await puller.polling()
        publishing = [asyncio.create_task(puller.put(priority, f"{priority}{number}")) for priority in Priority]
        if number % 2:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting, *publishing])

    rounds = 20
    async with asyncio.timeout(25):
        for number in range(rounds):
            await give_up_while_they_come(number)
            while len(puller.delivered) < 3 * (number + 1):
                await puller.pull.probe(100)
    assert sorted(puller.bodies) == sorted(f"{priority}{n}" for priority in Priority for n in range(rounds))
    assert await puller.in_flight() == len(puller.delivered)


async def test_wake_ends_a_wait_and_says_why(puller: PullClient) -> None:
    waiting = await puller.polling()
    puller.pull.wake("stopping")
    assert await waiting == "stopping"
    assert puller.delivered == []
    waiting = await puller.polling()
    puller.pull.wake()
    assert await waiting == ""


async def test_a_wait_after_a_wake_waits(puller: PullClient) -> None:
    puller.pull.wake("stopping")
    waiting = await puller.polling()
    assert not waiting.done()
    puller.pull.wake()
    await waiting


async def delete_consumer(puller: PullClient, priority: Priority) -> None:
    consumer = puller.names.consumer(priority, Size.SMALL)
    await puller.connection.api(f"CONSUMER.DELETE.{puller.names.tasks_stream}.{consumer}")


async def test_a_queue_that_is_deleted_meanwhile_ends_the_wait_as_a_problem(puller: PullClient) -> None:
    waiting = await puller.polling()
    await delete_consumer(puller, NORMAL)
    assert await waiting == "409 Consumer Deleted"


async def test_a_queue_that_is_missing_is_a_problem_for_probe_and_wait(puller: PullClient) -> None:
    await puller.put(REALTIME, "r")
    await delete_consumer(puller, NORMAL)
    async with asyncio.timeout(8):
        count, problem = await puller.pull.probe(10)
        assert (count, puller.bodies) == (1, ["r"])
        assert problem is not None
        assert problem.startswith("503")
        assert (await puller.pull.wait(10)).startswith("503")


async def test_a_stream_that_is_missing_is_a_problem_at_once(connection: Connection, names: Namespace) -> None:
    async with pulling(connection, names) as puller, asyncio.timeout(8):
        count, problem = await puller.pull.probe(10)
        assert count == 0
        assert problem is not None
        assert problem.startswith("503")
