"""The release of a lock by an operator: who holds it, what goes on meanwhile, and when its holders have noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.operations.in_flight import tasks_in_flight
from diracx.tasks.plumbing.operations.locks import HeldLock
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import readable_time

NOTICE_SECONDS: Final = 30.0
"""How long holders are waited for. They renew at a third of the TTL of their lock, which is 30 s unless an author says
otherwise."""
MAX_NAMED: Final = 5
_ASK_SECONDS: Final = 0.5
_FORGOTTEN: Final = {"rate": "admissions in its window", "conc": "holders"}
"""What the release of a limiter forgets, by its kind."""


def of_holders(lock: HeldLock) -> str:
    """Who holds a lock, in a sentence."""
    if not lock.holders:
        return "Nobody holds it: what is left is the mark of a task that waited for it, or cannot be read."
    named = [
        f"{shown(each.task)} {shown(each.id)} on {shown(each.worker)} since {readable_time(each.since)}"
        for each in lock.holders[:MAX_NAMED]
    ]
    if more := len(lock.holders) - len(named):
        named.append(f"{more} more")
    return f"Held by {', '.join(named)}."


def of_meanwhile(lock: HeldLock) -> list[str]:
    """What goes on after the release of a lock, in sentences."""
    if lock.kind == "leader":
        return ["It is the leadership of the schedulers: one of them takes it. No occurrence is lost or comes twice."]
    if lock.kind in _FORGOTTEN:
        return [f"It is a limiter: its {_FORGOTTEN[lock.kind]} are forgotten, so more tasks than its limit may run."]
    if not lock.holders:
        return []
    expires = "" if lock.expires_in is None else f", in {lock.expires_in:.0f} s"
    return [
        "A holder notices at its next renewal, within a third of the TTL of the lock (10 s of 30 s).",
        "Its task is then cancelled and given back, and runs again once it gets the lock.",
        "Until then it runs at the same time as the next holder.",
        f"The lock of a holder that is gone needs no release: it expires by itself{expires}.",
    ]


def is_waited_for(lock: HeldLock) -> bool:
    """Whether its holders run on until they notice. Those of a limiter do not renew what they hold of it for others."""
    return bool(lock.holders) and lock.kind != "leader" and lock.kind not in _FORGOTTEN


async def holders_that_run(
    connection: Connection,
    namespace: Namespace,
    ids: Sequence[str],
    released: datetime,
    seconds: float = NOTICE_SECONDS,
) -> list[str]:
    """Wait until the holders of a released lock do not run any more.

    Args:
        ids: The ids of their tasks.
        released: When the lock was released. A task that a worker took later is a new execution.
        seconds: How long to wait for them.

    Returns:
        `<id> on <worker>` of those that still run at the end.

    Raises:
        PermissionDeniedError: This user may not ask the workers.
        ServerUnavailableError: No answer.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while True:
        workers = await tasks_in_flight(connection, namespace, ids=ids)
        running = [f"{task.id} on {each.worker}" for each in workers for task in each.tasks if task.since <= released]
        if not running or clock() >= deadline:
            return running
        await asyncio.sleep(_ASK_SECONDS)
