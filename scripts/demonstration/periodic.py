"""Periodic tasks: a scheduler, a worker of their size, and a configuration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mesh_process
from counts import Count
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.operations.status import StatusReader, StatusSnapshot
from mesh_process import MeshProcess
from narration import Narration

SCHEDULER = "diracx-task-run scheduler"
WORKER = "diracx-task-run worker --worker-size medium"
SCHEDULES = "diracx-task-run schedule list"
VOS = ("lhcb", "atlas")
EACH = 3
TIMEOUT_SECONDS = 60.0
# The scheduler must know the schedule before the first occurrence: it catches up on missed ones once only, not each. It
# applies a new configuration within two seconds, and on a slow machine the command that sets it takes seconds, too.
LEAD_SECONDS = 6.0
LEAD_PER_COMMAND_SECOND = 4.0

# Without this the hourly task would also run if the demo passes a full hour.
QUIET = """\
tasks:
  lollygag:OwnerCleanupTask: {enabled: false}
"""


async def run_periodic_tasks(broker: JetStreamBroker, folder: Path, tell: Narration) -> Count:
    """Run the periodic report for each VO, and count the runs."""
    tell.step(
        "Periodic tasks: a scheduler submits their occurrences, and a worker of their size runs them. "
        f"OwnerReportTask is due daily for each VO; this configuration makes it due {EACH} times, a second apart:"
    )
    tell.command(SCHEDULER)
    tell.command(WORKER)
    file = folder / "configuration.yaml"
    setting = f"diracx-task-run config set {file}"
    file.write_text(QUIET, encoding="utf-8")
    began = time.monotonic()
    await asyncio.to_thread(mesh_process.run, setting)
    took = time.monotonic() - began
    async with AsyncExitStack() as processes:
        for command, log in ((SCHEDULER, "scheduler.log"), (WORKER, "medium.log")):
            process = MeshProcess(command, folder / log)
            await processes.enter_async_context(process)
        await _until(_serving(broker), "scheduler and worker have started")
        lead_time = timedelta(seconds=LEAD_SECONDS + LEAD_PER_COMMAND_SECOND * took)
        file.write_text(configuration(datetime.now(UTC) + lead_time), encoding="utf-8")
        tell.command(setting)
        tell.lines(file.read_text(encoding="utf-8"))
        await asyncio.to_thread(mesh_process.run, setting)
        expected = EACH * len(VOS)
        with tell.progress(expected) as progress:

            async def all_ran() -> bool:
                progress.show(await _runs(broker))
                return await _runs(broker) >= expected

            await _until(all_ran, f"{expected} occurrences have run")
        tell.command(SCHEDULES)
        await asyncio.to_thread(mesh_process.run, SCHEDULES, shown=True)
    return Count("occurrences run", expected, await _runs(broker))


def configuration(start: datetime) -> str:
    """A configuration by which the occurrences of the report begin at `start`."""
    return (
        f"vos: [{', '.join(VOS)}]\n"
        f"{QUIET}"
        "  lollygag:OwnerReportTask:\n"
        f'    schedule: {{rrule: "DTSTART:{start:%Y%m%dT%H%M%SZ} RRULE:FREQ=SECONDLY;COUNT={EACH}"}}\n'
    )


def _serving(broker: JetStreamBroker) -> Callable[[], Awaitable[bool]]:
    reader = StatusReader(broker.connection, broker.namespace)

    async def serving() -> bool:
        glance: StatusSnapshot = await reader.read()
        return glance.status.scheduler.leader is not None and bool(glance.status.workers)

    return serving


async def _runs(broker: JetStreamBroker) -> int:
    """How many messages the medium worker has acked; the queue had none before."""
    info = await broker.connection.api(f"CONSUMER.INFO.{broker.namespace.tasks_stream}.normal-medium")
    return int(info["ack_floor"]["consumer_seq"])


async def _until(fact: Callable[[], Awaitable[bool]], description: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not await fact():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {TIMEOUT_SECONDS:.0f} s: {description}")
        await asyncio.sleep(0.1)
