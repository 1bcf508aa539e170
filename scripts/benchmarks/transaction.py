"""Tasks with a transaction of a DiracX database, which is injected, beside the same statement by hand.

The database is SQLite in a file, with a table of one row. By hand is `async with database:` and the statement, as many
at a time as the worker has slots; the message of the task itself is not in it. One more comparison, to which nothing is
promised, has it there: fetch, statement, ack. Both sides have an engine of the same settings, which is open before the
time begins; with ten slots its pool tells, see `SLOTS`. `scripts/bench transaction` has an environment of its own, with
diracx-db.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from typing import Any, Final

from nats.aio.msg import Msg

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.execution.thread import executing
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.testing.databases import sqlite_database
from figures import Comparisons
from ways import Bench, Way, compare, in_lanes, on_a_server, watch
from ways import add_options as add_options

SUMMARY: Final = "tasks with a transaction of DiracX's diracx-db on SQLite, beside the same statement by hand"
BOUND: Final = 1.25
SLOTS: Final = (10, 5)
"""SQLAlchemy keeps five connections of an engine open, and closes any other one that comes back while five are idle. A
lane asks again at once, so that this never happens; the slots of a worker are filled several at a time."""


def run(options: argparse.Namespace) -> Comparisons:
    """Measure each number of slots."""
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> Comparisons:
    from gubbins.db.sql import LollygagDB
    from transaction_task import Owners

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with sqlite_database(LollygagDB, folder) as database, on_a_server(Owners) as bench:
            async with database:
                await database.insert_owner("alice")
            resources = Resources()
            resources.prepare(Owners)
            async with executing(Size.SMALL, resources):
                ways = [
                    _way(bench, database, resources.injector, slots, with_message=with_message)
                    for with_message in (False, True)
                    for slots in SLOTS
                ]
                return await compare(ways, options)


def _way(bench: Bench, database: Any, injector: Injector, slots: int, *, with_message: bool) -> Way:
    from transaction_task import Owners, read

    async def ours(tasks: int) -> None:
        await bench.submit([Owners()] * tasks)
        await bench.drain(tasks, slots, injector=injector)
        await bench.ensure_drained()

    async def transaction(number: int) -> None:
        async with database:
            await read(database)

    async def bare(tasks: int) -> None:
        await in_lanes(slots, tasks, transaction)

    async def handle(message: Msg) -> None:
        await transaction(0)
        await message.ack()

    async def bare_with_message(tasks: int) -> None:
        await bench.submit([Owners()] * tasks)
        watch.start(anew=True)
        await bench.fetch(tasks, slots, handle)
        watch.stop()
        await bench.ensure_drained()

    if with_message:
        floor = f"  fetch, by hand, ack, {slots} at a time"
        return Way(f"transaction, {slots} slots, with its message", floor, ours, bare_with_message)
    return Way(f"transaction, {slots} slots", f"  by hand, {slots} at a time", ours, bare, BOUND)
