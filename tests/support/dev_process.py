"""`diracx-task-run dev` as a process."""

from __future__ import annotations

import re
import socket
import subprocess

from diracx.tasks.testing import wait_until
from support.command_line import CONSOLE_SCRIPT, CommandLine


class Dev:
    """A running `dev`, whose log is read from a file."""

    def __init__(self, command_line: CommandLine, *arguments: str) -> None:
        self._log = command_line.folder / "dev.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [str(CONSOLE_SCRIPT), "dev", *arguments],
                env=command_line.environment,
                cwd=command_line.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        # Its children end with it.
        command_line.started.append(self.process)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def url(self) -> str:
        match = re.search(r"nats://127\.0\.0\.1:\d+", self.log)
        assert match, self.log
        return match[0]

    async def ready(self) -> None:
        await wait_until(lambda: self.log.count("tasks known") == 4, description="workers and scheduler", timeout=30)

    async def ended(self) -> int:
        await wait_until(lambda: self.process.poll() is not None, description="dev has ended", timeout=30)
        return self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
