"""`dlq list`, `show`, `replay` and `purge`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.stream_messages import delete_message
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.dead_letters import BODY, HEADERS, DeadLetterBox
from support.paths import CONSOLE_SCRIPT
from support.queues import edit_stream

NAME = HEADERS["Task-Name"]
OTHER = HEADERS | {"Task-Name": "lollygag:Other", "Task-Id": "other"}
AT = datetime(2026, 12, 1, 6, tzinfo=UTC)


@pytest.fixture
async def box(with_server: CommandLine, on_the_server: OnTheServer) -> DeadLetterBox:
    await ensure(on_the_server.connection, assets(on_the_server.names))
    return DeadLetterBox(on_the_server.connection, on_the_server.names)


async def test_list_takes_those_of_one_task_and_those_since_a_time(
    with_server: CommandLine, box: DeadLetterBox
) -> None:
    await box.add()
    await box.add(headers=OTHER)
    await box.advise(7, at=(datetime.now(UTC) - timedelta(days=3)).isoformat())

    def seqs(*options: str) -> list[int]:
        return [letter["seq"] for letter in with_server.json("dlq", "list", *options)]

    assert seqs("--task", "lollygag:Other") == [2]
    assert seqs("--since", "2h") == [1, 2]
    assert seqs("--since", (datetime.now(UTC) - timedelta(days=4)).isoformat()) == [1, 2, 3]
    none = with_server("dlq", "list", "--task", "a:B", "--since", "2100-01-01T00:00:00Z")
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr == "no dead letters of a:B since 2100-01-01T00:00:00Z\n"


async def test_show_tells_the_whole_story_at_80_columns(with_server: CommandLine, box: DeadLetterBox) -> None:
    traceback = 'Traceback (most recent call last):\n  File "tasks.py", line 3, in execute\n    raise ValueError\n'
    failures = (
        Failure("ValueError", "no owner " * 20, traceback, "host-1-small", AT),
        Failure("OSError", "\x1b[31mred\x07", "", "host-2-small", AT),
    )
    labels = json.dumps({"vo": "lhcb", "größe": "x " * 60})
    await box.add(b'{"owner_name":"alice","tags":[1,2]}', HEADERS | {"Task-Labels": labels}, failures=failures)
    done = with_server("dlq", "show", "1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for line in (
        "seq        1",
        f"task       {NAME}",
        "id         abc",
        "attempts   1",
        "reason     over",
        "labels     vo=lhcb",
        '             "owner_name": "alice",',
        "error 1 of 2, 2026-12-01T06:00:00.000Z, host-1-small",
        '  File "tasks.py", line 3, in execute',
        "error 2 of 2, 2026-12-01T06:00:00.000Z, host-2-small",
        r"OSError: \x1b[31mred\x07",
    ):
        assert line in lines
    assert [with_server.json("dlq", "show", "1")] == with_server.json("dlq", "list")


async def test_one_that_the_server_gave_up_is_shown_by_its_message_and_as_gone_once_that_is_gone(
    with_server: CommandLine, box: DeadLetterBox
) -> None:
    given_up = await box.put()
    await box.advise(given_up)
    (letter,) = with_server.json("dlq", "list")
    assert (letter["task"], letter["id"], letter["args"]) == (NAME, "abc", {"owner_name": "alice"})
    assert f"given up on normal-small after 3 deliveries, message {given_up}" in with_server("dlq", "list").stdout
    assert '             "owner_name": "alice"' in with_server("dlq", "show", "1").stdout.splitlines()
    await delete_message(box.connection, box.names.tasks_stream, given_up)
    (letter,) = with_server.json("dlq", "list")
    assert (letter["task"], letter["id"], letter["args"], letter["errors"]) == (None, None, None, [])
    assert letter["reason"].endswith("(the message is gone)")
    shown = with_server("dlq", "show", "1")
    assert shown.returncode == 0
    assert "the message is gone" in " ".join(shown.stdout.split())


async def test_show_of_none_is_bad_usage(with_server: CommandLine, box: DeadLetterBox) -> None:
    done = with_server("dlq", "show", "7")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no dead letter 7; see `diracx-task-run dlq list`")


async def test_replay_takes_those_that_are_named_and_tells_which_it_cannot(
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


@pytest.mark.parametrize(("command", "arguments"), [("replay", ()), ("purge", ("1", "--all"))])
def test_which_ones_must_be_said_in_one_way(extension: CommandLine, command: str, arguments: tuple[str, ...]) -> None:
    done = extension("dlq", command, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "say which: either SEQ..., or --task NAME, or --all" in done.stderr


async def test_a_replay_into_a_full_queue_is_exit_69(with_server: CommandLine, box: DeadLetterBox) -> None:
    await box.put()
    await edit_stream(box.connection, box.names.tasks_stream, max_bytes=100)
    await box.add()
    done = with_server("dlq", "replay", "--all")
    assert (done.returncode, done.stdout) == (69, "")
    assert f"error: dead letter 1 was not replayed: the stream {box.names.tasks_stream} is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert await box.letters() == 1


def test_where_nothing_is_set_up_there_is_nothing_to_replay_or_purge(with_server: CommandLine, namespace: str) -> None:
    for command, said in (("replay", "replayed 0 tasks\n"), ("purge", "purged 0 dead letters\n")):
        done = with_server("dlq", command, "--all")
        assert (done.returncode, done.stdout) == (0, said)
        assert f"there is no stream {namespace.upper()}_DLQ" in done.stderr


async def test_purge_asks_and_removes_what_is_left_of_a_task(with_server: CommandLine, box: DeadLetterBox) -> None:
    await box.add(sequence=7)
    await box.advise(7, "MSG_TERMINATED")
    given_up = await box.put()
    await box.advise(given_up)
    await box.add(headers=OTHER)
    unasked = with_server("dlq", "purge", "--all")
    assert (unasked.returncode, unasked.stdout) == (2, "")
    assert "nobody is there to be asked, and nothing was purged; say --yes" in unasked.stderr
    refused = with_server("dlq", "purge", "--all", typed="n\n")
    assert (refused.returncode, refused.stdout) == (0, "")
    assert "Purge 3 dead letters for good? [y/N]" in refused.stderr
    assert "nothing was purged" in refused.stderr
    assert await box.letters() == 4
    agreed = with_server("dlq", "purge", "--task", NAME, typed="y\n")
    assert (agreed.returncode, agreed.stdout) == (0, "purged 2 dead letters\n")
    assert await box.task(given_up) is None
    done = with_server("dlq", "purge", "4", "5", "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "purged 1 dead letter\n",
        "error: there is no dead letter 5\n",
    )
    assert await box.letters() == 0


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
    """Standard output, and what came on a terminal as standard error."""
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
