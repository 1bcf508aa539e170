"""The round trip of `submit --wait` in process, beside two bare request-replies of nats-py.

Each round times both cases on one server, trip by trip in turn, so that what else the machine does falls on both, and
compares the medians.

- Ours is what `submit --wait` does, without the start of a process: `broker.submit` with `keep_result`, a worker on the
  same event loop that executes the task and keeps what it returns, and `broker.result`.
- The bare case is two requests in a row, each answered by a subscription on the same loop: the least with which a
  caller could hand over a task and hear of its end. It stores nothing.

Between two trips further requests pass, in which the worker settles the task and goes back to its long polls: a command
finds a worker that waits.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any, Final, TypeAlias

import nats
from nats.aio.msg import Msg

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from figures import Comparisons, Figures

SUMMARY: Final = "the round trip of a result, beside two request-replies of nats-py"
BOUND: Final = 3.0
"""The most that a round trip may take, as a multiple of the bare one."""

QUIET_TRIPS: Final = 10

Trip: TypeAlias = Callable[[], Awaitable[None]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (5)")
    parser.add_argument("--trips", type=int, default=500, metavar="N", help="round trips for each measurement (500)")


@dataclasses.dataclass
class Echo(BaseTask):
    """Returns its field."""

    text: str

    size = Size.SMALL

    async def execute(self) -> str:
        """Return it."""
        return self.text


@dataclasses.dataclass
class Comparison:
    """All rounds: the medians of their trips, in seconds."""

    bare: list[float] = dataclasses.field(default_factory=list)
    ours: list[float] = dataclasses.field(default_factory=list)
    slowest: float = 0.0
    """The slowest of our round trips."""

    def add(self, bare: list[float], ours: list[float]) -> None:
        """Add the times of one round."""
        self.bare.append(median(bare))
        self.ours.append(median(ours))
        self.slowest = max(self.slowest, *ours)

    @property
    def ratios(self) -> Figures:
        """Our time divided by the bare time, for each round."""
        return Figures([ours / bare for ours, bare in zip(self.ours, self.bare, strict=True)])

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bound": BOUND,
            "ratio": self.ratios.document(),
            "bare_seconds": Figures(self.bare).document(),
            "ours_seconds": Figures(self.ours).document(),
            "ours_slowest_seconds": self.slowest,
        }

    def text(self) -> str:
        """One line a case."""
        bare, ours = (Figures([1e3 * each for each in times]).text(".2f") for times in (self.bare, self.ours))
        return (
            f"submit and result        {ours} ms, the slowest {1e3 * self.slowest:.1f} ms\n"
            f"two bare request-replies {bare} ms\n"
            f"ratio of the medians     {self.ratios.text('.2f')}; at most {BOUND:g} is promised"
        )

    def missed(self) -> list[str]:
        """A line if the promised ratio was missed."""
        if self.ratios.median <= BOUND:
            return []
        return [f"a result takes {self.ratios.median:.2f} times as long as the bare case, {BOUND:g} is promised"]


def run(options: argparse.Namespace) -> Comparisons:
    """Measure."""
    return asyncio.run(_run(options.rounds, options.trips))


async def _run(rounds: int, trips: int) -> Comparisons:
    comparison = Comparison()
    registry = TaskRegistry()
    registry.add("bench:Echo", Echo)
    with EmbeddedServer() as server:
        client = await nats.connect(server.url)
        await client.subscribe("bench.echo", cb=_answer)
        async with JetStreamBroker.connect(server.url, registry=registry, role="worker") as broker:
            settings = WorkerSettings(size=Size.SMALL, max_concurrent_tasks=10)
            worker = Worker(broker.connection, broker.namespace, registry, Injector(), settings)
            working = asyncio.create_task(worker.run())

            async def ours() -> None:
                task_id = await broker.submit(Echo("hello"), keep_result=60)
                assert await broker.result(task_id) == "hello"

            async def bare() -> None:
                for _ in range(2):
                    assert (await client.request("bench.echo", b"hello", timeout=10)).data == b"hello"

            for _ in range(rounds):
                times: dict[Trip, list[float]] = {bare: [], ours: []}
                for trip in (bare, ours) * trips:
                    times[trip].append(await _time(trip))
                    for _ in range(QUIET_TRIPS):
                        await bare()
                comparison.add(bare=times[bare], ours=times[ours])
            worker.stop()
            await working
        await client.close()
    return Comparisons([comparison])


async def _answer(message: Msg) -> None:
    await message.respond(message.data)


async def _time(trip: Trip) -> float:
    """The time of one round trip, in seconds."""
    started = time.perf_counter()
    await trip()
    return time.perf_counter() - started
