"""Tasks that block, do not listen, or leave threads and processes: their neighbours, their timeouts, and the end."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.misbehaving_tasks import Seat, Workplace, charges, install
from support.queues import set_ack_wait

SLOTS = ("--max-concurrent-tasks", "6", "--lock-retry-delay", "0.3")
THREADED = (Size.MEDIUM, Size.LARGE)
ACK_WAIT = 3.0
BLOCKS_SECONDS = 2 * ACK_WAIT
GONE_SECONDS = 25.0
"""After SIGTERM with a grace period of a second; a process that waits for what was left takes far longer."""
AT_ONCE_SECONDS = 15.0
OVERRUN_SECONDS = 90.0
"""A worker waits for a minute for what runs on past its timeout."""
STUCK = 79


@pytest.fixture
async def unruly(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> AsyncIterator[CommandLine]:
    install(bare, server.url)
    await on_the_server.set_up()
    yield bare
    for worker in bare.started:
        _kill_children(worker.pid)


def _kill_children(pid: int) -> None:
    """Kill the children of a process, which outlive it when it is killed."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for child in children.read_text().split() if children.exists() else ():
        os.kill(int(child), signal.SIGKILL)


@pytest.mark.parametrize("size", THREADED)
async def test_a_medium_or_large_task_that_blocks_holds_up_no_neighbour(
    unruly: CommandLine, on_the_server: OnTheServer, size: Size
) -> None:
    workplace = Workplace(unruly, on_the_server, size)
    worker = workplace.worker(*SLOTS)
    await workplace.neighbours("before neighbour")
    for name in ("first", "second"):
        await workplace.submit("Blocks", name, {"name": name})
    for name in ("first", "second"):
        await unruly.wait_for_line(f"begin {name}")
    await workplace.neighbours("after neighbour")
    unruly.release("before")
    unruly.release("after")
    await workplace.settled(2)
    assert unruly.journal().count("end before neighbour") == unruly.journal().count("end after neighbour") == 1
    unruly.release("first")
    unruly.release("second")
    await workplace.settled()
    assert await worker.stop() == 0
    assert not workplace.dead_letters()


async def test_a_small_task_that_blocks_past_its_lease_fails_with_the_reason_and_costs_its_neighbours_only_time(
    unruly: CommandLine, on_the_server: OnTheServer
) -> None:
    workplace = Workplace(unruly, on_the_server, Size.SMALL)
    await set_ack_wait(on_the_server.connection, on_the_server.names, ACK_WAIT, [Size.SMALL])
    worker = workplace.worker(*SLOTS)
    names = [f"release neighbour {number}" for number in range(3)]
    await workplace.neighbours(*names)
    await workplace.submit("BlocksFor", "blocks", {"seconds": BLOCKS_SECONDS})
    await workplace.settled(len(names), 4 * BLOCKS_SECONDS)
    assert not await charges(workplace, names)
    await workplace.submit("Neighbour", "afterwards", {"name": "release afterwards"})
    unruly.release("release")
    await workplace.settled()
    assert await worker.stop() == 0, worker.log
    journal, letters = unruly.journal(), workplace.dead_letters()
    assert journal.count(f"begin {worker.pid}") in (1, 2)
    assert list(letters) == ["blocks"]
    (error,) = letters["blocks"]["errors"]
    assert "blocked" in error["message"]
    assert "MEDIUM" in error["message"]
    for name in (*names, "release afterwards"):
        assert (journal.count(f"begin {name}"), journal.count(f"end {name}")) == (1, 1)


