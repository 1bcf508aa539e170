"""The workers and the scheduler of the demo: the console script as processes.

The demo runs in an environment without the tests, so it does not use their `support.processes`.
"""

from __future__ import annotations

import asyncio
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_SECONDS = 45.0


def program(command: str) -> list[str]:
    """The words of a command, with the path of the program beside this Python."""
    name, *arguments = shlex.split(command)
    return [str(Path(sys.executable).with_name(name)), *arguments]


def run(command: str, *, shown: bool = False) -> str:
    """Run a command to its end, and return its output.

    Args:
        shown: Whether its output is shown rather than returned.

    Raises:
        RuntimeError: It failed.
    """
    sys.stdout.flush()
    output = None if shown else subprocess.PIPE
    done = subprocess.run(
        program(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}\n{done.stdout or ''}")
    return done.stdout or ""


class MeshProcess:
    """A command that runs until it is stopped, at the latest at the end of the block.

    Args:
        command: As it is typed.
        log: The file for its output.
    """

    def __init__(self, command: str, log: Path) -> None:
        self.command = command
        self._log = log
        self._process: asyncio.subprocess.Process

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *program(self.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Outside the foreground group of the terminal: Ctrl-C reaches the demo, which then stops this process.
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> int:
        """Stop it gracefully, or kill it after `STOP_SECONDS`; return its exit code."""
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
        return await self._process.wait()

    def end_of_log(self) -> str:
        """The last lines of its output."""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
