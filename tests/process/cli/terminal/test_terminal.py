"""The output on terminals of 80 and 140 columns."""

from __future__ import annotations

import json
import os
import re
import signal
import sys

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import LockOwner, MutexLock
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.dead_letters import HEADERS, DeadLetterBox
from support.terminal import on_terminal, shown

LONG_NAME = "lollygag:ReconcileTheReplicaCatalogueAcrossEverySiteTask"
TASK_ID = "fbad372ddf92429dbadd9c2a131f1146"
WIDTHS = pytest.mark.parametrize("columns", [80, 140])

COMMANDS = (
    *(
        "call",
        "submit",
        "result",
        "cancel",
        "worker",
        "scheduler",
        "dev",
        "status",
        "tasks",
        "setup",
        "pause",
        "resume",
    ),
    *("schedule list", "schedule run", "dlq list", "dlq show", "dlq replay", "dlq purge"),
    *("locks list", "locks release", "config show", "config history", "config diff", "config set", "config rollback"),
)


@pytest.fixture
async def mesh(on_the_server: OnTheServer) -> OnTheServer:
    await on_the_server.set_up()
    return on_the_server


@WIDTHS
async def test_dead_letters_show_sequence_time_task_and_id_whole(
    with_server: CommandLine, mesh: OnTheServer, columns: int
) -> None:
    await DeadLetterBox(mesh.connection, mesh.names).add(headers=HEADERS | {"Task-Name": LONG_NAME, "Task-Id": TASK_ID})
    text = shown(with_server, "dlq", "list", columns=columns)
    (letter,) = with_server.json("dlq", "list")
    words = text.split()
    assert {str(letter["seq"]), LONG_NAME, TASK_ID, f"{letter['died'][:19]}Z"} <= set(words)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= columns


@WIDTHS
async def test_a_lock_is_released_by_the_key_that_is_shown(
    with_server: CommandLine, mesh: OnTheServer, columns: int
) -> None:
    bucket = Bucket(mesh.connection, mesh.names.locks_bucket)
    owner = "an owner whose name is long and has dots . and ümlauts"
    await MutexLock(JOB, owner).acquire(
        bucket, LockOwner.new(task=LONG_NAME, id=TASK_ID, worker="node-1.example.org-1")
    )
    (key,) = await bucket.keys()
    assert key in shown(with_server, "locks", "list", columns=columns).split()
    assert f"released {key}" in shown(with_server, "locks", "release", key, "--yes", columns=columns)


@WIDTHS
def test_tasks_and_schedules_are_whole(with_server: CommandLine, mesh: OnTheServer, columns: int) -> None:
    tasks = shown(with_server, "tasks", columns=columns)
    names = {task["name"] for task in with_server.json("tasks")}
    assert names <= set(tasks.split())
    schedules = shown(with_server, "schedule", "list", columns=columns)
    assert "lollygag:OwnerCleanupTask" in schedules.split()
    assert "…" not in tasks + schedules


EACH_HELP = """
import json, sys
from diracx.tasks.cli.app import run
for command in json.loads(sys.argv[1]):
    assert run([*command.split(), "--help"]) == 0
    print("\\f")
"""


@WIDTHS
def test_help_fits_and_breaks_no_name(bare: CommandLine, columns: int) -> None:
    # In one process, since to start it takes longer than to print its help.
    arguments = ("-c", EACH_HELP, json.dumps(COMMANDS))
    with on_terminal(bare, *arguments, program=sys.executable, columns=columns) as terminal:
        assert terminal.read_to_the_end() == 0, terminal.text
    *texts, _ = terminal.text.split("\f")
    for command, text in zip(COMMANDS, texts, strict=True):
        assert f"{command} " in text
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= columns, command
        variables = re.findall(r"\[\$(\S+)\]", text)
        assert all(re.fullmatch(r"DIRACX_TASKS_[A-Z_]+", variable) for variable in variables), command
        assert text.count("[$") == len(variables), command


