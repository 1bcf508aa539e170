"""`diracx-task-run locks release`."""

from __future__ import annotations

import asyncio

import rich_click as click

from diracx.tasks.cli.access import namespace_of, operator_connection
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.interaction import confirmed
from diracx.tasks.cli.terminal.output import note
from diracx.tasks.cli.terminal.printable import one_line
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.operations.lock_release import UNTIL_NOTICED, of_holders, of_meanwhile, told
from diracx.tasks.plumbing.operations.locks import HeldLock, LockReader, OtherHolderError, holders_notice


def command(*, key: str, yes: bool, access: Access) -> int:
    lock = asyncio.run(_held(access, key))
    if lock is None:
        raise click.UsageError(f"no lock {key} is held; see `diracx-task-run locks list`")
    # Not inside an event loop, which would swallow Ctrl-C.
    if not yes and not confirmed(_question(lock), "nothing was released"):
        note("nothing was released")
        return ExitCode.INTERRUPTED
    return asyncio.run(_release(access, lock))


async def _held(access: Access, key: str) -> HeldLock | None:
    async with operator_connection(access, "locks") as connection:
        reader = LockReader(connection, namespace_of(access))
        return await reader.one(key) if await reader.exists() else None


async def _release(access: Access, lock: HeldLock) -> ExitCode:
    namespace = namespace_of(access)
    async with operator_connection(access, "locks") as connection:
        try:
            released = await LockReader(connection, namespace).release(lock)
        except OtherHolderError as error:
            note(f"nothing was released: {error}")
            return ExitCode.LOCKED
        if not released:
            note(f"{lock.key} was given back meanwhile")
            return ExitCode.DONE
        note(f"released {lock.key}")
        try:
            noticed = await holders_notice(connection, namespace, lock)
        except ServerError as error:
            note(f"warning: {UNTIL_NOTICED}; whether it has noticed is not known: {error}")
            return ExitCode.DONE
    for each in noticed:
        note(one_line(told(each)))
    return ExitCode.LOCKED if any(each.runs for each in noticed) else ExitCode.DONE


def _question(lock: HeldLock) -> str:
    return " ".join([of_holders(lock), *of_meanwhile(lock), f"Release {lock.key}?"])
