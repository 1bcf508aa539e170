"""The cost of many schedules: one periodic task for each of many VOs, all due at the same minute.

The scheduler runs alone in this process, so its CPU time is that of the process; the server has a process of its own.
An occurrence is late by the time from when it is due until the server has stored it in the work queue.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from diracx.tasks.plumbing.base_task import PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.stream_messages import read_messages
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler import Scheduler, SchedulerSettings
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.schedules import CronSchedule
from figures import quantiles

SUMMARY: Final = "one-minute crons of one task for many VOs: the scheduler's CPU, and how late they come"
MOST_CPU: Final = 0.1
"""Of one core."""
LATEST_SECONDS: Final = 1.0
"""After the minute."""
POLL_SECONDS: Final = 0.05


@dataclasses.dataclass
class EveryMinute(PeriodicVoAwareBaseTask):
    """Is due every minute."""

    vo: str

    size = Size.SMALL
    default_schedule = CronSchedule("* * * * *")

    async def execute(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class ScheduleReport:
    """The results."""

    schedules: int
    minutes: int
    start_seconds: float
    """CPU time to publish all schedules for the first time."""
    cpu: float
    """Share of one core, from then on."""
    lateness: list[float]
    """Of each occurrence, in seconds, sorted."""
    doubled: int

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schedules": self.schedules,
            "minutes": self.minutes,
            "start_cpu_seconds": round(self.start_seconds, 3),
            "cpu": round(self.cpu, 4),
            "occurrences": len(self.lateness),
            "doubled": self.doubled,
            "late": quantiles(self.lateness, 3),
        }

    def text(self) -> str:
        """For people."""
        late = quantiles(self.lateness, 3)
        return (
            f"{self.schedules:,} schedules, {len(self.lateness):,} occurrences in {self.minutes} minutes, "
            f"{self.doubled} of them twice\n"
            f"scheduler: {self.start_seconds:.2f} s CPU to begin, then {self.cpu:.2%} of a core\n"
            f"late: {late['p50']:.3f} s in the median, {late['p99']:.3f} s for 99 %, "
            f"{late['max']:.3f} s at the most"
        )

    def missed(self) -> list[str]:
        """A line for each promised bound that was missed."""
        expected, latest = self.schedules * self.minutes, max(self.lateness)
        problems = [
            (self.cpu > MOST_CPU, f"{self.cpu:.2%} of a core, {MOST_CPU:.0%} is promised"),
            (latest > LATEST_SECONDS, f"{latest:.2f} s late, {LATEST_SECONDS:g} s is promised"),
            (len(self.lateness) != expected, f"{len(self.lateness):,} occurrences, {expected:,} are promised"),
            (self.doubled > 0, f"{self.doubled} occurrences came twice"),
        ]
        return [text for is_so, text in problems if is_so]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--schedules", type=int, default=2_000, metavar="N", help="how many VOs (2000)")
    parser.add_argument("--minutes", type=int, default=2, metavar="N", help="how long (2)")


def run(options: argparse.Namespace) -> ScheduleReport:
    """Measure for some minutes."""
    return asyncio.run(_measure(options.schedules, options.minutes))


async def _measure(schedules: int, minutes: int) -> ScheduleReport:
    registry = TaskRegistry()
    registry.add("bench:EveryMinute", EveryMinute)
    async with (
        EmbeddedServer() as server,
        JetStreamBroker.connect(server.url, registry=registry, bind=False) as broker,
    ):
        vos = VirtualOrganisations([f"vo.{number}" for number in range(schedules)], environ={})
        scheduler = Scheduler(broker.connection, broker.namespace, registry, vos, SchedulerSettings())
        # Start in the first half of a minute, so that the first occurrences are those of the next minute.
        await asyncio.sleep(max(0.0, 61 - time.time() % 60) if time.time() % 60 > 25 else 0.0)
        cpu = time.process_time()
        running = asyncio.create_task(scheduler.run())
        while scheduler.published < schedules:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(POLL_SECONDS)
        supplied, cpu_supplied = time.monotonic(), time.process_time()
        await asyncio.sleep(minutes * 60 - (time.time() % 60) + 5)
        used = (time.process_time() - cpu_supplied) / (time.monotonic() - supplied)
        scheduler.stop()
        await running
        arrived = await _arrived(broker)
    lateness = sorted(late for _, late in arrived)
    doubled = len(arrived) - len({identity for identity, _ in arrived})
    return ScheduleReport(schedules, minutes, cpu_supplied - cpu, used, lateness, doubled)


async def _arrived(broker: JetStreamBroker) -> list[tuple[str, float]]:
    """Id and lateness of every occurrence in the work queue."""
    found = []
    async for message in read_messages(broker.connection, broker.namespace.tasks_stream, ">"):
        due = datetime.fromisoformat(message.headers["Task-Due"])
        found.append((message.headers["Task-Id"], (message.stored - due).total_seconds()))
    return found