@pytest.mark.slow
async def test_a_timeout_is_a_failure_also_of_a_task_that_never_ends(
    unruly: CommandLine, on_the_server: OnTheServer
) -> None:
    # At once, since each takes a minute.
    acts = {Size.SMALL: "is_deaf", Size.MEDIUM: "blocks_for_good", Size.LARGE: "waits_for_a_thread_for_good"}
    workplaces = {size: Workplace(unruly, on_the_server, size) for size in acts}
    seats = [Seat(workplace, *SLOTS) for workplace in workplaces.values()]
    for size, act in acts.items():
        await workplaces[size].submit("TimedOnce", act, {"act": act})

    async def settled() -> bool:
        for seat in seats:
            seat.tend()
        return await on_the_server.waiting() == 0

    await wait_until(settled, description="all have failed", timeout=OVERRUN_SECONDS)
    assert {code for seat in seats for code, _ in seat.ended} <= {STUCK}
    for size, workplace in workplaces.items():
        await workplace.submit("Unruly", f"afterwards {size}", {"act": "behaves"})
    await wait_until(settled, description="the workers go on", timeout=30)
    letters = workplaces[Size.SMALL].dead_letters()
    assert sorted(letters) == sorted(acts.values())
    for letter in letters.values():
        assert [error["type"] for error in letter["errors"]] == ["TimeoutError"]
        assert "timeout_seconds=0.5" in letter["errors"][0]["message"]
    assert all("TimedOnce" in seat.log for seat in seats), "what the timeout leaves running is named"


@pytest.mark.parametrize("size", Size)
async def test_the_lock_of_a_task_is_not_free_while_the_thread_runs_that_its_timeout_has_left(
    unruly: CommandLine, on_the_server: OnTheServer, size: Size
) -> None:
    workplace = Workplace(unruly, on_the_server, size)
    seat = Seat(workplace, *SLOTS)
    for number in range(3):
        await workplace.submit("LeavesThread", f"thread {number}", {"number": number})
    await seat.settled(seconds=60)
    assert await seat.worker.stop() == 0
    letters = workplace.dead_letters()
    assert len(letters) == 3
    assert {error["type"] for letter in letters.values() for error in letter["errors"]} == {"TimeoutError"}
    lines = [line.split() for line in unruly.journal()]
    for (event, pid, of), (next_event, next_pid, next_of) in itertools.pairwise(lines):
        if event == "begin" and next_pid == pid:
            assert (next_event, next_of) == ("end", of), "another one has begun beside the thread"


@pytest.mark.parametrize("size", Size)
async def test_a_stopped_worker_is_gone_soon_after_its_grace_whatever_was_left(
    unruly: CommandLine, on_the_server: OnTheServer, size: Size
) -> None:
    workplace = Workplace(unruly, on_the_server, size)
    leaving, staying = ("leaves_a_thread_for_good", "leaves_a_process_for_good"), ["is_deaf"]
    staying.append("waits_for_a_thread_for_good")
    worker = workplace.worker(*SLOTS, "--grace", "1")
    for act in leaving:
        await workplace.submit("Unruly", act, {"act": act})
    await workplace.settled()
    await workplace.neighbours("release neighbour")
    # The last one holds up the loop of all small tasks.
    for act in (*staying, "blocks_for_good"):
        await workplace.submit("Unruly", act, {"act": act})
        await unruly.wait_for_line(f"begin {act}")
    worker.process.terminate()
    async with asyncio.timeout(GONE_SECONDS):
        assert await worker.ended() == 0, worker.log
    assert await on_the_server.waiting() == len(staying) + 2
    assert await on_the_server.attempts() == 0
    assert not workplace.dead_letters()


@pytest.mark.parametrize("size", Size)
async def test_a_second_signal_ends_a_worker_at_once_whatever_was_left(
    unruly: CommandLine, on_the_server: OnTheServer, size: Size
) -> None:
    workplace = Workplace(unruly, on_the_server, size)
    worker = workplace.worker(*SLOTS, "--grace", "600")
    for act in ("is_deaf", "waits_for_a_thread_for_good", "blocks_for_good"):
        await workplace.submit("Unruly", act, {"act": act})
        await unruly.wait_for_line(f"begin {act}")
    worker.process.terminate()
    if size is not Size.SMALL:
        await worker.logs("stopping")

    def pressed_again() -> bool:
        # Again and again: a signal that is still pending swallows the next one, and a blocked loop says nothing.
        worker.process.terminate()
        return worker.process.poll() is not None

    await wait_until(pressed_again, description="the worker is gone", timeout=AT_ONCE_SECONDS)
    assert await on_the_server.waiting() == 3
    assert await on_the_server.attempts() == 0
