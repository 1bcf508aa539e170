"""`diracx-task-run locks release`."""

from __future__ import annotations

import asyncio

import rich_click as click

from diracx.tasks.cli.access import namespace_of, operator_connection
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.interaction import confirmed
from diracx.tasks.cli.terminal.output import note
from diracx.tasks.plumbing.operations.locks import HeldLock, LockReader
from diracx.tasks.plumbing.wire.times import readable_time


def command(*, key: str, yes: bool, access: Access) -> int:
    lock = asyncio.run(_held(access, key))
    if lock is None:
        raise click.UsageError(f"no lock {key} is held; see `diracx-task-run locks list`")
    # Not inside an event loop, which would swallow Ctrl-C.
    if not yes and not confirmed(_question(lock), "nothing was released"):
        note("nothing was released")
        return ExitCode.INTERRUPTED
    released = asyncio.run(_release(access, key))
    note(f"released {key}" if released else f"{key} was given back meanwhile")
    return ExitCode.DONE


async def _held(access: Access, key: str) -> HeldLock | None:
    async with operator_connection(access, "locks") as connection:
        reader = LockReader(connection, namespace_of(access))
        return await reader.one(key) if await reader.exists() else None


async def _release(access: Access, key: str) -> bool:
    async with operator_connection(access, "locks") as connection:
        return await LockReader(connection, namespace_of(access)).release(key)


def _question(lock: HeldLock) -> str:
    if not lock.holders:
        return f"Release {lock.key}, which nobody holds?"
    first = lock.holders[0]
    others = f" and {len(lock.holders) - 1} more" if len(lock.holders) > 1 else ""
    holder = f"{first.task} {first.id} on {first.worker} since {readable_time(first.since)}"
    return f"Release {lock.key}, held by {holder}{others}?"
