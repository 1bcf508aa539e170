"""What many schedules cost: one periodic task for each of many VOs, all due at the same minute.

The scheduler runs in this process and nothing else does, so its CPU time is the process's; the server has its own.
Lateness is the server's: from the due time to the moment at which the occurrence stands in the work queue.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import time
from base64 import b64decode
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from diracx.tasks.plumbing.base_task import PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler import Scheduler, SchedulerSettings
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.schedules import CronSchedule

SUMMARY: Final = "one-minute crons of one task for many VOs: the scheduler's CPU, and how late they come"
MOST_CPU: Final = 0.1
"""Of one core."""
LATEST: Final = 1.0
"""Seconds after the minute."""

_QUANTILES: Final = {"p50": 0.5, "p99": 0.99, "max": 1.0}


@dataclasses.dataclass
class EveryMinute(PeriodicVoAwareBaseTask):
    """Due at each minute."""

    vo: str

    size = Size.SMALL
    default_schedule = CronSchedule("* * * * *")

    async def execute(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class ScheduleReport:
    """What came out."""

    schedules: int
    minutes: int
    start_seconds: float
    """Of CPU, to supply all schedules for the first time."""
    cpu: float
    """Of one core, from then on."""
    lateness: list[float]
    """Of each occurrence, in seconds, rising."""
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
            "late": {
                name: round(self._quantile(share), 3) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1))
            },
        }

    def _quantile(self, share: float) -> float:
        return self.lateness[min(int(len(self.lateness) * share), len(self.lateness) - 1)]

    def text(self) -> str:
        """For people."""
        return (
            f"{self.schedules:,} schedules, {len(self.lateness):,} occurrences in {self.minutes} minutes, "
            f"{self.doubled} of them twice\n"
            f"scheduler: {self.start_seconds:.2f} s CPU to begin, then {self.cpu:.2%} of a core\n"
            f"late: {self._quantile(0.5):.3f} s in the median, {self._quantile(0.99):.3f} s for 99 %, "
            f"{self._quantile(1):.3f} s at the most"
        )

    def missed(self) -> list[str]:
        """The promises that were not kept."""
        expected = self.schedules * self.minutes
        problems = [
            (self.cpu > MOST_CPU, f"{self.cpu:.2%} of a core, {MOST_CPU:.0%} is promised"),
            (self._quantile(1) > LATEST, f"{self._quantile(1):.2f} s late, {LATEST:g} s is promised"),
            (len(self.lateness) != expected, f"{len(self.lateness):,} occurrences, {expected:,} are promised"),
            (self.doubled > 0, f"{self.doubled} occurrences came twice"),
        ]
        return [text for is_so, text in problems if is_so]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--schedules", type=int, default=2_000, metavar="N", help="how many VOs (2000)")
    parser.add_argument("--minutes", type=int, default=2, metavar="N", help="how long (2)")


def run(options: argparse.Namespace) -> ScheduleReport:
    """Measure."""
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
        # In the first half of a minute, so that the first occurrences are those of the next one.
        await asyncio.sleep(max(0.0, 61 - time.time() % 60) if time.time() % 60 > 25 else 0.0)
        cpu = time.process_time()
        running = asyncio.create_task(scheduler.run())
        while scheduler.published < schedules:  # noqa: ASYNC110 - it tells by a number
            await asyncio.sleep(0.05)
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
    """Id and lateness of everything in the work queue."""
    stream = broker.namespace.tasks_stream
    last = (await broker.connection.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"]
    found = []
    for sequence in range(1, last + 1):
        message = (await broker.connection.api(f"STREAM.MSG.GET.{stream}", {"seq": sequence}))["message"]
        lines = b64decode(message["hdrs"]).decode().split("\r\n")[1:]
        headers = dict(line.split(": ", 1) for line in lines if line)
        stored = datetime.fromisoformat(message["time"][:26].rstrip("Z").ljust(26, "0") + "+00:00")
        late = (stored - datetime.fromisoformat(headers["Task-Due"])).total_seconds()
        found.append((headers["Task-Id"], late))
    return found
