"""The dead letters of a namespace, and those that a command acts on: by sequence, all, or by task, reason and time."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import rich_click as click

from diracx.tasks.cli.access import missing_text, namespace_of, operator_connection
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.interaction import progress
from diracx.tasks.cli.terminal.output import note
from diracx.tasks.cli.times import since_from
from diracx.tasks.plumbing.dead_letters.bulk import READS
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader, OnRead, Selects, StreamSize
from diracx.tasks.plumbing.dead_letters.selection import Filter, Selection
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.names import Namespace

Command = Callable[..., Any]


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
                note(f"warning: {missing_text([f'stream {namespace.dead_letters_stream}'])}")
            yield cls(connection, namespace, size)

    @contextmanager
    def progress(self, doing: str) -> Iterator[OnRead]:
        """Show a bar while all dead letters are walked through."""
        with progress(doing, READS * self.size.messages) as advance:
            yield advance

    async def all(self, selects: Selects) -> AsyncIterator[DeadLetter]:
        """The selected dead letters, the oldest first, one at a time; those that arrive meanwhile are left out."""
        with self.progress("reading") as advance:
            async for letter in self.reader.letters(last=self.size.last, on_read=advance):
                if selects(letter):
                    yield letter

    async def latest(self, filter_: Filter, limit: int) -> AsyncIterator[DeadLetter]:
        """The latest of the dead letters that a filter lets through, the oldest first."""
        found = await self.reader.latest(limit + 1, filter_.selects, since=filter_.stored_since)
        self.there_are_more = len(found) > limit
        for letter in found[-limit:]:
            yield letter


def with_filter(command: Command) -> Command:
    """Make a filter of the options `--task`, `--reason` and `--since` of a command, which receives it as `filter_`."""

    @functools.wraps(command)
    def filtered(*, task: str | None, reason: str | None, since: str | None, **values: Any) -> Any:
        earliest = None if since is None else since_from(since, datetime.now(UTC))
        return command(filter_=Filter(task, reason, earliest), **values)

    return filtered


def chosen(seqs: tuple[int, ...], everything: bool, filter_: Filter) -> Selection:
    """Return the selection of the dead letters that a user names in one of three ways: `seqs`, all, or by a filter.

    Raises:
        click.UsageError: In none of the ways, or in more than one.
    """
    if sum(map(bool, (seqs, everything, filter_))) != 1:
        raise click.UsageError(
            "give either SEQ..., or --all, or one or more of --task NAME, --reason TEXT and --since TIME"
        )
    return Selection(seqs, filter_)


def with_selection(command: Command) -> Command:
    """Make a selection of `SEQ...`, `--all` and the options of a filter, which a command receives as `selection`."""

    @with_filter
    @functools.wraps(command)
    def selected(*, seq: tuple[int, ...], everything: bool, filter_: Filter, **values: Any) -> Any:
        return command(selection=chosen(seq, everything, filter_), **values)

    return selected
