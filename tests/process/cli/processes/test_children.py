"""The child processes of `dev`: their lines, their restarts and their end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from diracx.tasks.cli.logs import LogLine
from diracx.tasks.cli.processes.children import Child
from diracx.tasks.testing import wait_until
from support import leaving_tasks
from support.command_line import CommandLine


@dataclass
class Running:
    """A child and the lines that it printed."""

    child: Child
    lines: list[str] = field(default_factory=list)

    def show(self, name: str, line: LogLine | str) -> None:
        assert name == self.child.name
        self.lines.append(line if isinstance(line, str) else line.message)

    def count(self, words: str) -> int:
        return sum(words in line for line in self.lines)


@asynccontextmanager
async def running(child: Child) -> AsyncIterator[Running]:
    """Run the child within the block; it ends at once at its end, whatever it waits for."""
    run = Running(child)
    task = asyncio.create_task(child.run(run.show))
    try:
        yield run
    finally:
        child.stop()
        async with asyncio.timeout(20):
            await task


@pytest.fixture
def started(extension: CommandLine) -> Callable[[], int]:
    """The number of processes that have imported the tasks."""
    module = extension.folder / "site" / "lollygag_tasks" / "__init__.py"
    module.write_text("import os\nwith open(os.environ['LOLLYGAG_FOLDER'] + '/starts', 'a') as file: file.write('x')\n")
    starts = extension.folder / "starts"
    return lambda: len(starts.read_text()) if starts.exists() else 0


async def test_bad_usage_is_shown_once_however_often_the_command_is_started_again(
    extension: CommandLine, started: Callable[[], int]
) -> None:
    arguments = ["call", "lollygag:Unpreparable"]
    child = Child("small", arguments, extension.environment, shortest_pause=0.01, longest_pause=0.05)
    async with running(child) as run:
        await wait_until(lambda: started() >= 3, description="it is tried a third time", timeout=60)
    assert run.count("parameter 'database'") == 1
    assert run.count("ended with exit code 2; it is started again every 0.05 s") == 1


async def test_any_other_end_is_shown_each_time_and_the_pause_grows(extension: CommandLine) -> None:
    arguments = ["submit", "lollygag:Retried"]
    child = Child("small", arguments, extension.environment, shortest_pause=0.01)
    async with running(child) as run:
        await wait_until(lambda: run.count("ended with") >= 4, description="it has ended four times", timeout=60)
    ends = [line for line in run.lines if line.startswith("ended with")]
    assert [line.split()[-2] for line in ends[:4]] == ["0.01", "0.02", "0.04", "0.08"]
    assert run.count("error: cannot connect to") >= 4


async def test_it_ends_while_it_waits(extension: CommandLine) -> None:
    child = Child("small", ["call", "lollygag:Unpreparable"], extension.environment, longest_pause=3600)
    async with running(child) as run:
        await wait_until(lambda: run.count("every 3600 s"), description="it waits for an hour", timeout=60)


async def test_a_program_that_a_task_left_does_not_hide_the_end_of_the_command(extension: CommandLine) -> None:
    leaving_tasks.install(extension)
    child = Child("call", ["call", *leaving_tasks.arguments("leaves_a_program")], extension.environment)
    child.shortest_pause = child.longest_pause = 3600.0
    async with running(child) as run:
        await wait_until(lambda: run.count("ended with exit code 0"), description="its end is shown", timeout=60)
    (program,) = extension.journal()
    os.kill(int(program), signal.SIGKILL)
    assert run.count("Result: None") == 1
