"""The locks: who holds them, since when, until when, and which parked tasks wait for them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace
from starlette.datastructures import QueryParams

from diracx.tasks.dashboard.mesh import Mesh, Shared
from diracx.tasks.dashboard.pages import Page, View
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError
from diracx.tasks.plumbing.operations.locks import HeldLock, LockHolder, LockReader
from diracx.tasks.plumbing.operations.task_document import State
from diracx.tasks.plumbing.operations.task_search import FoundTask, Wanted

MAX_ROWS: Final = 300
MAX_HOLDERS: Final = 5
MAX_WAITING: Final = 5
"""So many of the tasks that wait for a lock are named."""
MAX_PARKED: Final = 500
"""So many parked tasks are asked for which locks they wait."""
WAITING_SECONDS: Final = 10.0
"""The parked tasks are read so often, since they stand among all others in their stream."""
KINDS: Final = {
    "mutex": "mutex",
    "rw": "readers and writer",
    "rate": "rate limiter",
    "conc": "concurrency limiter",
    "leader": "leadership of the schedulers",
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """The tasks that wait for locks."""

    by_key: Mapping[str, list[FoundTask]] = field(default_factory=dict)
    complete: bool = True
    """Whether all parked tasks were asked."""


class LockFacts:
    """Reads the locks of a mesh for all viewers."""

    def __init__(self, mesh: Mesh) -> None:
        self.reader = LockReader(mesh.connection, mesh.namespace)
        self._search = mesh.search
        self.held = Shared[list[HeldLock] | None](self._held)
        """None: there is no bucket."""
        self.waiting = Shared[Waiting](self._waiting, WAITING_SECONDS)

    async def _held(self) -> list[HeldLock] | None:
        return await self.reader.all() if await self.reader.exists() else None

    async def _waiting(self) -> Waiting:
        try:
            result = await self._search(Wanted(states=[State.PARKED], limit=MAX_PARKED))
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return Waiting()
            raise
        by_key = defaultdict[str, list[FoundTask]](list)
        for task in result.tasks:
            for key in task.locks:
                # Without its arguments, which may be large: the tasks are kept.
                by_key[key].append(replace(task, args=None, labels={}))
        return Waiting(by_key, not (result.limited or result.unread))

    def forget(self) -> None:
        """See `Facts`."""
        self.held.forget()
        self.waiting.forget()

    async def end(self) -> None:
        """See `Facts`."""
        await self.held.end()
        await self.waiting.end()


@dataclass(frozen=True, slots=True)
class Row:
    """One lock."""

    key: str
    kind: str
    is_task: bool
    """Whether its holders are tasks, and no scheduler."""
    holders: Sequence[LockHolder]
    more_holders: int
    expires_in: float | None
    waiting: Sequence[FoundTask]
    more_waiting: int


def row_of(lock: HeldLock, waiting: Waiting) -> Row:
    """One row of the list."""
    tasks = waiting.by_key.get(lock.key, [])
    return Row(
        key=lock.key,
        kind=KINDS.get(lock.kind, lock.kind),
        is_task=lock.kind != "leader",
        holders=lock.holders[:MAX_HOLDERS],
        more_holders=max(0, len(lock.holders) - MAX_HOLDERS),
        expires_in=lock.expires_in,
        waiting=tasks[:MAX_WAITING],
        more_waiting=max(0, len(tasks) - MAX_WAITING),
    )


async def view(mesh: Mesh, query: QueryParams) -> View:
    """What the page shows: the locks for which tasks wait come first."""
    facts, text = mesh.facts(LockFacts), query.get("key", "")
    held, waiting = await asyncio.gather(facts.held.get(), facts.waiting.get())
    chosen = [lock for lock in held or () if text in lock.key]
    chosen.sort(key=lambda lock: (-len(waiting.by_key.get(lock.key, ())), lock.key))
    return {
        "bucket": mesh.namespace.locks_bucket,
        "missing": held is None,
        "rows": [row_of(lock, waiting) for lock in chosen[:MAX_ROWS]],
        "found": len(chosen),
        "text": text,
        "complete": waiting.complete,
        "parked": MAX_PARKED,
    }


PAGE = Page(name="locks", path="/locks", title="Locks", parts=("list",), view=view, query=("key",))
