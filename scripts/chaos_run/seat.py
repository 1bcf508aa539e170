"""One process of the mesh, a worker or a scheduler, replaced when it is killed."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from diracx.tasks.plumbing.clock import boottime
from disturbances import Disturbances, Span

STOP_SECONDS = 45.0
NO_SERVER = 69
STUCK = 79
"""`LeavesThread` leaves more behind than a worker bears, where many of them meet."""


class Seat:
    """Keeps one worker or scheduler running.

    Args:
        arguments: Of `diracx-task-run`; the first one is the command.
        environment: Of the process.
        log: The output of the workers of this seat.
        disturbances: Each kill and stop is recorded there.
    """

    def __init__(
        self, arguments: list[str], environment: Mapping[str, str], log: Path, disturbances: Disturbances
    ) -> None:
        self._command = [str(Path(sys.executable).with_name("diracx-task-run")), *arguments]
        self._kind = arguments[0]
        self._environment = dict(environment)
        self._log = log
        self._disturbances = disturbances
        self._process: asyncio.subprocess.Process | None = None
        self._closing = False
        self._killing: float | None = None
        self.problems: list[str] = []
        """Workers that ended unexpectedly, or did not end."""

    @property
    def pid(self) -> int | None:
        """The pid of the running worker."""
        return None if self._process is None else self._process.pid

    async def keep(self) -> None:
        """Start a worker, and another one whenever it has ended, until `close`."""
        while not self._closing:
            with self._log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    env=self._environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Outside the terminal's foreground group: Ctrl-C reaches the run, which then stops the workers.
                    start_new_session=True,
                )
            self._process = process
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.kill()
                await process.wait()
                raise
            self._record_end(process.pid, code)

    def _record_end(self, pid: int, code: int) -> None:
        if self._killing is not None:
            self._disturbances.worker_kills[pid] = Span(self._killing, boottime())
            self._killing = None
        elif code not in ((0, STUCK) if self._closing else (NO_SERVER, STUCK)):
            self.problems.append(f"{self._kind} {pid} ended by itself with {code}")
        self._process = None

    def kill(self) -> bool:
        """Send SIGKILL to the worker; return False if none runs or it has been killed already."""
        if self._process is None or self._killing is not None:
            return False
        self._killing = boottime()
        self._process.kill()
        return True

    async def stop_for(self, seconds: float) -> bool:
        """Suspend the worker for a while; return False if it ended meanwhile."""
        process = self._process
        if process is None:
            return False
        begun = boottime()
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            alive = process.returncode is None
            if alive:
                process.send_signal(signal.SIGCONT)
            self._disturbances.stops.setdefault(process.pid, []).append(Span(begun, boottime()))
        return alive

    async def close(self, keeping: asyncio.Task[None]) -> None:
        """Stop the worker gracefully; one that does not stop in time is killed, and recorded as a problem."""
        self._closing = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
        _, running = await asyncio.wait([keeping], timeout=STOP_SECONDS)
        if running:
            self.problems.append(f"{self._kind} {self.pid} did not end within {STOP_SECONDS:.0f} s and was killed")
            keeping.cancel()
            await asyncio.wait([keeping])
