"""Ways of a task beside their floors: the bare operations of nats-py that such a task cannot do without.

A worker drains tasks of one kind in this process; then as many lanes as it has slots do the bare operations as often,
or the other way round: the order alternates. The time runs from the first task that executes to the last one that is
settled, so neither the start of the worker nor its end counts.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.execution.executor import Invoke
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from drain import ensure_drained, positive
from figures import Comparisons, Figures

TIMEOUT_SECONDS: Final = 300.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of each of these benchmarks."""
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="pairs for each way (5)")
    parser.add_argument("--tasks", type=positive, default=2_000, metavar="N", help="tasks for each measurement (2000)")


class Stopwatch:
    """The time and the CPU time of this process between `start` and `stop`; each counts when it is first called."""

    def __init__(self) -> None:
        self._started: tuple[float, float] | None = None
        self._stopped: tuple[float, float] | None = None

    def start(self, *, anew: bool = False) -> None:
        """Start. Anew: whatever has started before, e.g. while the measurement was prepared."""
        if anew or self._started is None:
            self._started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Stop."""
        if self._stopped is None:
            self._stopped = time.perf_counter(), time.process_time()

    def microseconds(self, tasks: int) -> tuple[float, float]:
        """The time and the CPU time of each of so many tasks."""
        assert self._started is not None
        assert self._stopped is not None
        seconds, cpu = (stop - start for start, stop in zip(self._started, self._stopped, strict=True))
        return seconds / tasks * 1e6, cpu / tasks * 1e6


watch = Stopwatch()
"""Of the measurement that is under way: each task starts it."""


@dataclass(frozen=True)
class Way:
    """One kind of task, and its floor.

    Args:
        floor: The bare operations, for people.
        ours: Does what is measured for so many tasks, and returns once all are done; it starts and stops `watch`.
        bare: The same for the floor, which `measure` times.
        bound: The most that ours may take, as a multiple of the floor's time; None: nothing is promised.
    """

    name: str
    floor: str
    ours: Callable[[int], Awaitable[None]]
    bare: Callable[[int], Awaitable[None]]
    bound: float | None = None


@dataclass
class Comparison:
    """All rounds of one way: microseconds and CPU microseconds a task."""

    way: Way
    ours: list[tuple[float, float]] = field(default_factory=list)
    bare: list[tuple[float, float]] = field(default_factory=list)

    def ratios(self, which: int) -> Figures:
        """Ours divided by the floor's, for each round: of the time (0), or of the CPU time (1)."""
        return Figures([ours[which] / bare[which] for ours, bare in zip(self.ours, self.bare, strict=True)])

    def document(self) -> dict[str, Any]:
        """For JSON."""
        sides = {"ours": self.ours, "bare": self.bare}
        return {
            "way": self.way.name,
            "floor": self.way.floor,
            "bound": self.way.bound,
            "ratio": self.ratios(0).document(),
            "cpu_ratio": self.ratios(1).document(),
            **{f"{name}_microseconds": Figures([each[0] for each in side]).document() for name, side in sides.items()},
            **{
                f"{name}_cpu_microseconds": Figures([each[1] for each in side]).document()
                for name, side in sides.items()
            },
        }

    def text(self) -> str:
        """A line for each side, one for the ratios."""
        lines = [
            f"{name:46} {Figures([each[0] for each in side]).text(',.0f'):>22} us"
            f" {Figures([each[1] for each in side]).text(',.0f'):>22} us CPU"
            for name, side in ((self.way.name, self.ours), (self.way.floor, self.bare))
        ]
        bound = "" if self.way.bound is None else f"; at most {self.way.bound:g} is promised"
        each = " ".join(f"{ratio:.2f}" for ratio in self.ratios(0).values)
        cpu = f"CPU {self.ratios(1).text('.2f')}"
        return "\n".join([*lines, f"{'  ratio':46} {self.ratios(0).median:.2f}, the median of {each}{bound}; {cpu}"])

    def missed(self) -> list[str]:
        """A line if the promised ratio was missed."""
        if self.way.bound is None or self.ratios(0).median <= self.way.bound:
            return []
        return [f"{self.way.name}: {self.ratios(0).median:.2f} times its floor, {self.way.bound:g} is promised"]


