"""Commands of this program as child processes: one log, restarts, one end for all.

A child leads a session of its own, so that the terminal's Ctrl-C reaches this process alone, which then stops its
children in order. It also holds the reading end of a pipe, its standard input, and stops at its end: so it does not
outlive this process, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

_RESTART_PAUSE: Final = 1.0

Tell = Callable[[str, str], None]
"""Takes the name of a child and a line of its log."""


def stop_when_input_ends() -> None:
    """Send this process SIGTERM when its standard input ends: its parent is gone."""

    def watch() -> None:
        # Not through sys.stdin: a thread that waits in it is fatal to an interpreter that ends.
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@dataclass
class Child:
    """One command, run again when it ends by itself.

    Args:
        name: In the log.
        arguments: Of `diracx-task-run`.
        environment: Of the process.
    """

    name: str
    arguments: Sequence[str]
    environment: dict[str, str] = field(repr=False)
    _process: asyncio.subprocess.Process | None = field(default=None, init=False)
    _stopping: bool = field(default=False, init=False)

    async def run(self, tell: Tell) -> None:
        """Keep the command running until `stop`."""
        while not self._stopping:
            code = await self._run_once(tell)
            if not self._stopping:
                tell(self.name, f"ended with {code}; it is started again")
                await asyncio.sleep(_RESTART_PAUSE)

    async def _run_once(self, tell: Tell) -> int:
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "diracx.tasks.cli",
            *self.arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.environment,
            start_new_session=True,
        )
        if self._stopping:
            self.stop()
        assert process.stdout is not None
        async for line in process.stdout:
            tell(self.name, line.decode(errors="replace").rstrip())
        return await process.wait()

    def stop(self) -> None:
        """Ask it to end; asked a second time it ends at once, see `worker`."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
