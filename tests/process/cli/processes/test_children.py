"""The processes of `dev`: what they say, when they are started again, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from diracx.tasks.cli.processes.children import Child
from diracx.tasks.cli.terminal.log_lines import LogLine
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine


@dataclass
class Running:
    """A child, and what it said."""

    child: Child
    lines: list[str] = field(default_factory=list)

    def tell(self, name: str, line: LogLine | str) -> None:
        assert name == self.child.name
        self.lines.append(line if isinstance(line, str) else line.message)

    def count(self, words: str) -> int:
        return sum(words in line for line in self.lines)


@asynccontextmanager
async def running(child: Child) -> AsyncIterator[Running]:
    """Until the end of the block, at which it ends at once, whatever it waits for."""
    told = Running(child)
    task = asyncio.create_task(child.run(told.tell))
    try:
        yield told
    finally:
        child.stop()
        async with asyncio.timeout(20):
            await task


@pytest.fixture
def started(extension: CommandLine) -> Callable[[], int]:
    """How often the tasks were imported, each time by another process."""
    module = extension.folder / "site" / "lollygag_tasks" / "__init__.py"
    module.write_text("import os\nwith open(os.environ['LOLLYGAG_FOLDER'] + '/starts', 'a') as file: file.write('x')\n")
    starts = extension.folder / "starts"
    return lambda: len(starts.read_text()) if starts.exists() else 0


async def test_what_is_missing_is_told_once_however_often_it_is_tried_again(
    extension: CommandLine, started: Callable[[], int]
) -> None:
    arguments = ["call", "lollygag:Unpreparable"]
    child = Child("small", arguments, extension.environment, shortest_pause=0.01, longest_pause=0.05)
    async with running(child) as told:
        await wait_until(lambda: started() >= 3, description="it is tried a third time", timeout=60)
    assert told.count("parameter 'database'") == 1
    assert told.count("ended with exit code 2; it is started again every 0.05 s") == 1


async def test_another_end_is_told_each_time_and_the_pause_grows(extension: CommandLine) -> None:
    arguments = ["submit", "lollygag:Retried"]
    child = Child("small", arguments, extension.environment, shortest_pause=0.01)
    async with running(child) as told:
        await wait_until(lambda: told.count("ended with") >= 4, description="it has ended four times", timeout=60)
    ends = [line for line in told.lines if line.startswith("ended with")]
    assert [line.split()[-2] for line in ends[:4]] == ["0.01", "0.02", "0.04", "0.08"]
    assert told.count("error: cannot connect to") >= 4


async def test_it_ends_while_it_waits(extension: CommandLine) -> None:
    child = Child("small", ["call", "lollygag:Unpreparable"], extension.environment, longest_pause=3600)
    async with running(child) as told:
        await wait_until(lambda: told.count("every 3600 s"), description="it waits for an hour", timeout=60)
