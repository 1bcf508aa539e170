"""How fast one worker process drains no-op tasks, compared with the bare loop of nats-py.

The two contenders drain the same number of equal messages on one server, one after the other; the order alternates.
Each runs in a process of its own and measures itself from the first pull to the flush of the last ack, so neither its
start nor the submission counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from figures import Comparisons, Figures
from noop import Noop, registry
from processes import running

SUMMARY: Final = "no-op tasks through one worker process, beside the bare loop of nats-py"
BOUNDS: Final = {100: 1.8, 10: 1.0}
"""Slots -> the least speed of a worker, as a share of the bare loop's."""

CPU_BOUNDS: Final = {100: 0.55}
"""Slots -> the most CPU time of a task, as a share of the bare loop's."""

TIMEOUT_SECONDS: Final = 300.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="pairs for each number of slots (5)")
    parser.add_argument(
        "--tasks", type=positive, default=10_000, metavar="N", help="tasks for each measurement (10000)"
    )
    parser.add_argument("--slots", type=positive, nargs="+", default=list(BOUNDS), metavar="N", help="slots (100 10)")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio", help="of both contenders (asyncio)")


def positive(text: str) -> int:
    """Read a number of at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


@dataclass(frozen=True)
class Measurement:
    """The figures that one contender reports."""

    per_second: float
    cpu_microseconds: float
    """User and system time of its process for each message."""


@dataclass
class Comparison:
    """All pairs of measurements with one number of slots."""

    slots: int
    bare: list[Measurement] = field(default_factory=list)
    worker: list[Measurement] = field(default_factory=list)

    @property
    def ratios(self) -> Figures:
        """Speed of the worker divided by that of the bare loop, for each pair."""
        return Figures([ours.per_second / bare.per_second for bare, ours in zip(self.bare, self.worker, strict=True)])

    @property
    def cpu_ratios(self) -> Figures:
        """The same for CPU time a task, which other processes disturb less."""
        pairs = zip(self.bare, self.worker, strict=True)
        return Figures([ours.cpu_microseconds / bare.cpu_microseconds for bare, ours in pairs])

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "slots": self.slots,
            "bound": BOUNDS.get(self.slots),
            "cpu_bound": CPU_BOUNDS.get(self.slots),
            "ratio": self.ratios.document(),
            "cpu_ratio": self.cpu_ratios.document(),
            **{
                name: {
                    "per_second": Figures([one.per_second for one in measured]).document(),
                    "cpu_microseconds": Figures([one.cpu_microseconds for one in measured]).document(),
                }
                for name, measured in (("bare", self.bare), ("worker", self.worker))
            },
        }

    def text(self) -> str:
        """Two lines for the contenders, two for the ratios."""
        lines = []
        for name, measured in ((f"worker, {self.slots} slots", self.worker), ("bare loop, fetch(100)", self.bare)):
            speed = Figures([one.per_second for one in measured]).text(",.0f")
            cpu = Figures([one.cpu_microseconds for one in measured]).text(".0f")
            lines.append(f"{name:22} {speed:>26} tasks/s {cpu:>14} us CPU/task")
        bound = f"; at least {BOUNDS[self.slots]} is promised" if self.slots in BOUNDS else ""
        most = f"; at most {CPU_BOUNDS[self.slots]} is promised" if self.slots in CPU_BOUNDS else ""
        for what, ratios, note in (("speed", self.ratios, bound), ("CPU", self.cpu_ratios, most)):
            each = " ".join(f"{ratio:.2f}" for ratio in ratios.values)
            lines.append(f"{what + ', worker / bare':22} {ratios.median:>8.2f}, the median of {each}{note}")
        return "\n".join(lines)

    def missed(self) -> list[str]:
        """A line for each promised ratio that was missed."""
        bound, cpu_bound, lines = BOUNDS.get(self.slots, 0), CPU_BOUNDS.get(self.slots, math.inf), []
        if self.ratios.median < bound:
            lines.append(f"{self.slots} slots: {self.ratios.median:.2f} of the bare loop, {bound} is promised")
        if self.cpu_ratios.median > cpu_bound:
            lines.append(f"{self.slots} slots: {self.cpu_ratios.median:.2f} of its CPU, {cpu_bound} is promised")
        return lines


def run(options: argparse.Namespace) -> Comparisons:
    """Measure all numbers of slots."""
    if options.loop == "uvloop" and find_spec("uvloop") is None:
        raise SystemExit("error: uvloop is not installed: .venv/bin/python -m pip install uvloop")
    return asyncio.run(_measure(options.rounds, options.tasks, options.slots, options.loop))


async def _measure(rounds: int, tasks: int, slots: Sequence[int], loop: str) -> Comparisons:
    comparisons = [Comparison(number) for number in slots]
    async with (
        EmbeddedServer() as server,
        JetStreamBroker.connect(server.url, registry=registry(), name="diracx-bench") as broker,
    ):
        for turn in range(rounds):
            for comparison in comparisons:
                pair = [("bare", 100, comparison.bare), ("worker", comparison.slots, comparison.worker)]
                for mode, number, measured in pair if turn % 2 == 0 else reversed(pair):
                    await broker.schedule_many([Noop("alice")] * tasks)
                    measured.append(await contend(server.url, mode, number, tasks, loop))
                    await ensure_drained(broker)
                print(f"round {turn + 1} of {rounds}, {comparison.slots} slots", file=sys.stderr)
    return Comparisons(comparisons)


async def contend(url: str, mode: str, slots: int, tasks: int, loop: str = "asyncio") -> Measurement:
    """Have one contender drain the queue, in a process of its own.

    Args:
        mode: `bare` or `worker`.
        loop: `asyncio` or `uvloop`.
    """
    async with running("drain_contender", mode, url, str(slots), str(tasks), loop) as contender:
        return Measurement(**json.loads(await contender.read_to_the_end(TIMEOUT_SECONDS)))


async def ensure_drained(broker: JetStreamBroker) -> None:
    """Wait until no message is left: otherwise the measurement is void."""
    async with asyncio.timeout(10):
        while True:
            info = await broker.connection.api(f"STREAM.INFO.{broker.namespace.tasks_stream}")
            if not info["state"]["messages"]:
                return
            await asyncio.sleep(0.05)
