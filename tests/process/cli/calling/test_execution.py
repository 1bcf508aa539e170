"""The task of a `call` has the main thread: under a debugger that keeps its lock, and without a way to end the call."""

from __future__ import annotations

import signal

from support import leaving_tasks
from support.command_line import CommandLine, OnTheServer
from support.processes import LoggedProcess


def test_before_stops_at_the_first_line_of_execute_with_dependencies_injected(with_server: CommandLine) -> None:
    done = with_server(
        "call",
        "lollygag:SyncOwnersTask",
        "--args",
        '["alice"]',
        "--debugger",
        "before",
        typed="p self.owner_name, type(lollygag_db).__name__\np open('journal').read()\nc\n",
    )
    assert done.returncode == 0, done.stderr
    assert '-> note(f"sync {self.owner_name}")' in done.stdout
    assert "('alice', '_LollygagDB')" in done.stdout
    assert "FileNotFoundError" in done.stdout
    assert done.stdout.endswith("Result: 1\n")


def test_leaving_the_debugger_is_a_failure_that_rolls_back(with_server: CommandLine) -> None:
    arguments = ("call", "lollygag:SyncOwnersTask", "--args", '["alice"]')
    left = with_server(*arguments, "--debugger", "before", typed="n\nn\nq\n")
    assert left.returncode == 1
    assert "the debugger was left before the task had ended" in left.stderr
    assert "Traceback" not in left.stderr
    assert with_server(*arguments).stdout == "Result: 1\n"


def test_exception_opens_where_it_was_raised(with_server: CommandLine) -> None:
    done = with_server(
        "call", "lollygag:Dies", "--args", '["mice"]', "--debugger", "exception", typed="p self.why\nq\n"
    )
    assert done.returncode == 1
    assert "-> raise ValueError(self.why)" in done.stdout
    assert "'mice'" in done.stdout
    assert "ValueError: mice" in done.stderr


def test_exception_leaves_a_task_that_succeeds_alone(with_server: CommandLine) -> None:
    done = with_server("call", "lollygag:SyncOwnersTask", "--args", '["alice"]', "--debugger", "exception")
    assert (done.returncode, done.stdout) == (0, "Result: 1\n"), done.stderr


async def test_the_lock_is_renewed_while_somebody_reads_at_the_prompt(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    process = with_server.start("call", "lollygag:Waits", "--args", '["read"]', "--debugger", "before")
    await on_the_server.renewal("mutex.lollygag.read")
    assert with_server("call", "lollygag:Waits", "--args", '["read"]').returncode == 75
    assert with_server.journal() == []
    with_server.release("read")
    out, err = process.communicate("c\n", timeout=30)
    assert process.returncode == 0, err
    assert out.endswith("Result: read\n")
    assert await on_the_server.locks() == 0


def test_the_time_limit_of_a_task_does_not_run_while_it_is_debugged(with_server: CommandLine) -> None:
    done = with_server("call", "lollygag:Limited", "--debugger", "before", typed="import time; time.sleep(0.5)\nc\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Result: in time\n")


FAILURES = {
    "exits": "SystemExit: 2",
    "interrupts": "KeyboardInterrupt",
    "is_odd": "leaving_tasks.tasks.Odd: neither fish nor fowl",
    "quits_generator": "GeneratorExit",
    "cancels_itself": "asyncio.exceptions.CancelledError",
    "cancels_all": "asyncio.exceptions.CancelledError",
    "exits_in_a_child": "SystemExit: 2",
    "interrupts_in_a_group": "KeyboardInterrupt",
    "fails_in_a_group": "    +------------------------------------",
    "exits_in_a_callback": "SystemExit: 2",
    "exits_in_a_callback_and_returns": "SystemExit: 2",
}
RESULTS = {
    "stops_the_loop": "went on",
    "catches_the_exit_of_a_child": "the child ended with 2",
    "exits_after_its_end": "returned",
}


async def test_whatever_a_task_does_to_itself_is_its_failure(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    leaving_tasks.install(with_server)
    ways = [*FAILURES, *RESULTS]
    # One after another in one process, which thereby outlives each; those of RESULTS go on and have a result.
    ended = dict(zip(ways, with_server.each(["call", *leaving_tasks.arguments(way)] for way in ways), strict=True))
    for way, error in FAILURES.items():
        done = ended[way]
        assert (done.returncode, done.stdout) == (1, ""), (way, done.stderr)
        *trace, last, verdict = done.stderr[done.stderr.index("Traceback") :].splitlines()
        assert last == error, way
        assert verdict.startswith("failed; a worker would drop it"), way
        assert [line for line in trace if "diracx/tasks" in line or "interrupted" in line] == [], way
    for way, result in RESULTS.items():
        assert (ended[way].returncode, ended[way].stdout) == (0, f"Result: {result}\n"), (way, ended[way].stderr)
    assert await on_the_server.locks() == 0


async def test_a_second_ctrl_c_breaks_off_a_task_that_refuses_cancellation(with_server: CommandLine) -> None:
    leaving_tasks.install(with_server)
    process = LoggedProcess(with_server, "call", *leaving_tasks.arguments("is_deaf"))
    await with_server.wait_for_line("begin")
    process.process.send_signal(signal.SIGINT)
    await with_server.wait_for_line("refused")
    process.process.send_signal(signal.SIGINT)
    assert await process.ended() == 130
    assert "Traceback" not in process.log
