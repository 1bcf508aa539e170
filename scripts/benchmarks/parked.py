"""The cost of thousands of parked tasks, which wait for a retry, for the other tasks of their queue.

A worker parks the tasks: they fail, and their policy retries them in an hour. A second mesh on the same server, in
another namespace, has nothing parked. Both are measured, in alternating order:

- how fast one worker process drains fresh tasks, from the first settlement to the last;
- how long workers take to start;
- how late retries come that are due within seconds: with no other load; while brief fresh tasks arrive at an even rate
  and end one by one, which leaves the server less time to look for due messages than a flood does; and while fresh
  tasks fail at that rate.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from typing import Any, Final

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from figures import Comparisons, Figures, quantiles
from parked_mesh import LOADS, ParkedMesh
from parked_tasks import registry

SUMMARY: Final = "fresh tasks and due retries beside thousands that wait for an hour"
PROMISED_FOR: Final = 20_000
"""The number of parked tasks up to which the bounds hold."""
PROMISED_AT: Final = 1_000
"""The fresh tasks a second up to which retries are promised to come in time."""
LEAST_DRAIN: Final = 0.7
"""The least speed of a drain, as a share of that with nothing parked."""
LATEST_SECONDS: Final = 2.0
"""From the time of a retry until it runs."""
LONGEST_START_SECONDS: Final = 1.0
"""Until the first pull of a worker is answered."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "--parked", type=int, nargs="+", default=[PROMISED_FOR], metavar="N", help="tasks that wait (20000)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="drains of each of the two (5)")
    parser.add_argument("--tasks", type=int, default=20_000, metavar="N", help="fresh tasks for each drain (20000)")
    parser.add_argument("--slots", type=int, default=100, metavar="N", help="of each worker (100)")
    parser.add_argument("--workers", type=int, default=3, metavar="N", help="that serve retries and fresh tasks (3)")
    parser.add_argument("--retries", type=int, default=300, metavar="N", help="that fall due in each run (300)")
    parser.add_argument(
        "--rate", type=int, default=PROMISED_AT, metavar="N", help="fresh tasks a second beside them (1000)"
    )


@dataclass(frozen=True)
class Comparison:
    """The mesh with parked tasks, and the one without."""

    parked: int
    rate: int
    full: ParkedMesh
    bare: ParkedMesh

    @property
    def ratios(self) -> Figures:
        """Speed of the drain with parked tasks divided by that without, for each round."""
        return Figures([ours / bare for ours, bare in zip(self.full.drained, self.bare.drained, strict=True)])

    @property
    def _sides(self) -> tuple[tuple[str, ParkedMesh], ...]:
        return (f"{self.parked:,} parked", self.full), ("none parked", self.bare)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "parked": self.parked,
            "rate": self.rate,
            "drain_ratio": self.ratios.document(),
            **{
                key: {
                    "per_second": Figures(mesh.drained).document(),
                    "start_seconds": Figures(mesh.started).document(),
                    "late": {load: quantiles(mesh.lateness[load].late, 4) for load in LOADS},
                }
                for key, mesh in (("with", self.full), ("without", self.bare))
            },
        }

    def text(self) -> str:
        """Lines for both meshes, and the ratio."""
        lines = []
        for name, mesh in self._sides:
            speed, start = Figures(mesh.drained).text(",.0f"), Figures(mesh.started).text(".3f")
            lines.append(f"{name:16} drain {speed:>26} tasks/s   start {start} s")
        ratios = self.ratios
        each = " ".join(f"{ratio:.2f}" for ratio in ratios.values)
        bound = f"; at least {LEAST_DRAIN} is promised" if self.parked <= PROMISED_FOR else ""
        lines.append(f"{'ratio':16} drain {ratios.median:.2f}, the median of {each}{bound}")
        for load in LOADS:
            for name, mesh in self._sides:
                late = quantiles(mesh.lateness[load].late, 4)
                figures = ", ".join(f"{quantile} {seconds:.3f} s" for quantile, seconds in late.items())
                lines.append(f"{name:16} retries late, {load + ':':9} {figures}")
        return "\n".join(lines)

    def missed(self) -> list[str]:
        """A line for each promised bound that was missed."""
        found = []
        ratio = self.ratios.median
        if self.parked <= PROMISED_FOR:
            found = [
                (ratio < LEAST_DRAIN, f"{ratio:.2f} of the speed with none, {LEAST_DRAIN} is promised"),
                (
                    max(self.full.started) > LONGEST_START_SECONDS,
                    f"{max(self.full.started):.1f} s until a worker pulls",
                ),
            ]
        for load, lateness in self.full.lateness.items():
            latest = max(lateness.late, default=0.0)
            if self.parked <= PROMISED_FOR and self.rate <= PROMISED_AT:
                found.append(
                    (latest > LATEST_SECONDS, f"{load}: {latest:.1f} s late, {LATEST_SECONDS:g} s is promised")
                )
            found.append((lateness.missing > 0, f"{load}: {lateness.missing} retries did not come"))
            found.append((lateness.repeated > 0, f"{load}: {lateness.repeated} retries were not executed twice"))
        return [f"{self.parked:,} parked: {text}" for is_so, text in found if is_so]


def run(options: argparse.Namespace) -> Comparisons:
    """Measure with each number of parked tasks."""
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> Comparisons:
    return Comparisons([await _compare(parked, options) for parked in options.parked])


async def _compare(parked: int, options: argparse.Namespace) -> Comparison:
    async with (
        EmbeddedServer() as server,
        JetStreamBroker.connect(server.url, namespace="full", registry=registry(), bind=False) as full_broker,
        JetStreamBroker.connect(server.url, namespace="bare", registry=registry(), bind=False) as bare_broker,
    ):
        full, bare = ParkedMesh(full_broker, server.url), ParkedMesh(bare_broker, server.url)
        await full.park(parked, options.slots)
        print(f"{parked:,} are parked", file=sys.stderr)
        for turn in range(options.rounds):
            for mesh in (full, bare) if turn % 2 == 0 else (bare, full):
                await mesh.drain(options.tasks, options.slots)
            print(f"drain: round {turn + 1} of {options.rounds}", file=sys.stderr)
        for load in LOADS:
            for mesh in (bare, full):
                await mesh.retry(load, options.retries, options.workers, options.slots, options.rate)
            print(f"retries: {load}", file=sys.stderr)
    return Comparison(parked, options.rate, full, bare)
