"""Queues, streams and buckets that go while a worker runs: it is not ready, says why, serves the rest, and recovers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import SendTaskError
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED, pause
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.operations.worker_service import WorkerHealth
from diracx.tasks.plumbing.worker import Worker
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.recording_tasks import Record, RecordBackground, RecordRealtime, ran

KINDS = {"realtime-small": RecordRealtime, "normal-small": Record, "background-small": RecordBackground}
SETUP = "run `diracx-task-run setup`"
NOTICED_SECONDS = 40
"""A request that reaches the server at the very moment of the deletion gets no answer; its missing heartbeats tell."""


@pytest.fixture(autouse=True)
async def fresh(caplog: pytest.LogCaptureFixture) -> None:
    recording_tasks.reset()
    caplog.set_level(logging.INFO)


@asynccontextmanager
async def served(mesh: TaskMesh) -> AsyncIterator[tuple[Worker, WorkerHealth]]:
    """A worker that has pulled, and its health."""
    mesh.register(*KINDS.values())
    async with mesh.working() as worker:
        health = WorkerHealth(worker, mesh.connection)
        await wait_until(lambda: health.why_not_ready() is None, description="it is ready")
        yield worker, health


async def not_ready(health: WorkerHealth, why: str) -> None:
    """Wait until the worker is not ready, for this reason."""
    await wait_until(lambda: health.why_not_ready() == why, description="it is not ready", timeout=NOTICED_SECONDS)


async def set_up(mesh: TaskMesh) -> None:
    """As `setup` does."""
    await ensure(mesh.connection, assets(mesh.namespace))


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [message for message in caplog.messages if words in message]


@pytest.mark.parametrize("queue", KINDS)
async def test_one_missing_queue_is_named_and_the_other_two_are_served(
    mesh: TaskMesh, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(mesh) as (worker, health):
        await mesh.connection.api(f"CONSUMER.DELETE.{mesh.namespace.tasks_stream}.{queue}")
        why = f"cannot pull: consumer {queue} is missing: {SETUP}"
        await not_ready(health, why)
        for number, kind in enumerate(KINDS.values()):
            await kind(number).schedule()
        others = [number for number, name in enumerate(KINDS) if name != queue]
        await wait_until(lambda: sorted(ran) == others, description="the others are served")
        await wait_until(lambda: worker.processed == 2, description="they are settled")
        assert health.why_not_ready() == why
        assert health.why_not_live() is None
        await set_up(mesh)
        await wait_until(lambda: health.why_not_ready() is None, description="it is ready again")
        await wait_until(lambda: sorted(ran) == [0, 1, 2], description="what waited is served")
    assert lines(caplog, "cannot pull") == [why]
    assert len(lines(caplog, "can pull again, after ")) == 1


async def test_a_missing_stream_is_named_and_the_worker_goes_on_when_it_is_made_anew(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(mesh) as (_, health):
        await mesh.connection.api(f"STREAM.DELETE.{mesh.namespace.tasks_stream}")
        why = f"cannot pull: stream {mesh.namespace.tasks_stream} is missing: {SETUP}"
        await not_ready(health, why)
        assert health.why_not_live() is None
        await set_up(mesh)
        await wait_until(lambda: health.why_not_ready() is None, description="it is ready again", timeout=20)
        await Record(1).schedule()
        await wait_until(lambda: ran == [1], description="it serves")
    assert not lines(caplog, "503")


async def test_a_paused_queue_leaves_the_worker_ready(mesh: TaskMesh) -> None:
    async with served(mesh) as (_, health):
        for queue in KINDS:
            await pause(mesh.connection, mesh.namespace.tasks_stream, queue, UNTIL_RESUMED)
        for _ in range(3):
            await mesh.waiting()
            assert health.why_not_ready() is None


async def test_a_queue_that_goes_during_an_outage_is_named_after_the_reconnect(
    own_server: EmbeddedServer, namespace: str
) -> None:
    async with TaskMesh.open(own_server.url, namespace) as mesh, served(mesh) as (_, health):
        await mesh.connection.api(f"CONSUMER.DELETE.{mesh.namespace.tasks_stream}.normal-small")
        await asyncio.to_thread(own_server.kill)
        await wait_until(lambda: health.why_not_ready() == "not connected to NATS", description="it says so")
        await asyncio.to_thread(own_server.start)
        why = f"cannot pull: consumer normal-small is missing: {SETUP}"
        await not_ready(health, why)
        await RecordBackground(2).schedule()
        await wait_until(lambda: ran == [2], description="the others are served")


async def test_a_server_that_has_lost_its_jetstream_is_told(own_server: EmbeddedServer, namespace: str) -> None:
    async with TaskMesh.open(own_server.url, namespace) as mesh, served(mesh) as (_, health):
        own_server.extra_config = "jetstream: disabled"
        await asyncio.to_thread(own_server.restart)
        why = "cannot pull: nobody answers on $JS.API."
        await wait_until(lambda: (health.why_not_ready() or "").startswith(why), description="it says so", timeout=30)
        own_server.extra_config = ""
        await asyncio.to_thread(own_server.restart)
        await wait_until(lambda: health.why_not_ready() is None, description="it is ready again", timeout=30)


async def test_missing_buckets_are_named_once_and_what_comes_back_is_seen(
    own_server: EmbeddedServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        names = mesh.namespace
        for stream in (f"KV_{names.locks_bucket}", names.dead_letters_stream):
            await mesh.connection.api(f"STREAM.DELETE.{stream}")
        mesh.register(Record)
        async with mesh.working() as worker:
            health = WorkerHealth(worker, mesh.connection)
            why = f"stream {names.dead_letters_stream}, bucket {names.locks_bucket} are missing: {SETUP}"
            await wait_until(
                lambda: health.why_not_ready() == why, description="it is not ready", timeout=NOTICED_SECONDS
            )
            assert health.why_not_live() is None
            await set_up(mesh)
            await asyncio.to_thread(own_server.restart)  # it looks again after each reconnect
            await wait_until(lambda: health.why_not_ready() is None, description="it is ready", timeout=20)
    assert lines(caplog, "are missing") == [f"not all work can be done: {why}"]
    assert len(lines(caplog, "nothing is missing any more")) == 1


async def test_a_busy_worker_whose_heartbeats_get_no_answer_is_not_ready(mesh: TaskMesh) -> None:
    class Deaf(Record):
        async def execute(self) -> None:
            while not go.is_set():
                with suppress(asyncio.CancelledError):
                    await go.wait()

    go = asyncio.Event()
    mesh.register(Deaf)
    mesh.allows_residue = True
    await mesh.set_ack_wait(3)
    await Deaf(1).schedule()
    async with mesh.working(slots=1) as worker:
        health = WorkerHealth(worker, mesh.connection)
        try:
            await wait_until(lambda: worker.snapshot.busy, description="its slot is in use")
            await mesh.connection.api(f"CONSUMER.DELETE.{mesh.namespace.tasks_stream}.normal-small")
            why = "the heartbeats of 1 messages in flight get no answer"
            await wait_until(
                lambda: health.why_not_ready() == why, description="it is not ready", timeout=NOTICED_SECONDS
            )
            assert health.why_not_live() is None
        finally:
            go.set()


WHOLE = "permissions: { publish: '>', subscribe: '>' }"
NO_PULL = "permissions: { publish: { deny: '$JS.API.CONSUMER.MSG.NEXT.>' }, subscribe: '>' }"
USERS = "authorization { users: [ { user: worker, password: x, %s } ] }"
NO_ACCOUNT_JETSTREAM = "accounts { A: { %s users: [ { user: worker, password: x } ] } }"


RIGHTS = [
    (USERS % WHOLE, USERS % NO_PULL, "no permission for publish to $JS.API.CONSUMER.MSG.NEXT."),
    (
        NO_ACCOUNT_JETSTREAM % "jetstream: enabled,",
        NO_ACCOUNT_JETSTREAM % "",
        "JetStream is not enabled for this account: enable it on the server",
    ),
]


@pytest.mark.parametrize(("before", "after", "why"), RIGHTS, ids=["permissions", "account"])
async def test_rights_that_are_taken_away_are_named(
    namespace: str, before: str, after: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedServer(extra_config=before) as server:
        url = server.url.replace("nats://", "nats://worker:x@")
        async with TaskMesh.open(url, namespace) as mesh, served(mesh) as (_, health):
            await reconfigured(server, after)
            with suppress(SendTaskError):
                await Record(1).schedule()  # it ends the long poll that was allowed before
            await wait_until(lambda: why in (health.why_not_ready() or ""), description="it says so", timeout=30)
            assert health.why_not_live() is None
            await reconfigured(server, before)
            await wait_until(lambda: health.why_not_ready() is None, description="it is ready", timeout=40)
    assert len(lines(caplog, "cannot pull")) <= 4


async def reconfigured(server: EmbeddedServer, config: str) -> None:
    server.extra_config = config
    await asyncio.to_thread(server.reload)