async def compare(ways: Sequence[Way], options: argparse.Namespace) -> Comparisons:
    """Measure each way as often as `options.rounds` says, in turns with its floor."""
    comparisons = [Comparison(way) for way in ways]
    gc.freeze()  # as the command of a worker does
    for turn in range(options.rounds):
        for each in comparisons:
            sides = [(each.way.ours, each.ours), (_timed(each.way.bare), each.bare)]
            for side, figures in sides[:: 1 if turn % 2 else -1]:
                gc.collect()
                watch.__init__()  # type: ignore[misc]  # anew
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await side(options.tasks)
                figures.append(watch.microseconds(options.tasks))
            print(f"round {turn + 1} of {options.rounds}, {each.way.name}", file=sys.stderr)
    return Comparisons(comparisons)


def _timed(bare: Callable[[int], Awaitable[None]]) -> Callable[[int], Awaitable[None]]:
    async def timed(tasks: int) -> None:
        watch.start()
        await bare(tasks)
        watch.stop()

    return timed


async def in_lanes(lanes: int, tasks: int, operation: Callable[[int], Awaitable[object]]) -> None:
    """Do an operation for each number below `tasks`, so many at a time."""
    numbers = iter(range(tasks))

    async def lane() -> None:
        for number in numbers:
            await operation(number)

    await asyncio.gather(*(lane() for _ in range(lanes)))


class Bench:
    """A mesh of its own with tasks of one benchmark, and a bare client beside it. Made by `on_a_server`."""

    def __init__(self, broker: JetStreamBroker, client: Client) -> None:
        self.broker, self.client = broker, client
        self.names = broker.namespace
        self.jetstream = client.jetstream()

    async def submit(self, tasks: Sequence[BaseTask]) -> None:
        """Put tasks into their queue."""
        await self.broker.submit_many(tasks)

    async def drain(
        self,
        tasks: int,
        slots: int,
        size: Size = Size.SMALL,
        *,
        injector: Injector | None = None,
        invoke: Invoke | None = None,
    ) -> None:
        """Have a worker bring so many deliveries to an end, and stop `watch` at the last one.

        Raises:
            SystemExit: Others came, too, so that the measurement is void.
        """
        ended = 0

        def count(task: str, id: str, outcome: object) -> None:  # noqa: A002
            nonlocal ended
            ended += 1
            if ended == tasks:
                watch.stop()
                worker.stop()

        settings = WorkerSettings(size=size, max_concurrent_tasks=slots)
        connection, registry = self.broker.connection, self.broker.registry
        worker = Worker(
            connection, self.names, registry, injector or Injector(), settings, invoke=invoke, on_outcome=count
        )
        await worker.run()
        if ended != tasks:
            raise SystemExit(f"error: {ended} of {tasks} tasks were processed")

    async def ensure_drained(self) -> None:
        """Wait until no task is left: otherwise the measurement is void."""
        await ensure_drained(self.broker)

    async def fetch(
        self, tasks: int, lanes: int, handle: Callable[[Msg], Awaitable[object]], size: Size = Size.SMALL
    ) -> None:
        """The bare loop of nats-py over a queue: fetch a hundred, handle so many at a time."""
        subscription = await self.jetstream.pull_subscribe_bind(
            self.names.consumer(Priority.NORMAL, size), stream=self.names.tasks_stream
        )
        fetched: asyncio.Queue[Msg] = asyncio.Queue(lanes)

        async def feed() -> None:
            left = tasks
            while left:
                for message in await subscription.fetch(min(100, left), timeout=10):
                    await fetched.put(message)
                    left -= 1

        async def handle_next(number: int) -> None:
            await handle(await fetched.get())

        await asyncio.gather(feed(), in_lanes(lanes, tasks, handle_next))
        await self.client.flush()
        await subscription.unsubscribe()


@asynccontextmanager
async def on_a_server(*tasks: type[BaseTask]) -> AsyncIterator[Bench]:
    """A server with a mesh that knows these tasks."""
    registry = TaskRegistry()
    for task in tasks:
        registry.add(f"bench:{task.__name__}", task)
    async with (
        EmbeddedServer() as server,
        JetStreamBroker.connect(server.url, registry=registry, role="worker", name="diracx-bench") as broker,
    ):
        client = await nats.connect(server.url)
        try:
            yield Bench(broker, client)
        finally:
            await client.close()
