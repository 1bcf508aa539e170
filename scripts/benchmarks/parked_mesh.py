"""One mesh of `parked`, with or without parked tasks, and its measurements."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from noop import Noop
from parked_tasks import Brief, Due, Parked
from processes import BenchProcess, running

LOADS: Final = ("idle", "flowing", "failing")
"""The load beside the retries: none; fresh tasks that succeed; fresh tasks that fail, and are parked too."""

FIRST_DUE_SECONDS: Final = 1.5
"""From the submission until the first retry is due."""
LAST_DUE_SECONDS: Final = 5.0
TIMEOUT_SECONDS: Final = 120.0
PACE_SECONDS: Final = 0.002
"""The interval at which fresh tasks are submitted."""


@dataclass
class Lateness:
    """The retries of one run."""

    late: list[float]
    """Of the retries that came: how many seconds after they were due, sorted."""
    missing: int
    """How many retries did not come."""
    repeated: int
    """How many tasks were not executed exactly twice: once before they were due, and once when they were."""


@dataclass
class ParkedMesh:
    """A namespace on the server, and the figures that were measured in it."""

    broker: JetStreamBroker
    url: str
    parked: int = 0
    """How many tasks wait for an hour by now."""
    drained: list[float] = field(default_factory=list)
    """Tasks a second, in each round."""
    started: list[float] = field(default_factory=list)
    """Seconds until the first pull of a worker was answered."""
    lateness: dict[str, Lateness] = field(default_factory=dict)
    """By load."""

    async def park(self, number: int, slots: int) -> None:
        """Run tasks that fail and are retried in an hour."""
        if number:
            await self._drain(Parked("alice"), number, slots)
            self.parked += number
            await self._ensure_parked()

    async def drain(self, tasks: int, slots: int) -> None:
        """Measure how fast one worker drains fresh tasks."""
        self.drained.append(await self._drain(Noop("alice"), tasks, slots))
        await self._ensure_parked()

    async def retry(self, load: str, retries: int, workers: int, slots: int, rate: int) -> None:
        """Measure how late retries come under one of `LOADS`.

        Args:
            retries: How many fall due, spread evenly from `FIRST_DUE_SECONDS` to `LAST_DUE_SECONDS` after submission.
            rate: Fresh tasks a second.
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
            if load != "idle":
                fresh = Brief("alice") if load == "flowing" else Parked("alice")
                sent = await self._pace(fresh, rate, coming)
                self.parked += sent if load == "failing" else 0
            await asyncio.wait([coming], timeout=TIMEOUT_SECONDS)
            coming.cancel()
            await asyncio.wait([coming])
            await self._ensure_parked(retries - len(late))
        repeated = sum(count != 2 for count in executions.values())
        self.lateness[load] = Lateness(sorted(late.values()), retries - len(late), repeated)

    async def _pace(self, task: BaseTask, rate: int, until: asyncio.Task[None]) -> int:
        """Submit a task at an even rate until `until` is done or `TIMEOUT_SECONDS` are over; return how many times."""
        begun = time.monotonic()
        sent = 0
        while not until.done() and time.monotonic() < begun + TIMEOUT_SECONDS:
            if missing := int((time.monotonic() - begun) * rate) - sent:
                await self.broker.schedule_many([task] * missing)
                sent += missing
            await asyncio.sleep(PACE_SECONDS)
        return sent

    async def _drain(self, task: BaseTask, number: int, slots: int) -> float:
        """Submit tasks and drain them with one worker; return how many it settled a second."""
        await self.broker.schedule_many([task] * number)
        async with self._contender("drain", slots) as contender:
            figures = json.loads(await contender.read_to_the_end(TIMEOUT_SECONDS))
        if figures["settled"] != number:
            raise SystemExit(f"error: {figures['settled']} of {number} tasks were settled")
        return float(figures["per_second"])

    @asynccontextmanager
    async def _serving(self, workers: int, slots: int) -> AsyncIterator[asyncio.Queue[bytes]]:
        """Run worker processes during the block; yields the lines that their tasks print."""
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        async with AsyncExitStack() as stack:
            contenders = [await stack.enter_async_context(self._contender("serve", slots)) for _ in range(workers)]
            for contender in contenders:
                self.started.append(json.loads(await contender.output.readline())["start_seconds"])
            async with asyncio.TaskGroup() as reading:
                for contender in contenders:
                    reading.create_task(_forward(contender.output, lines))
                yield lines
                for contender in contenders:
                    contender.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                for contender in contenders:
                    await contender.process.wait()
                    contender.check()

    def _contender(self, mode: str, slots: int) -> AbstractAsyncContextManager[BenchProcess]:
        return running("parked_contender", mode, self.url, self.broker.namespace.name, str(slots))

    async def _ensure_parked(self, more: int = 0) -> None:
        """Wait until exactly the parked tasks are left: otherwise the measurement is void."""
        names = self.broker.namespace
        consumer = names.consumer(Priority.NORMAL, Size.SMALL)
        expected = (self.parked + more, 0)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            info = await self.broker.connection.api(f"CONSUMER.INFO.{names.tasks_stream}.{consumer}")
            found = (info["num_ack_pending"], info["num_pending"])
            if found == expected:
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"error: (parked, waiting) are {found}, and should be {expected}")
            await asyncio.sleep(0.05)


async def _forward(lines: asyncio.StreamReader, to: asyncio.Queue[bytes]) -> None:
    async for line in lines:
        to.put_nowait(line)
