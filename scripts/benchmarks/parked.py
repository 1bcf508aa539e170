"""What thousands of tasks that wait for a retry cost the others of their queue.

A worker parks them by its own means: they fail, and their policy says in an hour. Beside that mesh stands one of
another namespace with nothing parked, on the same server. Measured in both, in turns: how fast one worker process
drains fresh tasks, from the first that is settled to the last; how long workers take to start; and how late retries
come that are due within seconds: while nothing else happens, while brief fresh tasks flow at an even rate and end one
by one (which leaves the server less time to look for what is due than a flood does), and while fresh tasks fail at
that rate.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from figures import Figures
from parked_mesh import MOODS, Lateness, Mesh
from parked_tasks import registry

SUMMARY: Final = "fresh tasks and due retries beside thousands that wait for an hour"
PROMISED_FOR: Final = 20_000
"""Parked tasks up to which the bounds hold."""
PROMISED_AT: Final = 1_000
"""Fresh tasks a second up to which retries come in time."""
LEAST_DRAIN: Final = 0.7
"""Of the speed with nothing parked."""
LATEST: Final = 2.0
"""Seconds after its time, for each retry."""
LONGEST_START: Final = 1.0
"""Seconds until the first pull of a worker was answered."""

_QUANTILES: Final = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
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
    """A mesh with parked tasks, and the one without."""

    parked: int
    rate: int
    full: Mesh
    bare: Mesh

    @property
    def ratios(self) -> Figures:
        """Speed of the drain with to without parked tasks, round by round."""
        return Figures([ours / bare for ours, bare in zip(self.full.drained, self.bare.drained, strict=True)])

    @property
    def _sides(self) -> tuple[tuple[str, Mesh], ...]:
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
                    "late": {mood: _quantiles(mesh.lateness[mood]) for mood in MOODS},
                }
                for key, mesh in (("with", self.full), ("without", self.bare))
            },
        }

    def text(self) -> str:
        """The two meshes, and the ratio."""
        lines = []
        for name, mesh in self._sides:
            speed, start = Figures(mesh.drained).text(",.0f"), Figures(mesh.started).text(".3f")
            lines.append(f"{name:16} drain {speed:>26} tasks/s   start {start} s")
        ratios = self.ratios
        each = " ".join(f"{ratio:.2f}" for ratio in ratios.values)
        bound = f"; at least {LEAST_DRAIN} is promised" if self.parked <= PROMISED_FOR else ""
        lines.append(f"{'ratio':16} drain {ratios.median:.2f}, the median of {each}{bound}")
        for mood in MOODS:
            for name, mesh in self._sides:
                quantiles = _quantiles(mesh.lateness[mood])
                figures = ", ".join(f"{quantile} {seconds:.3f} s" for quantile, seconds in quantiles.items())
                lines.append(f"{name:16} retries late, {mood + ':':9} {figures}")
        return "\n".join(lines)

    def missed(self) -> list[str]:
        """The promises that were not kept."""
        found = []
        ratio = self.ratios.median
        if self.parked <= PROMISED_FOR:
            found = [
                (ratio < LEAST_DRAIN, f"{ratio:.2f} of the speed with none, {LEAST_DRAIN} is promised"),
                (max(self.full.started) > LONGEST_START, f"{max(self.full.started):.1f} s until a worker pulls"),
            ]
        for mood, lateness in self.full.lateness.items():
            latest = max(lateness.late, default=0.0)
            if self.parked <= PROMISED_FOR and self.rate <= PROMISED_AT:
                found.append((latest > LATEST, f"{mood}: {latest:.1f} s late, {LATEST:g} s is promised"))
            found.append((lateness.missing > 0, f"{mood}: {lateness.missing} retries did not come"))
            found.append((lateness.repeated > 0, f"{mood}: {lateness.repeated} retries were not executed twice"))
        return [f"{self.parked:,} parked: {text}" for is_so, text in found if is_so]


def _quantiles(lateness: Lateness) -> dict[str, float]:
    late = lateness.late
    return {
        name: round(late[min(int(len(late) * share), len(late) - 1)], 4) for name, share in _QUANTILES.items() if late
    }


@dataclass(frozen=True)
class ParkedReport:
    """What came out."""

    comparisons: Sequence[Comparison]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"comparisons": [comparison.document() for comparison in self.comparisons]}

    def text(self) -> str:
        """For people: median (min..max)."""
        return "\n\n".join(comparison.text() for comparison in self.comparisons)

    def missed(self) -> list[str]:
        """The promises that were not kept."""
        return [line for comparison in self.comparisons for line in comparison.missed()]


def run(options: argparse.Namespace) -> ParkedReport:
    """Measure."""
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> ParkedReport:
    return ParkedReport([await _compare(parked, options) for parked in options.parked])


async def _compare(parked: int, options: argparse.Namespace) -> Comparison:
    async with (
        EmbeddedServer() as server,
        JetStreamBroker.connect(server.url, namespace="full", registry=registry(), bind=False) as full_broker,
        JetStreamBroker.connect(server.url, namespace="bare", registry=registry(), bind=False) as bare_broker,
    ):
        full, bare = Mesh(full_broker, server.url), Mesh(bare_broker, server.url)
        await full.park(parked, options.slots)
        print(f"{parked:,} are parked", file=sys.stderr)
        for turn in range(options.rounds):
            for mesh in (full, bare) if turn % 2 == 0 else (bare, full):
                await mesh.drain(options.tasks, options.slots)
            print(f"drain: round {turn + 1} of {options.rounds}", file=sys.stderr)
        for mood in MOODS:
            for mesh in (bare, full):
                await mesh.retry(mood, options.retries, options.workers, options.slots, options.rate)
            print(f"retries: {mood}", file=sys.stderr)
    return Comparison(parked, options.rate, full, bare)
