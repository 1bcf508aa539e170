"""One place for a worker process: whoever is killed there is replaced."""

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


class Seat:
    """A worker that is kept running.

    Args:
        arguments: Of `diracx-task-run worker`.
        environment: Of the process.
        log: What the workers of this seat say.
        disturbances: Told of each kill.
    """

    def __init__(
        self, arguments: list[str], environment: Mapping[str, str], log: Path, disturbances: Disturbances
    ) -> None:
        self._command = [str(Path(sys.executable).with_name("diracx-task-run")), "worker", *arguments]
        self._environment = dict(environment)
        self._log = log
        self._disturbances = disturbances
        self._process: asyncio.subprocess.Process | None = None
        self._closing = False
        self._killing: float | None = None
        self.problems: list[str] = []
        """What no worker should do."""

    @property
    def pid(self) -> int | None:
        """Of the worker that sits here now."""
        return None if self._process is None else self._process.pid

    async def keep(self) -> None:
        """Start a worker, and another one whenever it is gone, until `close`."""
        while not self._closing:
            with self._log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    env=self._environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Out of the terminal's foreground group: Ctrl-C is for the run, which then stops the workers.
                    start_new_session=True,
                )
            self._process = process
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.kill()
                await process.wait()
                raise
            self._gone(process.pid, code)

    def _gone(self, pid: int, code: int) -> None:
        if self._killing is not None:
            self._disturbances.worker_kills[pid] = Span(self._killing, boottime())
            self._killing = None
        elif code != (0 if self._closing else NO_SERVER):
            self.problems.append(f"worker {pid} ended by itself with {code}")
        self._process = None

    def kill(self) -> bool:
        """End the worker by SIGKILL; False if none is there or its end is under way."""
        if self._process is None or self._killing is not None:
            return False
        self._killing = boottime()
        self._process.kill()
        return True

    async def stop_for(self, seconds: float) -> bool:
        """Stop the worker for a while; False if it was gone before it was continued."""
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
        """Have the worker end in order; one that does not is killed, and that is a problem."""
        self._closing = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
        _, running = await asyncio.wait([keeping], timeout=STOP_SECONDS)
        if running:
            self.problems.append(f"worker {self.pid} did not end within {STOP_SECONDS:.0f} s and was killed")
            keeping.cancel()
            await asyncio.wait([keeping])
