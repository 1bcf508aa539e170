"""`diracx-task-run locks release`."""

from __future__ import annotations

import asyncio
from typing import Final

import rich_click as click

from diracx.tasks.cli.access import namespace_of, operator_connection
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.interaction import confirmed
from diracx.tasks.cli.terminal.output import note
from diracx.tasks.cli.terminal.printable import one_line
from diracx.tasks.plumbing.exceptions import ServerError, shown
from diracx.tasks.plumbing.operations.locks import NOTICE_SECONDS, HeldLock, LockReader, Noticed, holders_notice
from diracx.tasks.plumbing.wire.times import readable_time

_UNTIL: Final = "its task runs on, beside the next owner, until it renews the lock (a third of its time to live)"


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
        if not await LockReader(connection, namespace).release(lock.key):
            note(f"{lock.key} was given back meanwhile")
            return ExitCode.DONE
        note(f"released {lock.key}")
        try:
            noticed = await holders_notice(connection, namespace, lock)
        except ServerError as error:
            note(f"warning: {_UNTIL}; whether it has noticed is not known: {error}")
            return ExitCode.DONE
    for each in noticed:
        note(told(each))
    return ExitCode.LOCKED if any(each.runs for each in noticed) else ExitCode.DONE


def told(noticed: Noticed) -> str:
    """What the operator reads of a holder."""
    named = one_line(f"{noticed.holder.task} {shown(noticed.holder.id)} on {noticed.holder.worker}")
    if not noticed.known:
        return f"{named}: it does not answer. If it lives, {_UNTIL}"
    if not noticed.runs:
        return f"{named}: it does not run any more"
    if noticed.cancelled:
        return f"warning: {named}: it was cancelled, and has not ended yet; it runs beside the next owner"
    return f"warning: {named}: it has not noticed within {NOTICE_SECONDS:g} s; {_UNTIL}"


def _question(lock: HeldLock) -> str:
    if not lock.holders:
        return f"Release {lock.key}, which nobody holds?"
    first = lock.holders[0]
    others = f" and {len(lock.holders) - 1} more" if len(lock.holders) > 1 else ""
    holder = f"{first.task} {first.id} on {first.worker} since {readable_time(first.since)}"
    goes_on = "" if lock.kind == "rate" else f" {_UNTIL[0].upper()}{_UNTIL[1:]}."
    return f"Release {lock.key}, held by {holder}{others}?{goes_on}"
