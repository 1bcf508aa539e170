"""How fast one worker process drains no-op tasks, beside the bare loop of nats-py.

Both drain the same number of the same messages, one after the other on one server, in turns; which of the two comes
first changes from pair to pair. Each runs in a process of its own, which measures itself from the first pull to the
flush of the last acknowledgement, so neither its start nor the submission counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from figures import Figures
from noop import Noop, registry

SUMMARY: Final = "no-op tasks through one worker process, beside the bare loop of nats-py"
BOUNDS: Final = {100: 1.0, 10: 0.7}
"""Slots -> how much of the bare loop's speed a worker has at least."""

_CONTENDER: Final = Path(__file__).with_name("drain_contender.py")
_CONTENDER_SECONDS: Final = 300.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--rounds", type=_positive, default=5, metavar="N", help="pairs for each number of slots (5)")
    parser.add_argument(
        "--tasks", type=_positive, default=10_000, metavar="N", help="tasks for each measurement (10000)"
    )
    parser.add_argument("--slots", type=_positive, nargs="+", default=list(BOUNDS), metavar="N", help="slots (100 10)")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


@dataclass(frozen=True)
class Measurement:
    """What one contender tells of itself."""

    per_second: float
    cpu_microseconds: float
    """For each message, of its own process: user and system."""


@dataclass
class Comparison:
    """All pairs with one number of slots."""

    slots: int
    bare: list[Measurement] = field(default_factory=list)
    worker: list[Measurement] = field(default_factory=list)

    @property
    def ratios(self) -> Figures:
        """Worker to bare loop, pair by pair."""
        return Figures([ours.per_second / bare.per_second for bare, ours in zip(self.bare, self.worker, strict=True)])

    @property
    def cpu_ratios(self) -> Figures:
        """Worker to bare loop in CPU time for each task, pair by pair; other processes disturb it less."""
        pairs = zip(self.bare, self.worker, strict=True)
        return Figures([ours.cpu_microseconds / bare.cpu_microseconds for bare, ours in pairs])

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "slots": self.slots,
            "bound": BOUNDS.get(self.slots),
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
        """The two contenders, and the ratios."""
        lines = []
        for name, measured in ((f"worker, {self.slots} slots", self.worker), ("bare loop, fetch(100)", self.bare)):
            speed = Figures([one.per_second for one in measured]).text(",.0f")
            cpu = Figures([one.cpu_microseconds for one in measured]).text(".0f")
            lines.append(f"{name:22} {speed:>26} tasks/s {cpu:>14} us CPU/task")
        bound = f"; at least {BOUNDS[self.slots]} is promised" if self.slots in BOUNDS else ""
        for what, ratios, note in (("speed", self.ratios, bound), ("CPU", self.cpu_ratios, "")):
            each = " ".join(f"{ratio:.2f}" for ratio in ratios.values)
            lines.append(f"{what + ', worker / bare':22} {ratios.median:>8.2f}, the median of {each}{note}")
        return "\n".join(lines)


@dataclass(frozen=True)
class DrainReport:
    """What came out."""

    comparisons: Sequence[Comparison]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"comparisons": [comparison.document() for comparison in self.comparisons]}

    def text(self) -> str:
        """For people: median (min..max) for each contender."""
        return "\n\n".join(comparison.text() for comparison in self.comparisons)

    def missed(self) -> list[str]:
        """The promises that were not kept."""
        return [
            f"{comparison.slots} slots: {comparison.ratios.median:.2f} of the bare loop, {bound} is promised"
            for comparison in self.comparisons
            if (bound := BOUNDS.get(comparison.slots, 0)) > comparison.ratios.median
        ]


def run(options: argparse.Namespace) -> DrainReport:
    """Measure."""
    return asyncio.run(_measure(options.rounds, options.tasks, options.slots))


async def _measure(rounds: int, tasks: int, slots: Sequence[int]) -> DrainReport:
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
                    measured.append(await _contend(server.url, mode, number, tasks))
                    await _ensure_drained(broker)
                print(f"round {turn + 1} of {rounds}, {comparison.slots} slots", file=sys.stderr)
    return DrainReport(comparisons)


async def _contend(url: str, mode: str, slots: int, tasks: int) -> Measurement:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(_CONTENDER), mode, url, str(slots), str(tasks), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_CONTENDER_SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise SystemExit(f"error: the contender {mode} ended with {process.returncode}")
    return Measurement(**json.loads(output))


async def _ensure_drained(broker: JetStreamBroker) -> None:
    """A contender that leaves something behind measured nothing."""
    async with asyncio.timeout(10):
        while True:
            info = await broker.connection.api(f"STREAM.INFO.{broker.namespace.tasks_stream}")
            if not info["state"]["messages"]:
                return
            await asyncio.sleep(0.05)
