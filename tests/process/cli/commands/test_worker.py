"""`submit` in one process and `worker` in another."""

from __future__ import annotations

import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta

from support.command_line import CommandLine, OnTheServer

BURST = ("worker", "--worker-size", "small", "--burst")


def said(process: subprocess.Popen[str], words: str) -> str:
    """The next line on standard error that holds these words; an end of the process before is a failure."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"it ended without saying {words!r}")


def submit(command_line: CommandLine, *arguments: str) -> str:
    done = command_line("submit", *arguments)
    assert done.returncode == 0, done.stderr
    task_id = done.stdout.removesuffix("\n")
    assert re.fullmatch("[0-9a-f]{32}", task_id)
    return task_id


async def test_a_submitted_task_is_executed_once_and_the_stream_is_empty(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    submit(with_server, "lollygag:SyncOwnersTask", "--args", '["alice"]')
    assert await on_the_server.waiting() == 1
    done = with_server(*BURST)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert with_server.journal() == ["sync alice"]
    assert await on_the_server.waiting() == 0
    assert await on_the_server.attempts() == 0
    assert with_server(*BURST).returncode == 0
    assert with_server.journal() == ["sync alice"]


async def test_a_past_time_runs_at_once_and_a_later_one_waits(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    past = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    submit(with_server, "lollygag:SyncOwnersTask", "--args", '["past"]', "--at", past)
    submit(with_server, "lollygag:SyncOwnersTask", "--args", '["later"]', "--delay", "3600")
    assert with_server(*BURST).returncode == 0
    assert with_server.journal() == ["sync past"]
    assert await on_the_server.count(on_the_server.names.later_stream) == 1


async def test_a_class_that_cannot_be_prepared_is_reported_and_the_rest_is_served(with_server: CommandLine) -> None:
    submit(with_server, "lollygag:SyncOwnersTask", "--args", '["alice"]')
    done = with_server(*BURST)
    assert done.returncode == 0
    assert "not served: lollygag:Unpreparable" in done.stderr
    assert "parameter 'database'" in done.stderr
    assert with_server.journal() == ["sync alice"]


async def test_an_idle_worker_has_created_the_queues_and_ends_in_order_on_ctrl_c(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    process = with_server.start("worker", "--worker-size", "large")
    assert re.search(rf"-{process.pid}-large-\w{{4}}: 1 slot,", said(process, ": 1 slot,"))
    infos = await on_the_server.connection.api(f"CONSUMER.LIST.{on_the_server.names.tasks_stream}")
    assert len(infos["consumers"]) == 9
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


async def test_sigterm_in_the_middle_of_tasks_loses_none_and_counts_none_as_failed(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    names = ["one", "two", "three"]
    for name in names:
        submit(with_server, "lollygag:Waits", "--args", f'["{name}"]')
    stopped = with_server.start("worker", "--worker-size", "small", "--grace", "0.1")
    for name in names:
        await with_server.wait_for_line(f"begin {name}")
    stopped.send_signal(signal.SIGTERM)
    _, err = stopped.communicate(timeout=30)
    assert stopped.returncode == 0, err
    assert "will retry" not in err
    assert sorted(line for line in with_server.journal() if line.startswith("cancelled")) == sorted(
        f"cancelled {name}" for name in names
    )
    assert await on_the_server.attempts() == 0
    assert await on_the_server.locks() == 0
    assert await on_the_server.waiting() == 3
    for name in names:
        with_server.release(name)
    assert with_server(*BURST).returncode == 0
    assert sorted(line for line in with_server.journal() if line.startswith("end")) == sorted(
        f"end {name}" for name in names
    )
    assert await on_the_server.waiting() == 0
    assert await on_the_server.attempts() == 0


async def test_running_tasks_may_end_in_the_grace_period_and_nothing_new_is_begun(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    submit(with_server, "lollygag:Waits", "--args", '["first"]')
    process = with_server.start("worker", "--worker-size", "small", "--max-concurrent-tasks", "1", "--grace", "600")
    await with_server.wait_for_line("begin first")
    process.send_signal(signal.SIGTERM)
    said(process, "stopping: 1 tasks have 600 s to end")
    submit(with_server, "lollygag:SyncOwnersTask", "--args", '["second"]')
    with_server.release("first")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert with_server.journal() == ["begin first", "end first"]
    assert await on_the_server.waiting() == 1


async def test_a_second_signal_ends_the_grace_period_and_gives_running_tasks_back(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    submit(with_server, "lollygag:Waits", "--args", '["long"]')
    process = with_server.start("worker", "--worker-size", "small", "--grace", "600")
    await with_server.wait_for_line("begin long")
    process.send_signal(signal.SIGTERM)
    said(process, "stopping")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert with_server.journal() == ["begin long", "cancelled long"]
    assert await on_the_server.waiting() == 1
    assert await on_the_server.attempts() == 0
    assert await on_the_server.locks() == 0


async def test_a_second_signal_ends_a_worker_whose_task_refuses_cancellation(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    submit(with_server, "lollygag:Stubborn")
    process = with_server.start("worker", "--worker-size", "small", "--grace", "600")
    await with_server.wait_for_line("begin stubborn")
    process.send_signal(signal.SIGTERM)
    said(process, "stopping")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert with_server.journal() == ["begin stubborn", "refused"]
    assert await on_the_server.waiting() == 1


async def test_a_task_that_fails_twice_recovers_in_a_worker_that_stays(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    submit(with_server, "lollygag:Recovers", "--args", '["tabby"]')
    process = with_server.start("worker", "--worker-size", "small")
    await with_server.wait_for_line("recovered tabby")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert with_server.journal() == ["try tabby"] * 3 + ["recovered tabby"]
    assert await on_the_server.waiting() == 0


async def test_a_task_whose_lock_a_call_holds_waits_without_using_up_a_retry(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    holder = with_server.start("call", "lollygag:Waits", "--args", '["door"]')
    await with_server.wait_for_line("begin door")
    submit(with_server, "lollygag:Waits", "--args", '["door"]')
    process = with_server.start("worker", "--worker-size", "small", "--lock-retry-delay", "0.2")
    line = said(process, "waits")
    assert "mutex.lollygag.door is held by lollygag:Waits" in line
    assert re.search(rf"-{holder.pid}-call-\w{{4}} since", line)
    assert await on_the_server.attempts() == 0
    with_server.release("door")
    await with_server.wait_for_line("end door", 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0
