"""`diracx-task-run dev` as a process: one command, one log, one end."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import signal
import socket
import stat
from pathlib import Path

import pytest
import rich_click as click

from diracx.tasks.cli.commands.dev import embedded_server, found_by_other_commands
from diracx.tasks.plumbing.embedded.server import EmbeddedServerError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import AccessRefusedError
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine
from support.processes import DevProcess, free_port


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _descendants(pid: int) -> list[int]:
    # A thread of `dev` starts the supervisor of its server.
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for each in threads for child in each.read_text().split()]
    return [*children, *(below for child in children for below in _descendants(child))]


async def test_a_submitted_task_runs_and_one_signal_ends_all_processes(extension: CommandLine) -> None:
    # Access to another server, in the shell of the user, does not reach its processes.
    elsewhere = {"DIRACX_TASKS_TOKEN": "t", "DIRACX_TASKS_CONTEXT": "nowhere", "DIRACX_TASKS_API_PREFIX": "A.API"}
    shell = dataclasses.replace(extension, environment=extension.environment | elsewhere)
    dev = DevProcess(shell, "--port", str(free_port()))
    await dev.ready()
    below = _descendants(dev.process.pid)
    extension.environment["DIRACX_TASKS_NATS_URL"] = dev.url
    check_that_it_is_for_its_user_alone(extension, dev, below)
    # What it proposes works as it stands.
    (proposed,) = re.findall(r"^  diracx-task-run (submit .*)$", dev.log, re.MULTILINE)
    assert extension(*shlex.split(proposed)).returncode == 0
    done = extension("submit", "lollygag:SyncOwnersTask", "--args", '["bob"]')
    assert done.returncode == 0, done.stderr
    await wait_until(lambda: "done: lollygag:SyncOwnersTask" in dev.log, description="the task is done")
    dev.process.send_signal(signal.SIGINT)
    assert await dev.ended() == 0
    assert dev.log.count("ended after") == 4
    assert "asyncio" not in dev.log
    assert f"[id={done.stdout.strip()}]" in dev.log
    await wait_until(lambda: not any(map(_alive, below)), description="nothing is left running")
    assert not list(contexts(extension).iterdir())


def contexts(command_line: CommandLine) -> Path:
    """The folder of the contexts of the `nats` command."""
    return Path(command_line.environment["XDG_CONFIG_HOME"], "nats", "context")


def check_that_it_is_for_its_user_alone(extension: CommandLine, dev: DevProcess, below: list[int]) -> None:
    """The password of the server is in a file of the user, on no command line and in no log."""
    (file,) = contexts(extension).iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = json.loads(file.read_text())["password"]
    command_lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in (dev.process.pid, *below)]
    assert any("nats-server" in each for each in command_lines)
    assert not [each for each in (*command_lines, dev.log) if secret in each]
    # Another user has another home.
    other = extension("submit", "lollygag:SyncOwnersTask", "--args", '["bob"]', XDG_CONFIG_HOME="/nowhere")
    assert other.returncode == 69
    assert f"cannot connect to {dev.url}: authorization refused: no credentials are given" in other.stderr
    # The context serves by its name, too, whatever the variables say.
    (name,) = re.findall(r"nats --context (\S+) stream report", dev.log)
    assert extension("locks", "list", "--context", name, DIRACX_TASKS_TOKEN="wr0ng").returncode == 0


async def test_its_server_takes_a_free_port_beside_a_taken_one_and_admits_its_user_alone(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with embedded_server([port, None], tmp_path / "store") as settings:
            assert settings.servers[0].rpartition(":")[2] != str(port)
            async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test"):
                pass
            stranger = ConnectionSettings(servers=settings.servers)
            with pytest.raises(AccessRefusedError):
                async with Connection.open(stranger, name="a test", inbox_prefix="_INBOX_test"):
                    pass
            assert modes_of_folders(tmp_path / "store") == {0o700}
        async with embedded_server([free := free_port(), None], tmp_path / "store") as settings:
            assert settings.servers == (f"nats://127.0.0.1:{free}",)
        with pytest.raises(EmbeddedServerError, match="address already in use"):
            async with embedded_server([port], tmp_path / "store"):
                pass


def modes_of_folders(top: Path) -> set[int]:
    """The permissions of a folder and of all below it."""
    folders = [top, *(each for each in top.rglob("*") if each.is_dir())]
    return {stat.S_IMODE(each.stat().st_mode) for each in folders}


def test_a_password_that_cannot_be_written_is_refused_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    settings = ConnectionSettings(servers=("nats://127.0.0.1:1",), user="u", password="p")
    expected = pytest.raises(click.UsageError, match="set XDG_CONFIG_HOME to a folder of yours")
    with expected, found_by_other_commands(settings):
        pass


async def test_its_store_survives_a_restart_and_its_death_ends_all_processes(extension: CommandLine) -> None:
    port = str(free_port())
    dev = DevProcess(extension, "--port", port)
    await dev.ready()
    below = _descendants(dev.process.pid)
    extension.environment["DIRACX_TASKS_NATS_URL"] = dev.url
    delayed = extension("submit", "lollygag:SyncOwnersTask", "--args", '["bob"]', "--delay", "3")
    assert delayed.returncode == 0, delayed.stderr
    dev.process.kill()
    await dev.ended()
    await wait_until(lambda: not any(map(_alive, below)), description="server and workers went, too", timeout=30)
    again = DevProcess(extension, "--port", port)
    await again.ready()
    await wait_until(lambda: "done: lollygag:SyncOwnersTask" in again.log, description="the task is done", timeout=20)
    again.process.send_signal(signal.SIGTERM)
    assert await again.ended() == 0
