"""Publishes in doubt, atomic batches and groups, while the leader of the task stream ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from diracx.tasks.plumbing.callbacks import spawn_with_callback
from diracx.tasks.plumbing.embedded.cluster import ClusteredServer
from diracx.tasks.plumbing.exceptions import SendTaskError, ServerError
from diracx.tasks.plumbing.jetstream.publish import BatchMessage, publish, publish_batch
from diracx.tasks.testing import wait_until
from support.cluster import ClusterMesh
from support.spawned import ALL, After, as_parent, children

PATIENCE = 60.0
AT_ONCE = 10
BATCH = 40
"""Messages in a batch, and children in a group."""

Use = Callable[[str], Awaitable[object]]
"""Stores something under this name; an error leaves it in doubt."""


async def used_meanwhile(mesh: ClusterMesh, end: Callable[[ClusteredServer], None], use: Use) -> list[str]:
    """Use the stream from many coroutines while its leader ends.

    Returns:
        The names that were used, in order. All of them were stored, some after errors.
    """
    names: list[str] = []
    ended = asyncio.Event()

    async def run() -> None:
        while not ended.is_set():
            names.append(name := f"name{len(names)}")
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        await use(name)
                        break
                    except (SendTaskError, ServerError):
                        await asyncio.sleep(0.05)

    runs = [asyncio.create_task(run()) for _ in range(AT_ONCE)]
    await wait_until(lambda: len(names) > 2 * AT_ONCE, description="some are stored", timeout=PATIENCE)
    await mesh.end_leader(mesh.namespace.tasks_stream, end=end)
    ended.set()
    await asyncio.gather(*runs)
    return names


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(ClusteredServer.stop, id="stopped"),
        pytest.param(ClusteredServer.kill, id="killed", marks=pytest.mark.long),
    ],
)
async def test_a_publish_in_doubt_that_is_repeated_is_stored_once_also_at_the_next_leader(
    cluster_mesh: ClusterMesh, end: Callable[[ClusteredServer], None]
) -> None:
    mesh, subject = cluster_mesh, f"{cluster_mesh.namespace.name}.tasks.normal.small"

    async def store(name: str) -> bool:
        return (await publish(mesh.connection, subject, b"{}", {"Nats-Msg-Id": name}, timeout=2)).duplicate

    names = await used_meanwhile(mesh, end, store)
    # The window of duplicates is that of the old leader.
    assert await store(names[0])
    stored = Counter(message.headers["Nats-Msg-Id"] for message in await mesh.stored(mesh.namespace.tasks_stream))
    assert stored == Counter(names)


@pytest.mark.long
async def test_a_batch_in_doubt_is_stored_whole_or_not_at_all(cluster_mesh: ClusterMesh) -> None:
    mesh, subject = cluster_mesh, f"{cluster_mesh.namespace.name}.tasks.normal.small"
    tries = Counter[str]()
    acknowledged: list[str] = []

    async def store(name: str) -> None:
        tries[name] += 1
        batch = f"{name} {tries[name]}"
        await publish_batch(mesh.connection, [BatchMessage(subject, b"{}", {"Batch": batch})] * BATCH, timeout=2)
        acknowledged.append(batch)

    await used_meanwhile(mesh, ClusteredServer.kill, store)
    stored = Counter(message.headers["Batch"] for message in await mesh.stored(mesh.namespace.tasks_stream))
    assert set(stored.values()) == {BATCH}
    assert set(acknowledged) <= set(stored)


@pytest.mark.long
async def test_a_group_that_is_spawned_again_after_an_error_has_each_child_once(cluster_mesh: ClusterMesh) -> None:
    mesh = cluster_mesh
    mesh.register(*ALL)

    async def spawn(name: str) -> None:
        await as_parent(partial(spawn_with_callback, children(BATCH), After()), name)

    names = await used_meanwhile(mesh, ClusteredServer.kill, spawn)
    stored = Counter(message.headers["Task-Id"] for message in await mesh.stored(mesh.namespace.tasks_stream))
    assert set(stored.values()) == {1}
    parents = Counter(message.headers["Task-Parent"] for message in await mesh.stored(mesh.namespace.tasks_stream))
    assert parents == Counter(dict.fromkeys(names, BATCH))
