"""The processes of a mesh, replaced when they end, and what the system tells of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

STOP_SECONDS = 45.0


class Seat:
    """Keeps one process of the console script running.

    Args:
        name: What it is, in the names of its measures.
        arguments: Of `diracx-task-run`.
        log: The output of the processes of this seat.
    """

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._command = [str(Path(sys.executable).with_name("diracx-task-run")), *arguments]
        self._environment = dict(environment)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._ending = False
        self.restarts = 0
        self.problems: list[str] = []
        """Processes that ended by themselves, or did not end."""

    @property
    def pid(self) -> int | None:
        """The pid of the running process."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start a process."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def restart(self, *, kill: bool) -> None:
        """End the process, gracefully or by SIGKILL, and start another one."""
        await self.end(kill=kill)
        await self.start()
        self.restarts += 1

    async def end(self, *, kill: bool = False) -> None:
        """End the process; one that does not stop in time is killed, and recorded as a problem."""
        process = self._process
        if process is None:
            return
        if process.returncode is not None:
            self.problems.append(f"{self.name} {process.pid} ended by itself with {process.returncode}")
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            self.problems.append(f"{self.name} {process.pid} did not end within {STOP_SECONDS:.0f} s and was killed")
            process.kill()
            await process.wait()


def megabytes(pid: int) -> float:
    """The resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files(pid: int) -> int:
    """How many file descriptors a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
