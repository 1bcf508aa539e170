"""`diracx-task-run dlq list`."""

from __future__ import annotations

import asyncio

from diracx.tasks.cli.commands.dlq.dead_letters import DeadLetters, with_filter
from diracx.tasks.cli.declared.dead_letters import LATEST
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, print_array, print_document
from diracx.tasks.cli.terminal.tables import Prose, print_table
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.dead_letters.grouping import Group, grouped
from diracx.tasks.plumbing.dead_letters.selection import Filter
from diracx.tasks.plumbing.exceptions import shown


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
            _print_groups(await grouped(letters, group_by), group_by, filter_, as_json)
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