def test_a_watched_status_follows_the_size_of_its_window(with_server: CommandLine, mesh: OnTheServer) -> None:
    with on_terminal(with_server, "status", "--watch", "--interval", "3600", columns=40) as terminal:
        terminal.read_until("no workers")
        assert "redelivered" not in terminal.text
        terminal.resize(140, 40)
        terminal.read_until("no workers")
        assert "redelivered" in terminal.text
        assert terminal.interrupt() == 0
        assert "Traceback" not in terminal.text


def test_an_outage_is_one_line_on_a_watched_status_and_no_log_is_written_into_it(
    extension: CommandLine, own_server: EmbeddedServer
) -> None:
    extension.environment["DIRACX_TASKS_NATS_URL"] = own_server.url
    assert extension("setup").returncode == 0
    with on_terminal(extension, "status", "--watch", "--interval", "0.1", "--log-level", "info") as terminal:
        terminal.read_until("no workers")
        own_server.kill()
        terminal.read_until("no news since then: ")
        own_server.start()
        while "no news" in terminal.screen:
            terminal.read_until("no workers")
        os.kill(terminal.process.pid, signal.SIGINT)
        assert terminal.read_to_the_end() == 0
        assert "diracx.tasks.jetstream" not in terminal.text


def test_a_terminal_that_cannot_be_drawn_on_gets_one_text_after_another(
    with_server: CommandLine, mesh: OnTheServer
) -> None:
    with on_terminal(with_server, "status", "--watch", "--interval", "0.05", TERM="dumb") as terminal:
        terminal.read_until("no workers")
        terminal.read_until("no workers")
        assert terminal.interrupt() == 0
        assert "\x1b" not in terminal.written


async def test_without_colours_nothing_is_lost(with_server: CommandLine, mesh: OnTheServer) -> None:
    with on_terminal(with_server, "status", NO_COLOR="1") as terminal:
        assert terminal.read_to_the_end() == 0
        assert not re.search(r"\x1b\[(?:\d+;)*[34]\d", terminal.written)
    await wait_until(lambda: "nobody leads" in terminal.text, description="the summary is there")


async def test_a_question_is_answered_on_the_terminal_and_ctrl_c_leaves_a_line_of_its_own(
    with_server: CommandLine, mesh: OnTheServer
) -> None:
    await DeadLetterBox(mesh.connection, mesh.names).add()
    with on_terminal(with_server, "dlq", "purge", "--all") as terminal:
        terminal.read_until("[y/N]: ")
        assert terminal.interrupt() == 130
        assert terminal.text.splitlines()[-1] == "error: interrupted"
    with on_terminal(with_server, "dlq", "purge", "--all") as terminal:
        terminal.read_until("[y/N]: ")
        terminal.type("y\n")
        assert terminal.read_to_the_end() == 0
        assert terminal.text.splitlines()[-1] == "purged 1 dead letter"


async def test_ctrl_c_at_the_question_releases_no_lock(with_server: CommandLine, mesh: OnTheServer) -> None:
    bucket = Bucket(mesh.connection, mesh.names.locks_bucket)
    await MutexLock(JOB, 8).acquire(bucket, LockOwner.new(task=LONG_NAME, id=TASK_ID, worker="node-1"))
    with on_terminal(with_server, "locks", "release", "mutex.job.8") as terminal:
        terminal.read_until("[y/N]: ")
        assert f"{LONG_NAME} {TASK_ID} on node-1 since 20" in terminal.text
        assert terminal.interrupt() == 130
    assert await bucket.keys() == ["mutex.job.8"]


async def test_a_bar_shows_how_far_a_long_replay_is(with_server: CommandLine, mesh: OnTheServer) -> None:
    box = DeadLetterBox(mesh.connection, mesh.names)
    for number in range(300):
        await box.add(headers=HEADERS | {"Task-Id": f"task {number}"})
    text = shown(with_server, "dlq", "replay", "--all")
    assert "replaying" in text
    assert text.splitlines()[-1] == "replayed 300 tasks"
