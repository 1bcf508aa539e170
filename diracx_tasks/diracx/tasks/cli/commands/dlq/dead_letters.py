"""The dead letters of a namespace, and those that a command acts on: by sequence, all, or by task, reason and time."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import rich_click as click

from diracx.tasks.cli.access import namespace_of, operator_connection
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.interaction import progress, work_through
from diracx.tasks.cli.terminal.output import note
from diracx.tasks.cli.times import since_from
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.dead_letters.dead_tasks import DeadTask, dead_tasks
from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader, Selects, StreamSize
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import readable_time

Command = Callable[..., Any]

READS: Final = 2
"""How often the stream is read to walk through all dead letters."""

CLOCKS_APART: Final = timedelta(days=1)
"""The stream is read back so far beyond `--since`: `died` is the time of a worker, whose clock may be wrong."""


class DeadLetters:
    """The dead letters of one namespace. Use `open`."""

    def __init__(self, connection: Connection, namespace: Namespace, size: StreamSize | None) -> None:
        self.connection = connection
        self.namespace = namespace
        self.reader = DeadLetterReader(connection, namespace)
        self.size = size or StreamSize(0, 0, 1, 0)
        self.there_are_more = False
        """Whether there are more than those that `latest` gave."""

    @classmethod
    @asynccontextmanager
    async def open(cls, access: Access) -> AsyncIterator[DeadLetters]:
        """Connect. If the stream is missing, print a warning: there are no dead letters then."""
        namespace = namespace_of(access)
        async with operator_connection(access, "dlq") as connection:
            size = await DeadLetterReader(connection, namespace).size()
            if size is None:
                note(
                    f"warning: there is no stream {namespace.dead_letters_stream} on this server: neither a worker nor "
                    f"`diracx-task-run setup` has run in namespace {namespace.name}",
                )
            yield cls(connection, namespace, size)

    async def all(self, selects: Selects) -> AsyncIterator[DeadLetter]:
        """The selected dead letters, the oldest first, one at a time; those that arrive meanwhile are left out."""
        with progress("reading", READS * self.size.messages) as advance:
            async for letter in self.reader.letters(last=self.size.last, on_read=advance):
                if selects(letter):
                    yield letter

    async def latest(self, filter_: Filter, limit: int) -> AsyncIterator[DeadLetter]:
        """The latest of the dead letters that a filter lets through, the oldest first."""
        since = filter_.since
        if since is not None:
            since = None if since.year == 1 else since - CLOCKS_APART
        found = await self.reader.latest(limit + 1, filter_.selects, since=since)
        self.there_are_more = len(found) > limit
        for letter in found[-limit:]:
            yield letter

    async def work_through(
        self,
        doing: str,
        selects: Selects,
        work: Callable[[DeadTask], Awaitable[object]],
        *,
        last: int | None = None,
    ) -> None:
        """Do the work for each of the selected dead tasks, while they are read.

        Args:
            last: The sequence to end at; None: those that arrive meanwhile are left out.
        """
        last = self.size.last if last is None else last
        with progress(doing, READS * self.size.messages) as advance:
            chosen = dead_tasks(self.connection, self.namespace, selects, last=last, on_read=advance)
            await work_through(doing, chosen, work)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters a user means; a part that is None lets all of them through."""

    task: str | None = None
    reason: str | None = None
    """A part of the reason; upper and lower case are the same."""
    since: datetime | None = None

    def __bool__(self) -> bool:
        return (self.task, self.reason, self.since) != (None, None, None)

    def __str__(self) -> str:
        of_task = "" if self.task is None else f" of {self.task}"
        because = "" if self.reason is None else f" with the reason {self.reason!r}"
        since = "" if self.since is None else f" since {readable_time(self.since)}"
        return f"{of_task}{because}{since}"

    def selects(self, letter: DeadLetter) -> bool:
        """Whether the user means this one."""
        return (
            (self.task is None or letter.task == self.task)
            and (self.reason is None or self.reason.casefold() in letter.reason.casefold())
            and (self.since is None or letter.died >= self.since)
        )


class Selection:
    """The dead letters that a user names, in exactly one of three ways.

    Args:
        seqs: By their sequences.
        everything: All of them.
        filter_: Those that a filter lets through.
    """

    def __init__(self, seqs: tuple[int, ...], everything: bool, filter_: Filter) -> None:
        if sum(map(bool, (seqs, everything, filter_))) != 1:
            raise click.UsageError(
                "give either SEQ..., or --all, or one or more of --task NAME, --reason TEXT and --since TIME"
            )
        self.seqs = seqs
        self._filter = filter_
        self._missing = dict.fromkeys(seqs)

    def selects(self, letter: DeadLetter) -> bool:
        """Whether the user names this one, which is then not missing."""
        if not self.seqs:
            return self._filter.selects(letter)
        if letter.seq not in self.seqs:
            return False
        self._missing.pop(letter.seq, None)
        return True

    @property
    def missing(self) -> list[int]:
        """The named sequences that `selects` has not come across."""
        return list(self._missing)


def with_filter(command: Command) -> Command:
    """Make a filter of the options `--task`, `--reason` and `--since` of a command, which receives it as `filter_`."""

    @functools.wraps(command)
    def filtered(*, task: str | None, reason: str | None, since: str | None, **values: Any) -> Any:
        earliest = None if since is None else since_from(since, datetime.now(UTC))
        return command(filter_=Filter(task, reason, earliest), **values)

    return filtered


def with_selection(command: Command) -> Command:
    """Make a selection of `SEQ...`, `--all` and the options of a filter, which a command receives as `selection`."""

    @with_filter
    @functools.wraps(command)
    def selected(*, seq: tuple[int, ...], everything: bool, filter_: Filter, **values: Any) -> Any:
        return command(selection=Selection(tuple(dict.fromkeys(seq)), everything, filter_), **values)

    return selected
