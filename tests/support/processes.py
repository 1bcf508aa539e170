"""The console script as a process that runs until it is stopped, with its output in a file."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine
from support.paths import CONSOLE_SCRIPT

START_SECONDS = 30.0
"""How long a process may take to start, or to write what a test waits for."""
STOP_SECONDS = 30.0


class LoggedProcess:
    """A command that serves until it is stopped; the fixture of its command line kills it if a test does not."""

    def __init__(self, command_line: CommandLine, *arguments: str, **environment: str) -> None:
        self._log = _new_log(command_line.folder, arguments[0])
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [str(CONSOLE_SCRIPT), *arguments],
                env=command_line.environment | environment,
                cwd=command_line.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        command_line.started.append(self.process)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """Its output so far."""
        return self._log.read_text()

    async def logs(self, text: str) -> None:
        """Wait until its output contains a text."""
        description = f"process {self.pid} logs {text!r}"
        await wait_until(lambda: text in self.log, description=description, timeout=START_SECONDS)

    async def ended(self) -> int:
        """Wait until it has ended; return its exit code."""
        # Polled, since a thread that waits would block the end of the loop.
        await wait_until(lambda: self.process.poll() is not None, description="the process ends", timeout=STOP_SECONDS)
        return self.process.wait()

    async def stop(self) -> int:
        """Send SIGTERM and wait for the end; return the exit code."""
        self.process.terminate()
        return await self.ended()

    async def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.process.kill()
        await self.ended()

    def suspend(self) -> None:
        """Send SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT."""
        self.process.send_signal(signal.SIGCONT)


def _new_log(folder: Path, command: str) -> Path:
    return folder / f"{command}-{len(list(folder.glob(f'{command}-*.log')))}.log"


@contextmanager
def worker_process(
    command_line: CommandLine, size: Size, *options: str, url: str | None = None
) -> Iterator[LoggedProcess]:
    """A worker that is killed at the end of the block if it still runs, even if it is suspended.

    Args:
        options: Further options of the command `worker`.
        url: Of the server, if it is not that of the command line.
    """
    environment = {} if url is None else {"DIRACX_TASKS_NATS_URL": url}
    worker = LoggedProcess(command_line, "worker", "--worker-size", size.value, *options, **environment)
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


class DevProcess(LoggedProcess):
    """A running `diracx-task-run dev`; its children end with it."""

    def __init__(self, command_line: CommandLine, *arguments: str) -> None:
        super().__init__(command_line, "dev", *arguments)

    @property
    def url(self) -> str:
        """Of its server."""
        match = re.search(r"nats://127\.0\.0\.1:\d+", self.log)
        assert match, self.log
        return match[0]

    async def ready(self) -> None:
        """Wait until its three workers and its scheduler have started."""
        description = "workers and scheduler have started"
        await wait_until(lambda: self.log.count("tasks known") == 4, description=description, timeout=START_SECONDS)


def free_port() -> int:
    """A TCP port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
