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

from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.terminal.log_lines import LogLine
from diracx.tasks.plumbing.clock import wait_for_event

_LONGEST_LINE: Final = 1 << 24
_WHAT_A_FAILURE_SAYS: Final = 1_000
"""Lines; no more are kept of a run that goes well."""

Tell = Callable[[str, LogLine | str], None]
"""Takes the name of a child and a line of its log, or of what it printed otherwise."""


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
    """One command, run again when it ends by itself: after a pause that doubles as long as it ends soon.

    After bad usage, which nothing but a change of code mends, the pause is long, and what was told is not told again.

    Args:
        name: In the log.
        arguments: Of `diracx-task-run`.
        environment: Of the process; with JSON as the format of its log.
        shortest_pause: In seconds.
        longest_pause: In seconds, too; who ran longer than that has worked, and begins with the shortest again.
    """

    name: str
    arguments: Sequence[str]
    environment: dict[str, str] = field(repr=False)
    shortest_pause: float = 1.0
    longest_pause: float = 30.0
    _process: asyncio.subprocess.Process | None = field(default=None, init=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _told: set[str] = field(default_factory=set, init=False)
    """What it said before it ended for bad usage; it had begun no task then."""
    _saying: set[str] = field(default_factory=set, init=False)

    async def run(self, tell: Tell) -> None:
        """Keep the command running until `stop`."""
        loop, pause = asyncio.get_running_loop(), self.shortest_pause
        while not self._stopping.is_set():
            begun = loop.time()
            code = await self._run_once(tell)
            when = "every" if code == ExitCode.USAGE else "in"
            if code == ExitCode.USAGE:
                pause = self.longest_pause
            elif loop.time() - begun > self.longest_pause:
                pause = self.shortest_pause
            if not self._stopping.is_set():
                self._tell_once(tell, f"ended with exit code {code}; it is started again {when} {pause:g} s")
            self._told = self._told | self._saying if code == ExitCode.USAGE else set()
            self._saying.clear()
            await wait_for_event(self._stopping, pause)
            pause = min(2 * pause, self.longest_pause)

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
            limit=_LONGEST_LINE,
        )
        if self._stopping.is_set():
            self.stop()
        assert process.stdout is not None
        async for line in process.stdout:
            self._tell_once(tell, line.decode(errors="replace").rstrip())
        return await process.wait()

    def _tell_once(self, tell: Tell, line: str) -> None:
        read = LogLine.read(line)
        said = line if read is None else read.message
        if said not in self._told:
            tell(self.name, read or line)
        if len(self._saying) < _WHAT_A_FAILURE_SAYS:
            self._saying.add(said)

    def stop(self) -> None:
        """Ask it to end; asked a second time it ends at once, see `worker`."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
