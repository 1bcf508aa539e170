"""The environments, servers and processes of `peers`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from peers_catalogue import TOP, Peer, Server

APPS: Final = TOP / "scripts" / "benchmark_peers"
ENVIRONMENTS: Final = TOP / ".venv-peers"

_ENTRY_POINTS: Final = """\
[diracx]
extension = diracx_app
[diracx.tasks.bench]
Noop = diracx_app:Noop
Fill = diracx_app:Fill
"""


def install(peer: Peer) -> None:
    """Make the environment of a system, unless it is there as it should be.

    Raises:
        SystemExit: It cannot be installed.
    """
    folder = ENVIRONMENTS / peer.folder
    stamp, wanted = folder / "installed", "\n".join(peer.requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {peer.name} into {folder.relative_to(TOP)} ...", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=True)
    # Without the constraint, which would put this project in the place of DiracX's own.
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    command = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    if subprocess.run([*command, *peer.requirements], env=environment, check=False).returncode:
        raise SystemExit(f"error: {peer.name} could not be installed; its output stands above")
    stamp.write_text(wanted)


def redis_is_installed() -> bool:
    """Whether there is a redis-server on the PATH."""
    return shutil.which("redis-server") is not None


@contextmanager
def serving(server: Server) -> Iterator[str]:
    """A new, empty server on loopback; its URL. Both keep what they hold in files."""
    if server == "NATS":
        with EmbeddedServer() as nats:
            yield nats.url
        return
    with tempfile.TemporaryDirectory(prefix="peers-redis-") as folder, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        unused.close()
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        # The file is synced each second, as its documentation advises; no snapshots.
        with running([*command, "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""], Path(folder)):
            wait_until(lambda: _answers(port), 10, "Redis answers")
            yield f"redis://127.0.0.1:{port}"


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def extension() -> Iterator[Path]:
    """A folder that, on the path of Python, is a distribution with the entry points of `diracx_app`."""
    with tempfile.TemporaryDirectory(prefix="peers-extension-") as name:
        folder = Path(name) / "bench_peers-0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-peers\nVersion: 0\n")
        (folder / "entry_points.txt").write_text(_ENTRY_POINTS)
        yield Path(name)


def environment_of(peer: Peer, url: str, entry_points: Path) -> dict[str, str]:
    """The environment of all its processes."""
    return {
        **os.environ,
        "PATH": f"{ENVIRONMENTS / peer.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{entry_points}{os.pathsep}{APPS}",
        "PEER_URL": url,
        "DIRACX_TASKS_NATS_URL": url,
        "DIRACX_TASKS_REDIS_URL": url,
        "PEER_SIZE": peer.size,
        "DIRACX_LOG_LEVEL": "WARNING",
        "DIRACX_TASKS_LOG_LEVEL": "warning",
    }


@contextmanager
def running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own, its output in `folder`; its whole group ends with the block."""
    path = None if environment is None else environment["PATH"]
    program = shutil.which(command[0], path=path) or command[0]
    with (folder / f"{Path(program).name}.log").open("ab") as log:
        process = subprocess.Popen(
            [program, *command[1:]], cwd=APPS, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(fact: Callable[[], bool], seconds: float, description: str) -> None:
    """Wait for a fact.

    Raises:
        TimeoutError: It has not come true.
    """
    end = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {description}")
        time.sleep(0.02)
