"""`diracx-task-run dlq list`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

import msgspec

from diracx.tasks.cli.commands.dlq.dead_letters import DeadLetters, Filter, with_filter
from diracx.tasks.cli.declared.dead_letters import LATEST
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, print_array, print_document
from diracx.tasks.cli.terminal.tables import Prose, print_table
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.exceptions import shown

_KIND: Final = re.compile(r":| on | after ")
"""What ends the kind of death in a reason, as `malformed: ...`, `given up on normal-small after 3 deliveries`."""


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


@with_filter
def command(
    *, limit: int | None, group_by: tuple[str, ...] | None, filter_: Filter, as_json: bool, access: Access
) -> None:
    if limit is None:
        limit = 0 if as_json or group_by else LATEST
    asyncio.run(_list(access, filter_, limit, group_by, as_json))


async def _list(access: Access, filter_: Filter, limit: int, group_by: tuple[str, ...] | None, as_json: bool) -> None:
    async with DeadLetters.open(access) as dead_letters:
        letters = dead_letters.latest(filter_, limit) if limit else dead_letters.all(filter_.selects)
        if group_by is not None:
            _print_groups(await _groups(letters, group_by), group_by, filter_, as_json)
        elif as_json:
            await print_array(letters)
        elif rows := [_row(each) async for each in letters]:
            print_table(["seq", "died", "task", "id", "attempts", Prose("reason")], rows)
            if dead_letters.there_are_more:
                _say_how_many(dead_letters.size.dead_letters, filter_, limit)
        else:
            note(f"no dead letters{filter_}")


def _say_how_many(total: int, filter_: Filter, limit: int) -> None:
    """Say that these are not all. `total` leaves out those that no worker has stored."""
    of_all = f" of {total:,}" if total > limit and not filter_ else ""
    note(f"the latest {limit}{of_all}{filter_}; --limit 0 shows all, --group-by task,error counts")


def _row(letter: DeadLetter) -> list[object]:
    return [letter.seq, letter.died, _shown(letter.task), _shown(letter.id), letter.attempts, letter.reason]


def _shown(text: str | None) -> str | None:
    return None if text is None else shown(text)


def _print_groups(groups: list[Group], group_by: tuple[str, ...], filter_: Filter, as_json: bool) -> None:
    if as_json:
        return print_document(groups)
    if not groups:
        return note(f"no dead letters{filter_}")
    rows = [
        [each.count, *(_shown(getattr(each, name)) for name in group_by), each.first, each.last, each.seq]
        for each in groups
    ]
    return print_table(["count", *group_by, "first", "last", "example"], rows)


async def _groups(letters: AsyncIterator[DeadLetter], group_by: tuple[str, ...]) -> list[Group]:
    """The groups, the largest first."""
    groups: dict[tuple[str | None, str | None], Group] = {}
    async for letter in letters:
        task = letter.task if "task" in group_by else None
        error = _error(letter) if "error" in group_by else None
        group = groups.get((task, error))
        if group is None:
            group = groups[task, error] = Group(
                task=task, error=error, count=0, first=letter.died, last=letter.died, seq=letter.seq, id=letter.id
            )
        group.count += 1
        group.first, group.last = min(group.first, letter.died), max(group.last, letter.died)
        group.seq, group.id = letter.seq, letter.id
    return sorted(groups.values(), key=lambda group: -group.count)


def _error(letter: DeadLetter) -> str:
    return letter.errors[-1].type if letter.errors else _KIND.split(letter.reason, 1)[0]
