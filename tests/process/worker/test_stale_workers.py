"""Workers that lose their leases, stopped or cut off: they settle nothing, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.long_tasks import end_task, install, submit
from support.processes import LoggedProcess, worker_process
from support.queues import set_ack_wait
from support.tcp_proxy import TcpProxy

ACK_WAIT = 1.5
CLASSES = {Size.SMALL: "Long", Size.MEDIUM: "LongOnThread"}
NOT_WITHIN_A_TEST = 3600.0


@pytest.fixture
async def long_tasks(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    install(bare)
    bare.environment["DIRACX_TASKS_NATS_URL"] = server.url
    await on_the_server.set_up()
    await set_ack_wait(on_the_server.connection, on_the_server.names, ACK_WAIT, CLASSES)
    return bare


@pytest.fixture
async def wire(server: EmbeddedServer) -> AsyncIterator[TcpProxy]:
    """A connection to the server that can be cut."""
    async with TcpProxy(server.url) as proxy:
        yield proxy


@pytest.mark.parametrize("size", CLASSES)
@pytest.mark.parametrize("error", ["", "no"], ids=["done", "failed"])
async def test_a_worker_that_was_stopped_past_its_lease_settles_nothing_when_it_goes_on(
    long_tasks: CommandLine, on_the_server: OnTheServer, size: Size, error: str
) -> None:
    with worker_process(long_tasks, size) as stale:
        await submit(on_the_server, CLASSES[size], size)
        await long_tasks.wait_for_line(f"begin {stale.pid}")
        stale.suspend()
        with worker_process(long_tasks, size) as successor:
            await long_tasks.wait_for_line(f"begin {successor.pid}")
            # It ends as soon as it is continued, before any watchdog has looked.
            end_task(long_tasks, stale, error)
            stale.resume()
            await stale.logs("unsettled: the lease on message 1 lapsed")
            assert await on_the_server.waiting() == 1, "an ack would have taken it from its successor"
            await _done_by(successor, long_tasks, on_the_server)
            assert long_tasks.journal().count(f"begin {successor.pid}") == 1, "a nak would have given it out once more"
            assert long_tasks.journal().count(f"begin {stale.pid}") == 1
            assert (await stale.stop(), await successor.stop()) == (0, 0)
            assert await on_the_server.attempts() == 0


@pytest.mark.one_server("a client whose connection is cut goes to another server")
@pytest.mark.parametrize("size", CLASSES)
@pytest.mark.parametrize("silently", [False, True], ids=["closed", "silent"])
async def test_a_worker_that_was_cut_off_for_longer_than_its_lease_ends_its_task_and_settles_nothing(
    long_tasks: CommandLine, on_the_server: OnTheServer, wire: TcpProxy, size: Size, silently: bool
) -> None:
    with worker_process(long_tasks, size, url=wire.url) as stale:
        await submit(on_the_server, CLASSES[size], size)
        await long_tasks.wait_for_line(f"begin {stale.pid}")
        cut = asyncio.create_task(wire.cut(NOT_WITHIN_A_TEST, silently))
        with worker_process(long_tasks, size) as successor:
            await long_tasks.wait_for_line(f"cancelled {stale.pid}")
            await long_tasks.wait_for_line(f"begin {successor.pid}")
            cut.cancel()
            await asyncio.wait([cut])
            await stale.logs("reconnected to")
            assert await on_the_server.waiting() == 1
            await _done_by(successor, long_tasks, on_the_server)
            assert await successor.stop() == 0
        end_task(long_tasks, stale)
        await submit(on_the_server, CLASSES[size], size)
        await long_tasks.wait_for_line(f"end {stale.pid}")
        assert await stale.stop() == 0
    begun = [line for line in long_tasks.journal() if line.startswith("begin")]
    assert begun == [f"begin {stale.pid}", f"begin {successor.pid}", f"begin {stale.pid}"]
    assert (await on_the_server.waiting(), await on_the_server.attempts()) == (0, 0)


async def _done_by(worker: LoggedProcess, long_tasks: CommandLine, on_the_server: OnTheServer) -> None:
    end_task(long_tasks, worker)

    async def nothing_waits() -> bool:
        return await on_the_server.waiting() == 0

    await wait_until(nothing_waits, description="it is done", timeout=30)
    assert f"end {worker.pid}" in long_tasks.journal()
