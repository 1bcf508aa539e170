"""A worker that waits on three queues loses no delivery that comes by way of another server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from diracx.tasks.plumbing.embedded.cluster import EmbeddedCluster
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.cluster import replicated
from support.pull_client import BACKGROUND, NORMAL, REALTIME, PullClient, pull_beside_a_trickle, pulling
from support.queues import remove_mesh, set_ack_wait

NEVER = 3600.0


@pytest.fixture
async def puller(cluster: EmbeddedCluster, namespace: str) -> AsyncIterator[PullClient]:
    names = Namespace(namespace)
    async with replicated(cluster.url, namespace) as connection:
        await set_ack_wait(connection, names, NEVER, [Size.SMALL])
        async with pulling(connection, names) as puller:
            yield puller
        await remove_mesh(connection, names)


async def test_waits_beside_a_trickle_of_tasks_lose_no_delivery_from_another_server(puller: PullClient) -> None:
    settled = await pull_beside_a_trickle(puller, puller.connection, 500, limit=90)
    assert settled.again == 0


async def test_the_polls_that_an_arrival_did_not_end_serve_the_next_wait(puller: PullClient) -> None:
    for priority in (NORMAL, REALTIME, BACKGROUND):
        waiting = await puller.polling()
        await puller.put(priority, priority)
        assert await waiting == ""
    assert puller.bodies == [NORMAL, REALTIME, BACKGROUND]
    # Between two waits they take one message each.
    await puller.put(NORMAL, "between")
    await wait_until(lambda: len(puller.delivered) == 4, description="a poll that stands delivers it", timeout=30)
    assert await puller.waiting_pulls() == 1
    waiting = await puller.polling()
    puller.pull.wake("stopping")
    assert await waiting == "stopping"
    assert await puller.waiting_pulls() == 3
    assert await puller.in_flight() == 4


async def test_a_pull_that_stops_withdraws_its_polls(puller: PullClient) -> None:
    waiting = await puller.polling()
    puller.pull.wake()
    assert await waiting == ""
    await puller.pull.stop()

    async def all_withdrawn() -> bool:
        return await puller.waiting_pulls() == 0

    await wait_until(all_withdrawn, description="no pull waits", timeout=30)
