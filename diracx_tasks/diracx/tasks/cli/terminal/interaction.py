"""Working through many things, with a bar on a terminal while that takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import Progress

T = TypeVar("T")

_IN_FLIGHT: Final = 16


@contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error until the end of the block; the function that it gives moves it on by one.

    Off a terminal there is none.
    """
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        line = bar.add_task(doing, total=total)
        yield lambda: bar.advance(line)


async def work_through(doing: str, items: Sequence[T], work: Callable[[T], Awaitable[object]]) -> None:
    """Do the work for each item, 16 of them at a time; the first error ends it.

    Args:
        doing: What the bar says.
    """
    queue = iter(items)

    async def take_from_queue(advance: Callable[[], None]) -> None:
        for item in queue:
            await work(item)
            advance()

    with progress(doing, len(items)) as advance:
        workers = [asyncio.create_task(take_from_queue(advance), name=doing) for _ in range(_IN_FLIGHT)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
