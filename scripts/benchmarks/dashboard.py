"""What an open dashboard costs the workers that it shows.

A worker process with 100 slots executes no-op tasks, in turn with and without a dashboard process of which a viewer
keeps the overview open. Measured are, side by side:

* at a steady rate of submissions (2,000 a second): the CPU time of the worker for each task;
* from a full queue: the tasks a second.

On a machine of few cores the dashboard takes CPU time from the worker besides, which the second figure includes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from figures import Figures
from memory import fill
from noop import Noop, registry
from worker_process import worker_process

SUMMARY: Final = "what an open dashboard costs a worker: CPU time for each task, and speed"
MOST_LOSS: Final = 0.03
SLOTS: Final = 100
BATCH_SECONDS: Final = 0.05
SETTLE_SECONDS: Final = 2.0
"""After a dashboard was opened or closed, before measuring."""
TIMEOUT_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.01
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class DashboardReport:
    """The figures of a worker without a dashboard, and with one that is open."""

    rate: int
    cpu_closed: Figures
    """Microseconds of CPU time for each task."""
    cpu_open: Figures
    speed_closed: Figures
    """Tasks a second."""
    speed_open: Figures

    @property
    def cpu_ratio(self) -> float:
        """The CPU time with a dashboard, to that without."""
        return self.cpu_open.median / self.cpu_closed.median

    @property
    def speed_ratio(self) -> float:
        """The speed with a dashboard, to that without."""
        return self.speed_open.median / self.speed_closed.median

    def document(self) -> dict[str, Any]:
        """For JSON."""
        figures = {
            name: getattr(self, name).document() for name in ("cpu_closed", "cpu_open", "speed_closed", "speed_open")
        }
        return {"rate": self.rate, **figures, "cpu_ratio": self.cpu_ratio, "speed_ratio": self.speed_ratio}

    def text(self) -> str:
        """For people."""
        return (
            f"CPU of the worker at {self.rate:,} tasks a second: without {self.cpu_closed.text('.1f')} us a task, with "
            f"a dashboard open {self.cpu_open.text('.1f')}: {self.cpu_ratio:.3f}\n"
            f"tasks a second from a full queue: without {self.speed_closed.text(',.0f')}, with a dashboard open "
            f"{self.speed_open.text(',.0f')}: {self.speed_ratio:.3f}"
        )

    def missed(self) -> list[str]:
        """A line for each promised bound that was missed."""
        missed = []
        if self.cpu_ratio > 1 + MOST_LOSS:
            missed.append(f"CPU of the worker: {self.cpu_ratio:.3f} with a dashboard, {1 + MOST_LOSS:g} is promised")
        if self.speed_ratio < 1 - MOST_LOSS:
            missed.append(
                f"speed of the worker: {self.speed_ratio:.3f} with a dashboard, {1 - MOST_LOSS:g} is promised"
            )
        return missed


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rate", type=int, default=2_000, metavar="N", help="tasks a second that are submitted (2000)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each steady round (5)")
    parser.add_argument("--tasks", type=int, default=60_000, metavar="N", help="tasks of each full queue (60000)")
    parser.add_argument("--rounds", type=int, default=6, metavar="N", help="rounds of each kind, in turn (6)")


def run(options: argparse.Namespace) -> DashboardReport:
    """Measure with and without a dashboard, in turn."""
    return asyncio.run(_measure(options.rate, options.seconds, options.tasks, options.rounds))


async def _measure(rate: int, seconds: float, tasks: int, rounds: int) -> DashboardReport:
    cpu: dict[bool, list[float]] = {False: [], True: []}
    speed: dict[bool, list[float]] = {False: [], True: []}
    async with (
        EmbeddedServer() as server,
        JetStreamBroker.connect(server.url, registry=registry(), bind=False) as broker,
        worker_process(server.url, SLOTS) as pid,
    ):
        await _steady(broker, pid, rate, 1.0)
        for turn in range(2 * rounds):
            # Without, with, with, without: a drift of the machine meets both.
            is_open = turn % 4 in (1, 2)
            async with AsyncExitStack() as stack:
                if is_open:
                    await stack.enter_async_context(_open_dashboard(server.url))
                await asyncio.sleep(SETTLE_SECONDS)
                cpu[is_open].append(await _steady(broker, pid, rate, seconds))
                speed[is_open].append(await _drain(broker, tasks))
            print(f"round {turn + 1} of {2 * rounds}", file=sys.stderr)
    return DashboardReport(rate, Figures(cpu[False]), Figures(cpu[True]), Figures(speed[False]), Figures(speed[True]))


async def _steady(broker: JetStreamBroker, pid: int, rate: int, seconds: float) -> float:
    """The CPU time of the worker for each task, in microseconds, while tasks are submitted at a rate."""
    before, batch = _cpu_seconds(pid), round(rate * BATCH_SECONDS)
    began = perf_counter()
    batches = round(seconds / BATCH_SECONDS)
    for number in range(1, batches + 1):
        await broker.submit_many([Noop("alice")] * batch)
        await asyncio.sleep(max(0.0, began + number * BATCH_SECONDS - perf_counter()))
    await _until_empty(broker)
    return (_cpu_seconds(pid) - before) / (batches * batch) * 1e6


async def _drain(broker: JetStreamBroker, tasks: int) -> float:
    """The tasks a second from a queue that is filled while it is paused."""
    names = broker.namespace
    consumer = f"{names.tasks_stream}.normal-small"
    await broker.connection.api(f"CONSUMER.PAUSE.{consumer}", {"pause_until": "2200-01-01T00:00:00Z"})
    await fill(broker, tasks)
    await broker.connection.api(f"CONSUMER.PAUSE.{consumer}", {})
    while await _waiting(broker) == tasks:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(POLL_SECONDS)
    left, began = await _waiting(broker), perf_counter()
    await _until_empty(broker)
    return left / (perf_counter() - began)


async def _until_empty(broker: JetStreamBroker) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while await _waiting(broker):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(POLL_SECONDS)


async def _waiting(broker: JetStreamBroker) -> int:
    info = await broker.connection.api(f"STREAM.INFO.{broker.namespace.tasks_stream}")
    return int(info["state"]["messages"])


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@asynccontextmanager
async def _open_dashboard(url: str) -> AsyncIterator[None]:
    """A dashboard process, and a viewer that keeps its overview open."""
    token = secrets.token_urlsafe(24)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "diracx.tasks.cli", "dashboard", "--port", "0", "--nats-url", url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DIRACX_TASKS_DASHBOARD_TOKEN": token},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while b"http://" not in (line := await process.stdout.readline()):
                if not line:
                    raise SystemExit("error: the dashboard did not start")
        address = line.decode().partition("http://")[2].split("/")[0]
        viewer = asyncio.create_task(_view(address, token), name="viewer")
        unread = asyncio.create_task(_read_on(process.stdout), name="output of the dashboard")
        yield
        if viewer.done():
            raise SystemExit(f"error: the stream of the dashboard ended: {viewer.exception() or viewer.result()}")
        for task in (viewer, unread):
            task.cancel()
    finally:
        process.kill()
        await process.wait()


async def _read_on(output: asyncio.StreamReader) -> None:
    while await output.readline():
        pass


async def _view(address: str, token: str) -> str:
    """Log in, and read the stream of events of the overview until it ends; returns its last bytes."""
    headers = await _get(address, f"/login?token={token}", "")
    cookie = next(line.partition(":")[2].split(";")[0] for line in headers if line.lower().startswith("set-cookie:"))
    reader, writer = await _request(address, "/events/overview", cookie)
    status = await reader.readline()
    if b" 200 " not in status:
        return status.decode()
    latest = b""
    while chunk := await reader.read(65_536):
        latest = chunk
    writer.close()
    return latest.decode()


async def _get(address: str, path: str, cookie: str) -> list[str]:
    reader, writer = await _request(address, path, cookie)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    return head.splitlines()


async def _request(address: str, path: str, cookie: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urlsplit(f"http://{address}")
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nCookie:{cookie}\r\n\r\n".encode())
    return reader, writer
