"""`diracx-task-run locks list`."""

from __future__ import annotations

import asyncio

from diracx.tasks.cli.access import missing_text, namespace_of, operator_connection
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, print_document
from diracx.tasks.cli.terminal.tables import print_table
from diracx.tasks.plumbing.operations.locks import HeldLock, LockReader


def command(*, as_json: bool, access: Access) -> None:
    locks = asyncio.run(_locks(access))
    if as_json:
        print_document(locks)
    elif locks:
        columns = ["key", "expires in", "task", "id", "worker", "since"]
        print_table(columns, [row for lock in locks for row in _rows(lock)])
    else:
        note("no locks are held")


async def _locks(access: Access) -> list[HeldLock]:
    namespace = namespace_of(access)
    async with operator_connection(access, "locks") as connection:
        reader = LockReader(connection, namespace)
        if not await reader.exists():
            note(f"warning: {missing_text([f'bucket {namespace.locks_bucket}'])}")
            return []
        return await reader.all()


def _rows(lock: HeldLock) -> list[list[object]]:
    """Return one row for each holder."""
    expires = None if lock.expires_in is None else f"{lock.expires_in:.0f} s"
    if not lock.holders:
        return [[lock.key, expires, None, None, None, None]]
    return [[lock.key, expires, each.task, each.id, each.worker, each.since] for each in lock.holders]
