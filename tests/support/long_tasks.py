"""Worker processes whose tasks outlast their leases, and queues whose leases are short."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.assets import NANOSECONDS
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.testing import wait_until
from support.command_line import CONSOLE_SCRIPT, CommandLine, OnTheServer
from support.paths import EXTENSIONS

PACKAGE = "lasting_tasks"
SOURCE = EXTENSIONS / PACKAGE
TASKS = ("Sleeps", "Lasts", "LastsOnAThread", "HoldsUp")


def install(command_line: CommandLine) -> None:
    """Put the distribution `lasting_tasks` where the command line finds it, as an installer would."""
    site = command_line.folder / "site"
    shutil.copytree(SOURCE, site / PACKAGE)
    information = site / f"{PACKAGE}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
    points = "".join(f"{task} = {PACKAGE}.tasks:{task}\n" for task in TASKS)
    (information / "entry_points.txt").write_text(f"[diracx.tasks.lasting]\n{points}")
    command_line.environment["LASTING_FOLDER"] = str(command_line.folder)


@dataclass
class WorkerProcess:
    """A worker, and what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        return self.log.read_text()

    async def says(self, words: str) -> None:
        await wait_until(lambda: words in self.said(), description=f"worker {self.pid} says {words!r}", timeout=30)

    async def stop(self) -> int:
        """Stop it in order; its exit code."""
        self.process.terminate()
        # Not on this loop, which may carry its connection.
        return await asyncio.to_thread(self.process.wait, 30)


@contextmanager
def worker_process(command_line: CommandLine, size: Size, url: str | None = None) -> Iterator[WorkerProcess]:
    """A worker that is gone at the end of the block, also if it was stopped by SIGSTOP.

    Args:
        url: Of the server, where that is not the one of the command line.
    """
    environment = command_line.environment | ({} if url is None else {"DIRACX_TASKS_NATS_URL": url})
    log = command_line.folder / f"worker-{len(list(command_line.folder.glob('worker-*.log')))}.log"
    command = [str(CONSOLE_SCRIPT), "worker", "--worker-size", size.value]
    with (
        log.open("wb") as told,
        subprocess.Popen(command, env=environment, cwd=command_line.folder, stdout=told, stderr=told) as process,
    ):
        try:
            yield WorkerProcess(process, log)
        finally:
            process.kill()


async def shorten_leases(on_the_server: OnTheServer, size: Size, seconds: float) -> None:
    """As an operator would; workers that start later go by it."""
    stream = on_the_server.names.tasks_stream
    for priority in Priority:
        consumer = on_the_server.names.consumer(priority, size)
        info: dict[str, Any] = await on_the_server.connection.api(f"CONSUMER.INFO.{stream}.{consumer}")
        config = info["config"] | {"ack_wait": int(seconds * NANOSECONDS)}
        await on_the_server.connection.api(
            f"CONSUMER.CREATE.{stream}.{consumer}.{config['filter_subject']}", {"stream_name": stream, "config": config}
        )


async def submit(on_the_server: OnTheServer, task: str, size: Size, body: bytes = b"{}") -> None:
    subject = on_the_server.names.task_subject(Priority.NORMAL, size)
    await publish(on_the_server.connection, subject, body, {"Task-Name": f"lasting:{task}", "Task-Id": "an-id"})


def end_with(command_line: CommandLine, worker: WorkerProcess, error: str = "") -> None:
    """Let the task `Lasts` in that worker end: well, or with an error."""
    # In one step: a task that sees the file sees all of it.
    draft = command_line.folder / f"{worker.pid}.draft"
    draft.write_text(error)
    signal_file = command_line.folder / str(worker.pid)
    draft.rename(signal_file)


def stop_process(worker: WorkerProcess) -> None:
    """Stop it where it stands, by SIGSTOP."""
    worker.process.send_signal(signal.SIGSTOP)


def continue_process(worker: WorkerProcess) -> None:
    worker.process.send_signal(signal.SIGCONT)
