"""Workers that lose their leases, stopped or cut off: they settle nothing, and nothing is lost."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.long_tasks import (
    WorkerProcess,
    continue_process,
    end_with,
    install,
    shorten_leases,
    stop_process,
    submit,
    worker_process,
)
from support.paths import CHAOS

ACK_WAIT = 1.5
CLASSES = {Size.SMALL: "Lasts", Size.MEDIUM: "LastsOnAThread"}
NOT_WITHIN_A_TEST = 3600.0


@pytest.fixture
async def lasting(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    install(bare)
    bare.environment["DIRACX_TASKS_NATS_URL"] = server.url
    assert bare("setup").returncode == 0
    for size in CLASSES:
        await shorten_leases(on_the_server, size, ACK_WAIT)
    return bare


@pytest.fixture
async def wire(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A connection to the server that can be cut."""
    monkeypatch.syspath_prepend(str(CHAOS))
    async with importlib.import_module("proxy").Wire(server.url) as wire:
        yield wire


@pytest.mark.parametrize("size", CLASSES)
@pytest.mark.parametrize("error", ["", "no"], ids=["done", "failed"])
async def test_a_worker_that_was_stopped_past_its_lease_settles_nothing_when_it_goes_on(
    lasting: CommandLine, on_the_server: OnTheServer, size: Size, error: str
) -> None:
    with worker_process(lasting, size) as stale:
        await submit(on_the_server, CLASSES[size], size)
        await lasting.noted(f"begin {stale.pid}")
        stop_process(stale)
        with worker_process(lasting, size) as successor:
            await lasting.noted(f"begin {successor.pid}")
            # It ends as soon as it is continued, before any watchdog has looked.
            end_with(lasting, stale, error)
            continue_process(stale)
            await stale.says("unsettled: the lease on message 1 lapsed")
            assert await on_the_server.waiting() == 1, "an ack would have taken it from its successor"
            await _done_by(successor, lasting, on_the_server)
            assert lasting.journal().count(f"begin {successor.pid}") == 1, "a nak would have given it out once more"
            assert lasting.journal().count(f"begin {stale.pid}") == 1
            assert await on_the_server.attempts() == 0
            assert (await stale.stop(), await successor.stop()) == (0, 0)


@pytest.mark.parametrize("size", CLASSES)
@pytest.mark.parametrize("silently", [False, True], ids=["closed", "silent"])
async def test_a_worker_that_was_cut_off_for_longer_than_its_lease_ends_its_task_and_settles_nothing(
    lasting: CommandLine, on_the_server: OnTheServer, wire: Any, size: Size, silently: bool
) -> None:
    with worker_process(lasting, size, wire.url) as stale:
        await submit(on_the_server, CLASSES[size], size)
        await lasting.noted(f"begin {stale.pid}")
        cut = asyncio.create_task(wire.cut(NOT_WITHIN_A_TEST, silently))
        with worker_process(lasting, size) as successor:
            await lasting.noted(f"cancelled {stale.pid}")
            await lasting.noted(f"begin {successor.pid}")
            cut.cancel()
            await asyncio.wait([cut])
            await stale.says("reconnected to")
            assert await on_the_server.waiting() == 1
            await _done_by(successor, lasting, on_the_server)
            assert await successor.stop() == 0
        end_with(lasting, stale)
        await submit(on_the_server, CLASSES[size], size)
        await lasting.noted(f"end {stale.pid}")
        assert await stale.stop() == 0
    begun = [line for line in lasting.journal() if line.startswith("begin")]
    assert begun == [f"begin {stale.pid}", f"begin {successor.pid}", f"begin {stale.pid}"]
    assert (await on_the_server.waiting(), await on_the_server.attempts()) == (0, 0)


async def _done_by(worker: WorkerProcess, lasting: CommandLine, on_the_server: OnTheServer) -> None:
    end_with(lasting, worker)

    async def nothing_waits() -> bool:
        return await on_the_server.waiting() == 0

    await wait_until(nothing_waits, description="it is done", timeout=30)
    assert f"end {worker.pid}" in lasting.journal()
