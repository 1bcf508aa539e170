"""Commands of this program as child processes: one log, restarts, one end for all.

* A child leads a session of its own. So Ctrl-C on the terminal reaches only the parent, which stops its children in
  order.
* A child stops when its standard input ends. The parent holds the other end of that pipe, so no child survives the
  parent, however the parent ends.
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

from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.logs import LogLine
from diracx.tasks.plumbing.background import wait_for_event

MAX_LINE_BYTES: Final = 1 << 24
LAST_LINES_SECONDS: Final = 0.5
MAX_REMEMBERED_LINES: Final = 1_000
"""A run that fails at once prints fewer lines; of a run that goes well, no more are kept."""

ShowLine = Callable[[str, LogLine | str], None]
"""Takes the name of a child, and a line of its log or another line that it printed."""


def stop_when_input_ends() -> None:
    """Send this process SIGTERM when its standard input ends, which means that its parent has ended."""

    def watch() -> None:
        # Not through sys.stdin: a thread that waits in it is fatal to an interpreter that ends.
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@dataclass
class Child:
    """One command, which is started again whenever it ends by itself.

    The pause before a restart doubles while runs stay short. After bad usage, which only a change of code mends, the
    pause is the longest one, and lines that the failed run before printed are not shown again.

    Args:
        name: The name in the log.
        arguments: The arguments of `diracx-task-run`.
        environment: The environment of the process. It sets JSON as the format of the log.
        shortest_pause: The first pause, in seconds.
        longest_pause: The longest pause, in seconds. A run that lasts longer than this resets the pause.
    """

    name: str
    arguments: Sequence[str]
    environment: dict[str, str] = field(repr=False)
    shortest_pause: float = 1.0
    longest_pause: float = 30.0
    _process: asyncio.subprocess.Process | None = field(default=None, init=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _shown_before: set[str] = field(default_factory=set, init=False)
    """The lines of earlier runs that ended for bad usage. Such a run begins no task."""
    _printed: set[str] = field(default_factory=set, init=False)
    """The lines of this run."""

    async def run(self, show: ShowLine) -> None:
        """Keep the command running until `stop`."""
        loop, pause = asyncio.get_running_loop(), self.shortest_pause
        while not self._stopping.is_set():
            begun = loop.time()
            code = await self._run_once(show)
            when = "every" if code == ExitCode.USAGE else "in"
            if code == ExitCode.USAGE:
                pause = self.longest_pause
            elif loop.time() - begun > self.longest_pause:
                pause = self.shortest_pause
            if not self._stopping.is_set():
                self._show_once(show, f"ended with exit code {code}; it is started again {when} {pause:g} s")
            self._shown_before = self._shown_before | self._printed if code == ExitCode.USAGE else set()
            self._printed.clear()
            await wait_for_event(self._stopping, pause)
            pause = min(2 * pause, self.longest_pause)

    async def _run_once(self, show: ShowLine) -> int:
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
            limit=MAX_LINE_BYTES,
        )
        if self._stopping.is_set():
            self.stop()
        reading = asyncio.create_task(self._read(process, show), name=f"output of {self.name}")
        try:
            # A process that a task left may hold the pipe open, and `wait` of some versions waits for its end too.
            while process.returncode is None and not reading.done():
                await asyncio.wait([reading], timeout=LAST_LINES_SECONDS)
            await asyncio.wait([reading], timeout=LAST_LINES_SECONDS)
            if reading.done():
                await reading  # raises its error, e.g. for a line that is too long
            return process.returncode if process.returncode is not None else await process.wait()
        finally:
            reading.cancel()
            process._transport.close()  # type: ignore[attr-defined]  # a pipe that a left process holds stays open

    async def _read(self, process: asyncio.subprocess.Process, show: ShowLine) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self._show_once(show, line.decode(errors="replace").rstrip())

    def _show_once(self, show: ShowLine, line: str) -> None:
        read = LogLine.read(line)
        message = line if read is None else read.message
        if message not in self._shown_before:
            show(self.name, read or line)
        if len(self._printed) < MAX_REMEMBERED_LINES:
            self._printed.add(message)

    def stop(self) -> None:
        """Ask the command to end. A second call ends it at once; see `signals`."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
