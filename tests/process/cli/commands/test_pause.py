"""`pause` and `resume` of real processes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.health_door import get, health_of

SMALL = ("worker", "--worker-size", "small")
NAMES = [
    f"{priority}-{size}" for priority in ("realtime", "normal", "background") for size in ("small", "medium", "large")
]


def paused(command_line: CommandLine) -> dict[str, str]:
    """Until when, by queue."""
    queues = command_line.json("status")["queues"]
    return {f"{each['priority']}-{each['size']}": each["paused_until"] for each in queues if each["paused_until"]}


@pytest.fixture
async def mesh(with_server: CommandLine, on_the_server: OnTheServer) -> CommandLine:
    """The command line with streams and queues."""
    await on_the_server.set_up()
    return with_server


def test_queues_are_paused_by_any_of_their_names_and_resumed_with_a_line_each(
    mesh: CommandLine, namespace: str
) -> None:
    done = mesh("pause", "normal-small", f"{namespace}.tasks.realtime.large", "background.medium")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "paused normal-small until it is resumed",
        "paused realtime-large until it is resumed",
        "paused background-medium until it is resumed",
    ]
    far = "2200-01-01T00:00:00Z"
    assert paused(mesh) == {"normal-small": far, "realtime-large": far, "background-medium": far}
    rows = [line for line in mesh("status").stdout.splitlines() if line.endswith("resumed")]
    assert [row.split()[:2] for row in rows] == [["realtime", "large"], ["normal", "small"], ["background", "medium"]]
    done = mesh("resume", "normal.small", "normal-large")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["resumed normal-small", "normal-large was not paused"]
    assert list(paused(mesh)) == ["realtime-large", "background-medium"]


def test_all_are_paused_for_a_time_and_paused_again_for_another(mesh: CommandLine) -> None:
    before = datetime.now(UTC)
    lines = mesh("pause", "--all", "--for", "15m").stdout.splitlines()
    found = [re.fullmatch(r"paused (\S+) until (\S+Z)", line) for line in lines]
    assert [match[1] for match in found if match] == NAMES
    until = paused(mesh)
    assert list(until) == NAMES
    assert {match[2] for match in found if match} == set(until.values())
    (moment,) = {datetime.fromisoformat(text) for text in until.values()}
    assert moment - before >= timedelta(minutes=15)
    assert moment - datetime.now(UTC) <= timedelta(minutes=15, seconds=1)
    (line,) = mesh("pause", "normal-small").stdout.splitlines()
    assert line == f"paused normal-small until it is resumed; it was until {until['normal-small']}"
    assert mesh("resume", "--all").stdout.splitlines() == [f"resumed {name}" for name in NAMES]
    assert paused(mesh) == {}


async def test_a_worker_ends_its_running_tasks_stays_healthy_and_serves_the_queue_once_it_is_resumed(
    mesh: CommandLine, on_the_server: OnTheServer
) -> None:
    worker = mesh.start(*SMALL, "--health-port", "0")
    address = health_of(worker)
    mesh("submit", "lollygag:Waits", "--args", '["a"]')
    await mesh.wait_for_line("begin a")
    assert mesh("pause", "normal-small").returncode == 0
    mesh("submit", "lollygag:SyncOwnersTask", "--args", '["alice"]')
    mesh.release("a")
    await wait_until(lambda: _waiting(on_the_server, 1), description="what ran is settled", timeout=30)
    assert get(f"{address}/live") == get(f"{address}/ready") == (200, "ok\n")
    # Also one that starts now lifts nothing.
    burst = mesh(*SMALL, "--burst")
    assert burst.returncode == 0
    assert "the queue normal-small is paused until it is resumed" in burst.stderr
    assert await on_the_server.waiting() == 1
    assert "sync alice" not in mesh.journal()
    assert mesh("resume", "normal-small").stdout == "resumed normal-small\n"
    await mesh.wait_for_line("sync alice")


async def _waiting(on_the_server: OnTheServer, count: int) -> bool:
    return await on_the_server.waiting() == count


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_an_unknown_queue_is_exit_2_and_a_line_with_near_names_and_nothing_is_done(
    mesh: CommandLine, command: str
) -> None:
    done = mesh(command, "normal-large", "normal-smal")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: unknown queue 'normal-smal'; did you mean normal-small\? See .*\n", done.stderr)
    assert paused(mesh) == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("pause",), "give either QUEUE... or --all"),
        (("resume", "normal-small", "--all"), "give either QUEUE... or --all"),
        (("pause", "normal-small", "--for", "soon"), "'soon' is not a duration, e.g. 90s, 15m, 2h, 7d"),
        (("pause", "normal-small", "--for", "0"), "0 is not from 1s to 3650d"),
    ],
)
def test_bad_usage_is_exit_2_and_a_line(bare: CommandLine, arguments: tuple[str, ...], told: str) -> None:
    done = bare(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["pause", "resume"])
async def test_no_mesh_no_queue_and_no_server_are_exit_69_and_a_line(
    with_server: CommandLine, on_the_server: OnTheServer, namespace: str, command: str
) -> None:
    done = with_server(command, "--all")
    assert (done.returncode, done.stdout) == (69, "")
    assert re.fullmatch(rf"error: namespace {namespace} does not exist on this server: .*\n", done.stderr)
    with_server("setup")
    await on_the_server.connection.api(f"CONSUMER.DELETE.{on_the_server.names.tasks_stream}.normal-large")
    done = with_server(command, "--all")
    assert (done.returncode, done.stdout) == (69, "")
    assert re.fullmatch(rf"error: namespace {namespace} has no queue normal-large: .*\n", done.stderr)
    done = with_server(command, "--all", DIRACX_TASKS_NATS_URL="nats://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.count("\n") == 1


def test_a_shell_completes_queues(bare: CommandLine) -> None:
    complete = {
        "_DIRACX_TASK_RUN_COMPLETE": "bash_complete",
        "COMP_WORDS": "diracx-task-run pause normal-small back",
        "COMP_CWORD": "3",
    }
    names = [line.partition(",")[2] for line in bare(**complete).stdout.splitlines()]
    assert names == ["background-small", "background-medium", "background-large"]
