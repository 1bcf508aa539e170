"""The workers and the scheduler of the demo: the real console script, as processes."""

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
    """The words of a command, the program being the one beside this Python."""
    name, *arguments = shlex.split(command)
    return [str(Path(sys.executable).with_name(name)), *arguments]


def run(command: str, *, shown: bool = False) -> None:
    """Run a command to its end; what it writes is shown, or else only when it fails.

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


class MeshProcess:
    """A command that serves until it is stopped, with its log in a file; it ends with the block.

    Args:
        command: As one types it.
        log: The file.
    """

    def __init__(self, command: str, log: Path) -> None:
        self.command = command
        self._log = log
        self._process: asyncio.subprocess.Process

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.returncode is not None

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *program(self.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Out of the terminal's foreground group: Ctrl-C is for the demo, which then stops this.
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> int:
        """Have it finish what it has in hand and end; its exit code."""
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
        return await self._process.wait()

    def end_of_log(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
