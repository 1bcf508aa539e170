"""A process ends in time, whatever its tasks have left in it: see `cli.processes.ending`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.processes.ending import FORCED_END_SECONDS
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.leaving_tasks import TASKS, arguments, install
from support.processes import LoggedProcess, worker_process

GRACE = 0.5
FORCED = "ended by force; left: "


@pytest.fixture
def unruly(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    install(bare)
    bare.environment["DIRACX_TASKS_NATS_URL"] = server.url
    return bare


def left_in(log: str) -> str:
    """What a process left when it ended by force."""
    (line,) = (line for line in log.splitlines() if FORCED in line)
    return line.partition(FORCED)[2]


async def begun(unruly: CommandLine, way: str, size: Size, worker: LoggedProcess) -> None:
    """Wait until a task goes its way in that worker."""
    assert unruly("submit", *arguments(way, TASKS[size])).returncode == 0
    await unruly.wait_for_line("begin")


@pytest.mark.parametrize(
    ("way", "left"),
    [
        ("leaves_several_threads", ["thread plain", "thread ThreadPoolExecutor-0_0"]),
        ("leaves_a_child", ["child process sleeper ("]),
        ("leaves_a_pool_of_processes", ["thread ", "child process ForkProcess-1 ("]),
    ],
)
def test_a_call_that_is_done_ends_with_its_code_and_says_what_its_task_left(
    unruly: CommandLine, way: str, left: list[str]
) -> None:
    done = unruly("call", *arguments(way))
    assert (done.returncode, done.stdout) == (0, "Result: None\n")
    assert [each for each in left if each not in left_in(done.stderr)] == []
    assert "MainThread" not in done.stderr, "it has run all of its code"


SLOW_LOG = """
import logging, threading, time
from diracx.tasks.cli.processes.ending import end_within

begun = threading.Event()

class Slow(logging.Handler):
    def emit(self, record):
        begun.set()
        time.sleep(2)

logging.getLogger().addHandler(Slow())
end_within(0, 7, "a test")
begun.wait()
"""


def test_the_interpreter_waits_for_an_end_by_force_that_is_at_work() -> None:
    done = subprocess.run([sys.executable, "-c", SLOW_LOG], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (7, ""), "beside it the interpreter would end with 0, or crash"


def test_an_embedded_server_ends_though_a_child_that_was_left_holds_its_pipe(unruly: CommandLine) -> None:
    done = unruly("call", *arguments("leaves_a_child"), DIRACX_TASKS_NATS_URL="nats://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (0, "Result: None\n")
    assert "Traceback" not in done.stderr


def test_a_thread_that_waits_for_work_is_not_left(unruly: CommandLine) -> None:
    done = unruly("call", *arguments("uses_an_executor"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "Result: None\n", "")


def test_a_thread_that_a_time_limit_left_does_not_keep_a_call(unruly: CommandLine) -> None:
    done = unruly("call", *arguments("leaves_a_thread", "UnrulyTimed"))
    assert done.returncode == 1
    assert "TimeoutError: ran longer than timeout_seconds=1" in done.stderr
    assert left_in(done.stderr).startswith("thread asyncio_0")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_thread_that_an_interrupted_call_left_does_not_keep_it(
    unruly: CommandLine, on_the_server: OnTheServer, number: signal.Signals, code: int
) -> None:
    process = LoggedProcess(unruly, "call", *arguments("leaves_a_thread"))
    await unruly.wait_for_line("begin")
    process.process.send_signal(number)
    assert await process.ended() == code
    assert f"interrupted by {number.name}" in process.log
    assert left_in(process.log).startswith("thread asyncio_0")
    assert await on_the_server.locks() == 1, "nobody begins beside the thread; the lock expires"


@pytest.mark.parametrize("way", ["is_deaf", "blocks", "blocks_in_c"])
async def test_a_call_whose_task_does_not_stop_ends_by_force(unruly: CommandLine, way: str) -> None:
    process = LoggedProcess(unruly, "call", *arguments(way))
    await unruly.wait_for_line("begin")
    process.process.send_signal(signal.SIGINT)
    assert await process.ended() == 130
    assert f"SIGINT has not ended the process within {FORCED_END_SECONDS:g} s, so it is {FORCED}" in process.log


@pytest.mark.parametrize("size", list(Size))
@pytest.mark.parametrize(("way", "left"), [("leaves_a_thread", "thread "), ("leaves_a_child", "child process sleeper")])
async def test_a_stopped_worker_ends_with_0_though_a_thread_or_a_child_is_left(
    unruly: CommandLine, on_the_server: OnTheServer, size: Size, way: str, left: str
) -> None:
    with worker_process(unruly, size, "--grace", f"{GRACE}") as worker:
        await begun(unruly, way, size, worker)
        assert await worker.stop() == 0
        assert left_in(worker.log).startswith(left)
        assert "ended after 1 deliveries" in worker.log
    assert await on_the_server.waiting() == (1 if way == "leaves_a_thread" else 0)
    assert await on_the_server.attempts() == 0
    # Nobody begins beside a thread that still runs: its lock expires.
    assert await on_the_server.locks() == (1 if way == "leaves_a_thread" else 0)


@pytest.mark.parametrize("way", ["blocks", "blocks_in_c"])
async def test_a_stopped_worker_whose_loop_a_small_task_blocks_ends_by_force_with_0_and_gives_back(
    unruly: CommandLine, way: str
) -> None:
    with worker_process(unruly, Size.SMALL, "--grace", f"{GRACE}") as worker:
        await begun(unruly, way, Size.SMALL, worker)
        stopped = time.monotonic()
        assert await worker.stop() == 0
        assert time.monotonic() - stopped > GRACE + FORCED_END_SECONDS - 1
        assert "tasks.py:" in left_in(worker.log), "the line that blocks is named"
        assert f"in {way}" in left_in(worker.log)
    with worker_process(unruly, Size.SMALL) as other:
        # Long before its lease is over. Its lock is not released while the task may run: it expires.
        waits = "unruly:Unruly waits "
        await wait_until(lambda: waits in other.log, description="another worker gets the task", timeout=15)
        await other.stop()


async def test_a_small_task_that_cancels_all_it_finds_does_not_end_its_worker(
    unruly: CommandLine, on_the_server: OnTheServer
) -> None:
    with worker_process(unruly, Size.SMALL, "--grace", f"{GRACE}") as worker:
        assert unruly("submit", *arguments("cancels_all")).returncode == 0
        await worker.logs("CancelledError")
        assert await worker.stop() == ExitCode.DONE
        assert "code in this process cancelled the worker" not in worker.log
    assert await on_the_server.locks() == 0


@pytest.mark.parametrize("way", ["blocks", "blocks_in_c", "is_deaf"])
async def test_a_second_signal_ends_a_worker_at_once_though_its_loop_is_blocked(unruly: CommandLine, way: str) -> None:
    with worker_process(unruly, Size.SMALL, "--grace", "600") as worker:
        await begun(unruly, way, Size.SMALL, worker)
        worker.process.send_signal(signal.SIGTERM)
        if way == "is_deaf":
            await worker.logs("stopping")
        worker.process.send_signal(signal.SIGINT)
        assert await worker.ended() in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        assert "a second signal has not ended the process" in worker.log
