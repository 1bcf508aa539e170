"""Tasks with a transaction of a DiracX database, which is injected, beside the same statement by hand.

The database is SQLite in a file, with a table of one row. By hand is `async with database:` and the statement, as many
at a time as the worker has slots; the message of the task itself is not in it. `scripts/bench transaction` has an
environment of its own, with diracx-db.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from typing import Any, Final

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.execution.thread import executing
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.testing.databases import sqlite_database
from figures import Comparisons
from ways import Bench, Way, compare, in_lanes, on_a_server
from ways import add_options as add_options

SUMMARY: Final = "tasks with a transaction of DiracX's diracx-db on SQLite, beside the same statement by hand"
BOUND: Final = 1.25
SLOTS: Final = (10, 5)
"""SQLAlchemy keeps five connections open, and opens each further one anew."""


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
            return await compare([_way(bench, database, slots) for slots in SLOTS], options)


def _way(bench: Bench, database: Any, slots: int) -> Way:
    from transaction_task import Owners, read

    async def ours(tasks: int) -> None:
        await bench.submit([Owners()] * tasks)
        resources = Resources()
        resources.prepare(Owners)
        async with executing(Size.SMALL, resources):
            await bench.drain(tasks, slots, injector=resources.injector)
        await bench.ensure_drained()

    async def transaction(number: int) -> None:
        async with database:
            await read(database)

    async def bare(tasks: int) -> None:
        await in_lanes(slots, tasks, transaction)

    return Way(f"transaction, {slots} slots", f"  by hand, {slots} at a time", ours, bare, BOUND)
