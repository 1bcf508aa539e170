"""`dlq replay`."""

from __future__ import annotations

import os
import pty
import subprocess

from diracx.tasks.testing import wait_until
from support.command_line import CommandLine
from support.dead_letters import BODY, HEADERS, DeadLetterBox
from support.paths import CONSOLE_SCRIPT
from support.queues import edit_stream

OTHER = HEADERS | {"Task-Name": "lollygag:Other", "Task-Id": "other"}


async def test_replay_replays_the_named_ones_and_reports_those_that_it_cannot(
    with_server: CommandLine, box: DeadLetterBox
) -> None:
    for headers in (HEADERS, OTHER, HEADERS):
        await box.add(headers=headers)
    await box.advise(7, "MSG_TERMINATED")
    done = with_server("dlq", "replay", "3", "4", "9")
    assert (done.returncode, done.stdout) == (2, "replayed 1 task\n")
    assert done.stderr.splitlines() == [
        "error: there is no dead letter 9",
        "error: dead letter 4 cannot be replayed: only the advisory of its end is left, the message is gone",
    ]
    done = with_server("dlq", "replay", "--task", "lollygag:Other")
    assert (done.returncode, done.stdout, done.stderr) == (0, "replayed 1 task\n", "")
    done = with_server("dlq", "replay", "--all")
    assert (done.returncode, done.stdout) == (0, "replayed 1 task\n")
    assert "dead letter 4 cannot be replayed" in done.stderr
    tasks = await box.put_back(3)
    assert [task.headers["Task-Id"] for task in tasks] == ["abc", "other", "abc"]
    assert await box.letters() == 1


async def test_a_replay_into_a_full_queue_is_exit_69(with_server: CommandLine, box: DeadLetterBox) -> None:
    await box.put()
    await edit_stream(box.connection, box.names.tasks_stream, max_bytes=100)
    await box.add()
    done = with_server("dlq", "replay", "--all")
    assert (done.returncode, done.stdout) == (69, "")
    assert f"error: dead letter 1 was not replayed: the stream {box.names.tasks_stream} is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert await box.letters() == 1


async def test_a_replay_that_is_killed_again_and_again_enqueues_every_task_once(
    with_server: CommandLine, box: DeadLetterBox
) -> None:
    many = 200
    for number in range(many):
        await box.add(BODY, HEADERS | {"Task-Id": f"task {number}"})
    kills = 0
    for left in (150, 75):
        process = with_server.start("dlq", "replay", "--all")

        async def far_enough(left: int = left, process: subprocess.Popen[str] = process) -> bool:
            return await box.letters() <= left or process.poll() is not None

        await wait_until(far_enough, description=f"{left} are left", timeout=30)
        process.kill()
        process.wait()
        kills += process.returncode == -9
    assert kills
    done = with_server("dlq", "replay", "--all")
    assert done.returncode == 0, done.stderr
    tasks = await box.put_back(many)
    assert len({task.headers["Task-Id"] for task in tasks}) == many
    assert (await box.letters(), await box.markers()) == (0, 0)


async def test_a_bar_is_shown_on_a_terminal_only(with_server: CommandLine, box: DeadLetterBox) -> None:
    await box.add()
    piped = with_server("dlq", "replay", "--all")
    assert (piped.stdout, piped.stderr) == ("replayed 1 task\n", "")
    await box.add()
    printed, shown = on_a_terminal(with_server, "dlq", "replay", "--all")
    assert printed == b"replayed 1 task\n"
    assert b"replaying" in shown


def on_a_terminal(command_line: CommandLine, *arguments: str) -> tuple[bytes, bytes]:
    """Standard output, and standard error as a terminal showed it."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        done = subprocess.run(
            [str(CONSOLE_SCRIPT), *arguments],
            env=command_line.environment | {"TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            check=True,
            timeout=60,
        )
        os.close(theirs)
        return done.stdout, terminal.read(65_536)
