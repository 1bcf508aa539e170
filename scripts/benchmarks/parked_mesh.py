"""One of the two meshes of `parked`, the one with parked tasks or the one without, and what is measured in it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from noop import Noop
from parked_tasks import Brief, Due, Parked

MOODS: Final = ("idle", "flowing", "failing")
"""What comes besides the retries: nothing; fresh tasks that succeed; fresh tasks that fail, and are parked too."""

FIRST_DUE_SECONDS: Final = 1.5
LAST_DUE_SECONDS: Final = 5.0
"""After they were submitted."""

_CONTENDER: Final = Path(__file__).with_name("parked_contender.py")
_PATIENCE_SECONDS: Final = 120.0
_PACE_SECONDS: Final = 0.002


@dataclass
class Lateness:
    """What became of the retries of one run."""

    late: list[float]
    """Seconds, rising; of those that came."""
    missing: int
    repeated: int
    """Those that were executed more or less often than twice: before they were due, and when they were."""


@dataclass
class Mesh:
    """A namespace on the server, and what was seen of it."""

    broker: JetStreamBroker
    url: str
    parked: int = 0
    """How many tasks wait for an hour by now."""
    drained: list[float] = field(default_factory=list)
    """Tasks a second, in each round."""
    started: list[float] = field(default_factory=list)
    """Seconds until the first pull of a worker was answered."""
    lateness: dict[str, Lateness] = field(default_factory=dict)
    """By mood."""

    async def park(self, number: int, slots: int) -> None:
        """Have tasks fail that are tried again in an hour."""
        if number:
            await self._drain(Parked("alice"), number, slots)
            self.parked += number
            await self._ensure_parked()

    async def drain(self, tasks: int, slots: int) -> None:
        """Measure how fast one worker drains fresh tasks."""
        self.drained.append(await self._drain(Noop("alice"), tasks, slots))
        await self._ensure_parked()

    async def retry(self, mood: str, retries: int, workers: int, slots: int, rate: int) -> None:
        """Measure how late retries come.

        Args:
            retries: How many fall due, evenly over the time between `FIRST_DUE_SECONDS` and `LAST_DUE_SECONDS`.
            rate: Fresh tasks a second, evenly too.
        """
        executions: Counter[int] = Counter()
        late: dict[int, float] = {}
        async with self._serving(workers, slots) as lines:
            first = time.time() + FIRST_DUE_SECONDS
            step = (LAST_DUE_SECONDS - FIRST_DUE_SECONDS) / retries
            await self.broker.schedule_many(Due(number, first + number * step) for number in range(retries))

            async def all_came() -> None:
                while len(late) < retries:
                    number, seconds = json.loads(await lines.get())
                    executions[number] += 1
                    if seconds >= 0:
                        late[number] = seconds

            coming = asyncio.create_task(all_came())
            if mood != "idle":
                fresh = Brief("alice") if mood == "flowing" else Parked("alice")
                sent = await self._pace(fresh, rate, coming)
                self.parked += sent if mood == "failing" else 0
            await asyncio.wait([coming], timeout=_PATIENCE_SECONDS)
            coming.cancel()
            await asyncio.wait([coming])
            await self._ensure_parked(retries - len(late))
        repeated = sum(count != 2 for count in executions.values())
        self.lateness[mood] = Lateness(sorted(late.values()), retries - len(late), repeated)

    async def _pace(self, task: BaseTask, rate: int, until: asyncio.Task[None]) -> int:
        """Submit tasks evenly until something is done, or for `_PATIENCE_SECONDS`; return how many."""
        begun = time.monotonic()
        sent = 0
        while not until.done() and time.monotonic() < begun + _PATIENCE_SECONDS:
            if missing := int((time.monotonic() - begun) * rate) - sent:
                await self.broker.schedule_many([task] * missing)
                sent += missing
            await asyncio.sleep(_PACE_SECONDS)
        return sent

    async def _drain(self, task: BaseTask, number: int, slots: int) -> float:
        """Submit tasks, then have one worker take them; return how many a second it settled."""
        await self.broker.schedule_many([task] * number)
        process = await self._spawn("drain", slots)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                output, _ = await process.communicate()
        finally:
            await _end(process)
        told = json.loads(output)
        if told["settled"] != number:
            raise SystemExit(f"error: {told['settled']} of {number} tasks were settled")
        return float(told["per_second"])

    @asynccontextmanager
    async def _serving(self, workers: int, slots: int) -> AsyncIterator[asyncio.Queue[bytes]]:
        """Workers in processes of their own for the block; gives the lines that their tasks write."""
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        processes = [await self._spawn("serve", slots) for _ in range(workers)]
        try:
            for process in processes:
                self.started.append(json.loads(await _read(process).readline())["start_seconds"])
            async with asyncio.TaskGroup() as reading:
                for process in processes:
                    reading.create_task(_forward(_read(process), lines))
                yield lines
                for process in processes:
                    process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await asyncio.gather(*(process.wait() for process in processes))
        finally:
            for process in processes:
                await _end(process)

    async def _spawn(self, mode: str, slots: int) -> asyncio.subprocess.Process:
        namespace = self.broker.namespace.name
        return await asyncio.create_subprocess_exec(
            sys.executable, str(_CONTENDER), mode, self.url, namespace, str(slots), stdout=asyncio.subprocess.PIPE
        )

    async def _ensure_parked(self, more: int = 0) -> None:
        """A run that leaves something else behind, or has woken what is parked, measured nothing."""
        names = self.broker.namespace
        consumer = names.consumer(Priority.NORMAL, Size.SMALL)
        expected = (self.parked + more, 0)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            info = await self.broker.connection.api(f"CONSUMER.INFO.{names.tasks_stream}.{consumer}")
            found = (info["num_ack_pending"], info["num_pending"])
            if found == expected:
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"error: (parked, waiting) are {found}, and should be {expected}")
            await asyncio.sleep(0.05)


def _read(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    assert process.stdout is not None
    return process.stdout


async def _forward(lines: asyncio.StreamReader, to: asyncio.Queue[bytes]) -> None:
    async for line in lines:
        to.put_nowait(line)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
    elif process.returncode:
        raise SystemExit(f"error: a worker ended with {process.returncode}")
