"""Questions and progress bars on standard error."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import rich_click as click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from diracx.tasks.cli.terminal.printable import printable

T = TypeVar("T")

CONCURRENCY: Final = 16


def confirmed(question: str, undone: str) -> bool:
    """Ask a yes-or-no question.

    Args:
        undone: The words for the error that nothing was done, e.g. "nothing was purged".

    Raises:
        click.UsageError: Standard input ends without an answer.
        click.Abort: The user pressed Ctrl-C.
    """
    try:
        return click.confirm(printable(question), err=True)
    except click.Abort:
        # The cursor is still behind the question.
        print(file=sys.stderr)
        if sys.stdin.isatty():
            raise
        raise click.UsageError(f"standard input gives no answer, and {undone}; use --yes") from None


@contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar within the block; the function that it yields advances the bar by one.

    Where standard error is no terminal, there is no bar.
    """
    console = Console(stderr=True)
    # Standard output has the list: rich would break its lines to the width of the terminal.
    with Progress(console=console, disable=not console.is_terminal, transient=True, redirect_stdout=False) as bar:
        line = bar.add_task(doing, total=total)
        yield lambda: bar.advance(line)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show that something is waited for, and for how long, within the block.

    Where standard error is no terminal, nothing is shown.
    """
    console = Console(stderr=True)
    columns = (SpinnerColumn("line"), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True, redirect_stdout=False
    ) as bar:
        bar.add_task(printable(text), total=None)
        yield


async def work_through(doing: str, items: AsyncIterator[T], work: Callable[[T], Awaitable[object]]) -> None:
    """Do the work for each item as it comes, 16 at a time. The first error ends it.

    Args:
        doing: The name of the asyncio tasks.
    """
    one_asks = asyncio.Lock()

    async def take_items() -> None:
        while True:
            async with one_asks:
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
            await work(item)

    workers = [asyncio.create_task(take_items(), name=doing) for _ in range(CONCURRENCY)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
