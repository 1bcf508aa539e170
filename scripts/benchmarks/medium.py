"""Medium tasks, which execute on threads of their own, beside a bare hop to the event loop of another thread.

The floor is nats-py's fetch and ack with `asyncio.run_coroutine_threadsafe` in between, on as many threads.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
from contextlib import ExitStack
from typing import Final

from nats.aio.msg import Msg

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.execution.loops import loop_on_a_thread
from diracx.tasks.plumbing.execution.thread import executing
from diracx.tasks.plumbing.injection.resources import Resources
from figures import Comparisons
from ways import Bench, Way, compare, on_a_server, watch
from ways import add_options as add_options

SUMMARY: Final = "medium tasks over their threads, beside a bare hop to the loop of a thread"
SLOTS: Final = 10


@dataclasses.dataclass
class Medium(BaseTask):
    """Does nothing, on a thread of its own."""

    number: int

    size = Size.MEDIUM

    async def execute(self) -> None:
        """Do nothing."""
        watch.start()


def run(options: argparse.Namespace) -> Comparisons:
    """Measure."""
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> Comparisons:
    with ExitStack() as threads:
        loops = [threads.enter_context(loop_on_a_thread(f"bare {number}")) for number in range(SLOTS)]
        async with on_a_server(Medium) as bench:
            return await compare([_way(bench, loops)], options)


def _way(bench: Bench, loops: list[asyncio.AbstractEventLoop]) -> Way:
    async def ours(tasks: int) -> None:
        await bench.submit([Medium(number) for number in range(tasks)])
        async with executing(Size.MEDIUM, Resources()) as threads:
            assert threads is not None
            await bench.drain(tasks, SLOTS, Size.MEDIUM, invoke=threads.invoke)
        await bench.ensure_drained()

    async def hop(message: Msg) -> None:
        loop = loops.pop()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(Medium(0).execute(), loop))
        loops.append(loop)
        await message.ack()

    async def bare(tasks: int) -> None:
        await bench.submit([Medium(number) for number in range(tasks)])
        watch.start(anew=True)
        await bench.fetch(tasks, SLOTS, hop, Size.MEDIUM)
        watch.stop()
        await bench.ensure_drained()

    return Way(f"medium task, {SLOTS} slots", f"  fetch, hop and ack, {SLOTS} at a time", ours, bare)
