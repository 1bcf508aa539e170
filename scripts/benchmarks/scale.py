"""What many tasks and many workers cost.

* 1, 2 and 4 worker processes drain a queue of one server together.
* One worker executes as many tasks of a long queue as of a short one, in turns. Each queue has a mesh of its own.
* Tasks that are due within one second are executed by one worker. How late does each begin? Is one lost, or executed
  twice?

`schedules` measures thousands of schedules, and `parked` thousands of retries.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from figures import Figures, quantiles
from memory import fill, make_room
from processes import running
from scale_worker import Due, registry

SUMMARY: Final = "1, 2 and 4 workers on one server; a long queue beside a short one; many tasks due in one second"
LEAST_SPEED: Final = 0.8
"""The speed with a long queue, to that with a short one."""
MOST_GROWTH: Final = 1.05
"""The memory with a long queue, to that with a short one."""
WORKERS: Final = (1, 2, 4)
START_SECONDS: Final = 3.0
"""The time that workers have to connect before they begin at once."""
SUBMIT_SECONDS: Final = 15.0
"""The time in which 10,000 delayed tasks are submitted, before the first is due."""
TIMEOUT_SECONDS: Final = 600.0
IN_FLIGHT: Final = 200


@dataclass(frozen=True)
class Drained:
    """What one or several workers did together."""

    per_second: float
    cpu_microseconds: float
    """For each task."""
    megabytes: float
    """The largest of a worker."""


@dataclass(frozen=True)
class ScaleReport:
    """All results."""

    together: dict[int, list[Drained]]
    """By the number of workers."""
    waiting: int
    full: Sequence[Drained]
    short: Sequence[Drained]
    due: int
    late: list[float]
    """Seconds, sorted."""
    lost: int
    doubled: int

    @property
    def speed(self) -> Figures:
        """With a long queue, to that with a short one, for each round."""
        return Figures([full.per_second / short.per_second for full, short in zip(self.full, self.short, strict=True)])

    @property
    def growth(self) -> float:
        """The same for the memory, of the medians."""
        full, short = (Figures([one.megabytes for one in side]).median for side in (self.full, self.short))
        return full / short

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "workers": {
                number: Figures([one.per_second for one in each]).document() for number, each in self.together.items()
            },
            "waiting": self.waiting,
            "speed_ratio": self.speed.document(),
            "memory_ratio": self.growth,
            "due": self.due,
            "late": quantiles(self.late, 3),
            "lost": self.lost,
            "doubled": self.doubled,
        }

    def text(self) -> str:
        """For people."""
        lines = [f"{number} worker{'s' if number > 1 else ' '} {_line(each)}" for number, each in self.together.items()]
        lines.append(f"{'short':9} {_line(self.short)}")
        lines.append(f"{'long':9} {_line(self.full)}, while {self.waiting:,} wait")
        lines.append(f"long to short: speed {self.speed.text('.2f')}, memory {self.growth:.2f}")
        late = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in quantiles(self.late, 3).items())
        lines.append(f"{self.due:,} due in one second: late {late}; {self.lost} lost, {self.doubled} twice")
        return "\n".join(lines)

    def missed(self) -> list[str]:
        """A line for each promised bound that was missed."""
        speed = self.speed.median
        problems = [
            (speed < LEAST_SPEED, f"{speed:.2f} of the speed with a short queue, {LEAST_SPEED} is promised"),
            (self.growth > MOST_GROWTH, f"{self.growth:.2f} of the memory with a short queue, {MOST_GROWTH}"),
            (self.lost > 0, f"{self.lost} delayed tasks did not run"),
            (self.doubled > 0, f"{self.doubled} delayed tasks ran twice"),
        ]
        return [text for is_so, text in problems if is_so]


def _line(each: Sequence[Drained]) -> str:
    speed = Figures([one.per_second for one in each]).text(",.0f")
    cpu = Figures([one.cpu_microseconds for one in each]).text(".0f")
    return f"{speed} tasks/s, {cpu} us CPU/task, {Figures([one.megabytes for one in each]).text('.1f')} MB"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--waiting", type=int, default=200_000, metavar="N", help="tasks of the long queue (200000)")
    parser.add_argument("--tasks", type=int, default=20_000, metavar="N", help="tasks for each measurement (20000)")
    parser.add_argument("--due", type=int, default=10_000, metavar="N", help="tasks due in one second (10000)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (5)")


def run(options: argparse.Namespace) -> ScaleReport:
    """Measure all three."""
    return asyncio.run(_measure(options.waiting, options.tasks, options.due, options.rounds))


async def _measure(waiting: int, tasks: int, due: int, rounds: int) -> ScaleReport:
    async with EmbeddedServer() as server, AsyncExitStack() as stack:
        full, short = [
            await stack.enter_async_context(
                JetStreamBroker.connect(server.url, namespace=namespace, registry=registry(), bind=False)
            )
            for namespace in ("full", "short")
        ]
        together: dict[int, list[Drained]] = {number: [] for number in WORKERS}
        for _ in range(rounds):
            for number, measured in together.items():
                await fill(short, tasks)
                measured.append(await _drained(short, server.url, number, tasks))
        late = await _due(short, server.url, due)
        await make_room(full)
        await fill(full, waiting)
        long_queue: list[Drained] = []
        short_queue: list[Drained] = []
        for turn in range(rounds):
            print(f"round {turn + 1} of {rounds}", file=sys.stderr)
            pair = ((full, long_queue), (short, short_queue))
            for broker, found in pair if turn % 2 == 0 else reversed(pair):
                await fill(broker, tasks)
                found.append(await _drained(broker, server.url, 1, tasks))
    times = Counter(number for number, _ in late)
    return ScaleReport(
        together=together,
        waiting=waiting,
        full=long_queue,
        short=short_queue,
        due=due,
        late=sorted(seconds for _, seconds in late),
        lost=due - len(times),
        doubled=sum(count > 1 for count in times.values()),
    )


async def _drained(broker: JetStreamBroker, url: str, workers: int, tasks: int) -> Drained:
    """Have workers that begin together settle as many tasks between them; alone, a worker leaves the others."""
    start = time.monotonic() + START_SECONDS
    async with AsyncExitStack() as stack:
        arguments = ("drain", url, broker.namespace.name, str(tasks), str(start))
        started = [await stack.enter_async_context(running("scale_worker", *arguments)) for _ in range(workers)]
        each = [json.loads(await worker.read_to_the_end(TIMEOUT_SECONDS)) for worker in started]
    settled = sum(one["settled"] for one in each)
    if not tasks <= settled < tasks + IN_FLIGHT:
        raise SystemExit(f"error: {settled} of {tasks} tasks were settled")
    seconds = max(one["last"] for one in each) - min(one["first"] for one in each)
    cpu = sum(one["cpu_microseconds"] * one["settled"] for one in each) / settled
    return Drained(settled / seconds, cpu, max(one["megabytes"] for one in each))


async def _due(broker: JetStreamBroker, url: str, tasks: int) -> list[tuple[int, float]]:
    """The number of each execution of a delayed task, and how many seconds late it began."""
    first = time.time() + SUBMIT_SECONDS * max(1.0, tasks / 10_000)
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def submit(number: int) -> None:
        due = first + number / tasks
        async with slots:
            await broker.submit(Due(number, due), at_time=datetime.fromtimestamp(due, UTC))

    async with running("scale_worker", "due", url, broker.namespace.name, str(tasks)) as worker:
        if await worker.output.readline() != b"ready\n":
            raise SystemExit("error: the worker did not start")
        await asyncio.gather(*map(submit, range(tasks)))
        if time.time() > first:
            raise SystemExit("error: the submission took too long; give fewer with --due")
        executed: list[tuple[int, float]] = json.loads(await worker.read_to_the_end(TIMEOUT_SECONDS))
    return executed
