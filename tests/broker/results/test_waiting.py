"""Waits for a result, which a subscription wakes and a poll makes right."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import (
    ResultIsMissingError,
    ServerUnavailableError,
)
from diracx.tasks.plumbing.execution.thread import ExecutionThreads
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.stream_messages import read_message
from diracx.tasks.plumbing.results import waiting
from diracx.tasks.plumbing.results.waiting import ResultReader
from diracx.tasks.plumbing.submitter import current_submitter
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh, running
from support.result_tasks import LONG, Recovers, Returns, tries


@pytest.fixture
def only_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls come too late for a test: only the subscription wakes."""
    monkeypatch.setattr(waiting, "POLL_SECONDS", 10 * LONG)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each look at a result, by now, has found one."""
    seen: list[bool] = []

    async def look(*args: Any, **query: Any) -> Any:
        try:
            message = await read_message(*args, **query)
        except BaseException:
            seen.append(False)
            raise
        seen.append(message is not None)
        return message

    monkeypatch.setattr(waiting, "read_message", look)
    return seen


async def waits(mesh: TaskMesh, task_id: str, looks: list[bool], timeout: float | None = None) -> asyncio.Task[Any]:
    """A wait that has begun: its first look has found nothing. Without a limit there is no last look."""
    before = len(looks)
    begun = asyncio.create_task(mesh.broker.result(task_id, timeout))
    await wait_until(lambda: len(looks) > before, description="the wait has looked")
    assert not looks[before]
    return begun


@pytest.mark.usefixtures("only_wakes")
async def test_all_who_wait_are_woken_at_once(mesh: TaskMesh, looks: list[bool]) -> None:
    mesh.register(Returns)
    task_id = await Returns([1]).schedule(keep_result=60)
    waiters = [await waits(mesh, task_id, looks), await waits(mesh, task_id, looks, 10 * LONG)]
    await mesh.burst()
    async with asyncio.timeout(LONG):
        assert await asyncio.gather(*waiters) == [[1], [1]]


async def test_nothing_is_left_of_who_has_waited(mesh: TaskMesh) -> None:
    client = mesh.connection.client
    before = len(client._subs), len(client._listeners)
    with pytest.raises(ResultIsMissingError):
        await mesh.broker.result("none", 0.01)
    assert (len(client._subs), len(client._listeners)) == before


async def test_a_dead_subscription_costs_no_more_than_a_poll(mesh: TaskMesh, looks: list[bool]) -> None:
    mesh.register(Returns)
    task_id = await Returns().schedule(keep_result=True)
    subject = mesh.namespace.kept_subject(task_id)
    waiter = await waits(mesh, task_id, looks)
    client = mesh.connection.client
    (number,) = (number for number, each in client._subs.items() if each.subject == subject)
    await client._send_unsubscribe(number)  # the server forgets it, and nobody here notices
    await mesh.burst()
    assert await asyncio.wait_for(waiter, LONG) == 1


async def test_only_what_the_bucket_has_stored_is_a_result(mesh: TaskMesh, looks: list[bool]) -> None:
    waiter = await waits(mesh, "1", looks, timeout=2)
    forged = b'{"id":"1","status":"succeeded","value":"forged"}'
    await mesh.connection.publish(mesh.namespace.kept_subject("1"), forged)
    await mesh.connection.publish(mesh.namespace.kept_subject("1"), forged, headers={"Nats-Stream": "KV_other"})
    with pytest.raises(ResultIsMissingError, match="nothing is there within 2 s"):
        await waiter


async def test_a_key_that_is_removed_by_hand_wakes_nobody(mesh: TaskMesh, looks: list[bool]) -> None:
    mesh.register(Returns)
    task_id = await Returns().schedule(keep_result=True)
    waiter = await waits(mesh, task_id, looks)
    subject = f"$KV.{mesh.namespace.results_bucket}.{task_id}"
    await mesh.connection.request(subject, headers={"KV-Operation": "DEL"})
    with pytest.raises(ResultIsMissingError):
        await mesh.broker.result(task_id, 0)
    await mesh.burst()
    assert await asyncio.wait_for(waiter, LONG) == 1


async def test_a_connection_that_was_closed_is_an_error_in_time(server: EmbeddedServer, namespace: str) -> None:
    settings = ConnectionSettings(servers=(server.url,))
    async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as closed:
        pass
    with pytest.raises(ServerUnavailableError):
        await ResultReader(closed, Namespace(namespace)).wait("1", 0.01)


async def test_who_may_not_listen_polls_and_the_log_says_nothing_of_it(
    own_server: EmbeddedServer, looks: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    permissions = '{ subscribe: { deny: "diracx.kept.>" } }'
    own_server.extra_config = (
        f"authorization {{ users: [{{ user: me, password: secret, permissions: {permissions} }}] }}"
    )
    own_server.reload()
    async with TaskMesh.open(own_server.url.replace("//", "//me:secret@"), "diracx") as mesh:
        mesh.register(Returns)
        task_id = await Returns().schedule(keep_result=True)
        waiter = await waits(mesh, task_id, looks)
        await mesh.burst()
        assert await asyncio.wait_for(waiter, LONG) == 1
        assert "ermission" not in caplog.text
        await mesh.connection.client.subscribe("diracx.kept.something")
        await mesh.connection.client.flush()
        assert "ermission" in caplog.text, "a denial that nobody expects is logged"


async def test_a_wait_goes_on_over_a_restart_of_the_server(own_server: EmbeddedServer, looks: list[bool]) -> None:
    async with TaskMesh.open(own_server.url, "diracx") as mesh:
        mesh.register(Returns)
        task_id = await Returns().schedule(keep_result=True)
        waiter = await waits(mesh, task_id, looks)
        impatient = asyncio.create_task(mesh.broker.result(task_id, 0.01))
        own_server.kill()
        await wait_until(lambda: not mesh.connection.is_connected, description="the connection is lost")
        with pytest.raises(ServerUnavailableError):
            await mesh.broker.result(task_id, 0)
        with pytest.raises((ServerUnavailableError, ResultIsMissingError)):
            await impatient
        seen = len(looks)
        await wait_until(lambda: len(looks) > seen, description="it has looked while no server is there")
        await asyncio.to_thread(own_server.start)
        assert await mesh.connection.wait_connected(LONG)
        await mesh.burst()
        assert await asyncio.wait_for(waiter, LONG) == 1
        assert await mesh.broker.result(task_id, 0) == 1


async def test_only_the_end_of_a_task_counts(mesh: TaskMesh, looks: list[bool]) -> None:
    tries.clear()
    mesh.register(Recovers)
    task_id = await Recovers().schedule(keep_result=True)
    waiter = await waits(mesh, task_id, looks)
    async with mesh.working():
        assert await asyncio.wait_for(waiter, LONG) == 3
    assert len(tries) == 3


async def test_any_event_loop_and_thread_may_wait(mesh: TaskMesh) -> None:
    mesh.register(Returns)
    task_id = await Returns("here").schedule(keep_result=True)
    elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, mesh.broker.result(task_id, LONG)))
    await mesh.burst()
    assert await elsewhere == "here"


class Asks(BaseTask):
    """Waits in a thread of its own for a task that it has submitted."""

    size = Size.MEDIUM

    async def execute(self) -> list[Any]:
        assert threading.current_thread() is not threading.main_thread()
        child = await Returns("from the child").schedule(keep_result=True)
        return [await current_submitter().result(child, LONG)]


async def test_a_task_of_another_size_may_wait_for_its_child(mesh: TaskMesh) -> None:
    mesh.register(Returns, Asks)
    task_id = await Asks().schedule(keep_result=True)
    threads = ExecutionThreads(Resources())
    settings = WorkerSettings(size=Size.MEDIUM, max_concurrent_tasks=1)
    medium = Worker(mesh.connection, mesh.namespace, mesh.registry, Injector(), settings, invoke=threads.invoke)
    async with mesh.working(), running(medium):
        assert await mesh.broker.result(task_id, LONG) == ["from the child"]
    await threads.close()
