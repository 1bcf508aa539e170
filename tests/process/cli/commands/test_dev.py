"""`diracx-task-run dev` as a process: one command, one log, one end."""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path

from diracx.tasks.testing import wait_until
from support.command_line import CommandLine
from support.processes import DevProcess, free_port


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(below for child in children for below in _descendants(child))]


async def test_a_submitted_task_runs_and_one_signal_ends_all_processes(extension: CommandLine) -> None:
    dev = DevProcess(extension, "--port", str(free_port()))
    await dev.ready()
    below = _descendants(dev.process.pid)
    extension.environment["DIRACX_TASKS_NATS_URL"] = dev.url
    # What it proposes works as it stands.
    (proposed,) = re.findall(r"^  diracx-task-run (submit .*)$", dev.log, re.MULTILINE)
    assert extension(*shlex.split(proposed)).returncode == 0
    done = extension("submit", "lollygag:SyncOwnersTask", "--args", '["bob"]')
    assert done.returncode == 0, done.stderr
    await wait_until(lambda: "done: lollygag:SyncOwnersTask" in dev.log, description="the task is done")
    dev.process.send_signal(signal.SIGINT)
    assert await dev.ended() == 0
    assert dev.log.count("ended after") == 4
    assert "asyncio" not in dev.log
    assert f"[id={done.stdout.strip()}]" in dev.log
    await wait_until(lambda: not any(map(_alive, below)), description="nothing is left running")


async def test_its_store_survives_a_restart_and_its_death_ends_all_processes(extension: CommandLine) -> None:
    port = str(free_port())
    dev = DevProcess(extension, "--port", port)
    await dev.ready()
    below = _descendants(dev.process.pid)
    extension.environment["DIRACX_TASKS_NATS_URL"] = dev.url
    delayed = extension("submit", "lollygag:SyncOwnersTask", "--args", '["bob"]', "--delay", "3")
    assert delayed.returncode == 0, delayed.stderr
    dev.process.kill()
    await dev.ended()
    await wait_until(lambda: not any(map(_alive, below)), description="server and workers went, too", timeout=30)
    again = DevProcess(extension, "--port", port)
    await again.ready()
    await wait_until(lambda: "done: lollygag:SyncOwnersTask" in again.log, description="the task is done", timeout=20)
    again.process.send_signal(signal.SIGTERM)
    assert await again.ended() == 0
