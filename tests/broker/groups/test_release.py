"""The callback of a group is released once: beside the end of its time, withdrawn, and while the server is killed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.execution.job import Discarded, Outcome, Succeeded
from diracx.tasks.plumbing.groups.completions import GroupCompletions
from diracx.tasks.plumbing.groups.records import Ended, callback_id
from diracx.tasks.plumbing.groups.store import Change, JetStreamGroupStore
from diracx.tasks.plumbing.jetstream.headers import without_server_headers
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.wire.envelope import TASK_DUE
from diracx.tasks.plumbing.wire.times import from_rfc3339
from diracx.tasks.testing import wait_until
from support.group_tasks import After, Child, after_callback, called, completed, delayed
from support.groups import StoredGroup, store_group
from support.mesh import TaskMesh

HOUR = timedelta(hours=1)
LATER = "2100-01-01T00:00:00Z"


async def test_a_release_that_races_with_the_end_of_the_time_gives_one_callback(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    chance = random.Random(20261126)
    count = 40

    async def race(number: int) -> StoredGroup:
        ttl = timedelta(seconds=chance.uniform(0.5, 1.0))
        group = await store_group(mesh, [Child()], After(), group=f"g{number}", ttl=ttl, queued=False)
        due = (await group.record()).spawned + ttl + timedelta(seconds=chance.uniform(-0.05, 0.3))
        await wait_until(lambda: mesh.connection.clock.now() >= due, description="it is about time")
        await completed(group, GroupCompletions(group.store, mesh.connection.clock), 0)
        return group

    groups = await asyncio.gather(*map(race, range(count)))
    ended = Counter([(await group.record()).ended for group in groups])
    assert set(ended) <= {Ended.COMPLETE, Ended.EXPIRED}

    async def all_are_there() -> bool:
        return await mesh.waiting() >= count

    await wait_until(all_are_there, description="all callbacks are due")
    await wait_until(lambda: _nothing_is_delayed(mesh), description="none waits for its time")
    await mesh.burst()
    assert Counter(group for group, _ in called) == Counter({group.id: 1 for group in groups})


async def _nothing_is_delayed(mesh: TaskMesh) -> bool:
    return not await delayed(mesh)


async def test_a_callback_that_was_withdrawn_does_not_run(mesh: TaskMesh, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    group = await store_group(mesh, [Child()], After())
    assert await mesh.broker.cancel(callback_id(group.id))
    await mesh.burst()
    assert (await group.record()).ended is Ended.CANCELLED
    assert "its callback test:After was withdrawn, and does not run" in caplog.text
    assert not await mesh.waiting()


async def test_a_released_callback_is_due_when_it_is_released(mesh: TaskMesh) -> None:
    group = await store_group(mesh, [Child()], After(), ttl=HOUR, callback_headers={TASK_DUE: LATER}, queued=False)
    await completed(group, GroupCompletions(group.store, mesh.connection.clock), 0)
    await wait_until(mesh.waiting, description="the callback is due")
    (message,) = await mesh.stored(mesh.namespace.tasks_stream)
    assert message.stored - from_rfc3339(message.headers[TASK_DUE]) < HOUR / 60
    assert message.headers["Task-Callback"] == group.id
    await mesh.burst()


async def test_a_callback_that_the_server_lets_go_twice_runs_once_and_its_replay_runs_again(mesh: TaskMesh) -> None:
    group = await store_group(mesh, [Child()], After(), queued=False)
    await completed(group, GroupCompletions(group.store, mesh.connection.clock), 0)
    await wait_until(mesh.waiting, description="the callback is due")
    # What a server that is killed while it fires a schedule does after its restart.
    due = mesh.namespace.due_subject(After.priority, After.size)
    (fired,) = await mesh.stored(mesh.namespace.later_stream, due)
    headers = without_server_headers(fired.headers)
    await publish(mesh.connection, due, fired.body, headers)

    async def both_wait() -> bool:
        return await mesh.waiting() == 2

    await wait_until(both_wait, description="both are in the queue")
    ended: list[Outcome] = []
    await mesh.burst(on_outcome=lambda task, task_id, outcome: ended.append(outcome))
    assert len(called) == 1
    assert Counter(map(type, ended)) == {Succeeded: 1, Discarded: 1}
    (dropped,) = (each for each in ended if isinstance(each, Discarded))
    assert "let this callback go twice" in dropped.reason
    await publish(mesh.connection, mesh.namespace.task_subject(After.priority, After.size), fired.body, headers)
    await mesh.burst()
    assert len(called) == 2, "a replay is meant"


class Unlucky(JetStreamGroupStore):
    """Its server is killed and restarted around the first writes."""

    server: EmbeddedServer
    when: str
    """`before` a write, `during` it, or after it, so that its answer is `lost`."""
    left = 3

    async def write(self, change: Change) -> tuple[dict[int, int], int]:
        if self.left <= 0:
            return await super().write(change)
        self.left -= 1
        if self.when == "before":
            await asyncio.to_thread(self.server.kill)
        writing = asyncio.create_task(super().write(change))
        if self.when == "lost":
            await writing
        if self.when != "before":
            await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.restart)
        sequences = await writing
        if self.when == "lost":
            raise ServerUnavailableError("the answer is lost")
        return sequences


@pytest.mark.parametrize("when", ["before", "during", "lost"])
async def test_a_server_that_is_killed_around_a_write_loses_no_completion_and_doubles_no_callback(
    own_server: EmbeddedServer, namespace: str, when: str
) -> None:
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        mesh.register(Child, After)
        group = await store_group(mesh, [Child()] * 6, After(), part_size=3, queued=False)
        store = Unlucky(mesh.connection, mesh.namespace)
        store.server, store.when = own_server, when
        completions = GroupCompletions(store, mesh.connection.clock)
        for indexes in ((0,), (1, 2, 3), (4, 5)):
            await completed(group, completions, *indexes)
        assert await mesh.connection.wait_connected(60), "an answer may have come before the server was killed"
        assert await group.letters() == "ssssss"
        assert (await group.record()).ended is Ended.COMPLETE
        assert len(await after_callback(mesh)) == 6
        assert not await delayed(mesh)
