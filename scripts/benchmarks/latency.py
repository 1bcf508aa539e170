"""How soon one task begins in an idle worker, compared with a bare loop of `fetch(1)`.

The two contenders are processes that wait at the same time, each for the tasks of a mesh of its own on one server.
Tasks are submitted to them in turns, one at a time, and each after a pause in which both are idle again. The time is
that from just before the submission until the code of the task begins.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from figures import Figures, quantiles
from latency_contender import Begins, registry
from processes import BenchProcess, running

SUMMARY: Final = "from the submission of one task until it begins in an idle worker, beside a bare fetch(1)"
BOUNDS: Final = {"p50": 1.0, "p99": 1.2}
"""The latency of a worker, to that of the bare loop, at the most."""
MODES: Final = ("bare", "worker")
LONGEST_PAUSE_SECONDS: Final = 0.006
TIMEOUT_SECONDS: Final = 60.0
WARM_UP: Final = 20


@dataclass(frozen=True)
class Round:
    """Sorted latencies in milliseconds, by contender."""

    latencies: dict[str, list[float]]

    def quantile(self, mode: str, name: str) -> float:
        """One quantile of a contender."""
        return quantiles(self.latencies[mode], 4)[name]


@dataclass(frozen=True)
class LatencyReport:
    """The results of all rounds."""

    rounds: Sequence[Round]

    def ratios(self, name: str) -> Figures:
        """A quantile of the worker divided by that of the bare loop, for each round."""
        return Figures([one.quantile("worker", name) / one.quantile("bare", name) for one in self.rounds])

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ratios": {name: self.ratios(name).document() for name in BOUNDS},
            **{mode: {name: self._figures(mode, name).document() for name in BOUNDS} for mode in MODES},
        }

    def text(self) -> str:
        """For people."""
        lines = [
            f"{mode:7} " + ", ".join(f"{name} {self._figures(mode, name).text('.2f')} ms" for name in BOUNDS)
            for mode in MODES
        ]
        lines += [
            f"{name} ratio {self.ratios(name).text('.2f')}; at most {bound} is promised"
            for name, bound in BOUNDS.items()
        ]
        return "\n".join(lines)

    def missed(self) -> list[str]:
        """A line for each promised bound that was missed."""
        return [
            f"{name}: {ratio:.2f} of the bare loop, {bound} is promised"
            for name, bound in BOUNDS.items()
            if (ratio := self.ratios(name).median) > bound
        ]

    def _figures(self, mode: str, name: str) -> Figures:
        return Figures([one.quantile(mode, name) for one in self.rounds])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (5)")
    parser.add_argument("--tasks", type=int, default=1_000, metavar="N", help="tasks for each in a round (1000)")


def run(options: argparse.Namespace) -> LatencyReport:
    """Measure all rounds."""
    return asyncio.run(_measure(options.rounds, options.tasks))


async def _measure(rounds: int, tasks: int) -> LatencyReport:
    async with EmbeddedServer() as server, AsyncExitStack() as stack:
        brokers, contenders = {}, {}
        for mode in MODES:
            brokers[mode] = await stack.enter_async_context(
                JetStreamBroker.connect(server.url, namespace=mode, registry=registry(), bind=False)
            )
            contenders[mode] = await stack.enter_async_context(running("latency_contender", mode, server.url, mode))
            if await contenders[mode].output.readline() != b"ready\n":
                raise SystemExit(f"error: {mode} did not start")
        await _round(brokers, contenders, WARM_UP)
        measured = []
        for turn in range(rounds):
            measured.append(await _round(brokers, contenders, tasks))
            print(f"round {turn + 1} of {rounds}", file=sys.stderr)
    return LatencyReport(measured)


async def _round(brokers: dict[str, JetStreamBroker], contenders: dict[str, BenchProcess], tasks: int) -> Round:
    found: dict[str, list[float]] = {mode: [] for mode in MODES}
    for turn in range(tasks):
        for mode in MODES if turn % 2 == 0 else reversed(MODES):
            await asyncio.sleep(random.uniform(0.5, 1) * LONGEST_PAUSE_SECONDS)
            submitted = time.monotonic_ns()
            await brokers[mode].submit(Begins("alice"))
            async with asyncio.timeout(TIMEOUT_SECONDS):
                begun = int(await contenders[mode].output.readline())
            found[mode].append((begun - submitted) / 1e6)
    return Round({mode: sorted(latencies) for mode, latencies in found.items()})
