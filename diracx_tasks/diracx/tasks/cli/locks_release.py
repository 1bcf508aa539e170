"""`diracx-task-run locks release`."""

from __future__ import annotations

import asyncio
import sys

import rich_click as click

from diracx.tasks.cli.access import namespace_of, operator_connection
from diracx.tasks.cli.options import Access, log_option, server_options
from diracx.tasks.plumbing.lock_inspection import HeldLock, LockReader


@click.command("release")
@click.argument("key", metavar="KEY", help="As `locks list` shows it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@log_option("warning")
@server_options
def command(*, key: str, yes: bool, access: Access) -> None:
    """Take a lock away from whoever holds it.

    A holder that died needs none of this: its lock expires by itself. One that is alive goes on until its next
    renewal, up to a third of the lock's life, and meanwhile another may have taken the lock.
    """
    asyncio.run(_release(key, yes, access))


async def _release(key: str, yes: bool, access: Access) -> None:
    async with operator_connection(access, "locks") as connection:
        reader = LockReader(connection, namespace_of(access))
        lock = await reader.one(key) if await reader.exists() else None
        if lock is None:
            raise click.UsageError(f"no lock {key} is held; see `locks list`")
        if not yes and not await asyncio.to_thread(click.confirm, _question(lock), err=True):
            raise click.Abort
        if await reader.release(key):
            print(f"released {key}", file=sys.stderr)
        else:
            print(f"{key} was given back meanwhile", file=sys.stderr)


def _question(lock: HeldLock) -> str:
    if not lock.holders:
        return f"Release {lock.key}, which nobody holds?"
    first = lock.holders[0]
    others = f" and {len(lock.holders) - 1} more" if len(lock.holders) > 1 else ""
    since = first.since.isoformat(timespec="seconds")
    return f"Release {lock.key}, held by {first.task} {first.id} on {first.worker} since {since}{others}?"
