"""How many dead letters there are of each task and of each type of error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import datetime

import msgspec

from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter


class Group(msgspec.Struct, kw_only=True):
    """Dead letters that have something in common. These fields, in this order, are those of `--group-by --json`."""

    task: str | None
    """None if they are not grouped by task, or if it is not known."""
    error: str | None
    """The type of the last error, or the kind of death if there is no error; None if they are not grouped by it."""
    count: int
    first: datetime
    """When the first of them died."""
    last: datetime
    seq: int
    """The latest of them, as an example."""
    id: str | None


async def grouped(letters: AsyncIterator[DeadLetter], by: Collection[str]) -> list[Group]:
    """The groups, the largest first.

    Args:
        letters: The oldest first.
        by: `task`, `error`, or both.
    """
    groups: dict[tuple[str | None, str | None], Group] = {}
    async for letter in letters:
        task = letter.task if "task" in by else None
        error = letter.error_type if "error" in by else None
        group = groups.get((task, error))
        if group is None:
            group = groups[task, error] = Group(
                task=task, error=error, count=0, first=letter.died, last=letter.died, seq=letter.seq, id=letter.id
            )
        group.count += 1
        group.first, group.last = min(group.first, letter.died), max(group.last, letter.died)
        group.seq, group.id = letter.seq, letter.id
    return sorted(groups.values(), key=lambda group: -group.count)
