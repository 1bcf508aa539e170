"""The dead letters of a namespace, and the selection that a command acts on: by sequence, by task, or all."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import rich_click as click

from diracx.tasks.cli.access import namespace_of, operator_connection
from diracx.tasks.cli.installed import complete_tasks
from diracx.tasks.cli.options import Access, Number
from diracx.tasks.cli.terminal.interaction import progress
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader, DeadTask
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.names import Namespace

Command = Callable[..., Any]

task_option = click.option(
    "--task",
    metavar="NAME",
    help="The dead letters of this task, <category>:<ClassName>.",
    shell_complete=complete_tasks,
)


class DeadLetters:
    """The dead letters of one namespace. Use `open`."""

    def __init__(self, connection: Connection, namespace: Namespace, size: int | None) -> None:
        self.connection = connection
        self.namespace = namespace
        self._size = size
        self._reader = DeadLetterReader(connection, namespace)

    @classmethod
    @asynccontextmanager
    async def open(cls, access: Access) -> AsyncIterator[DeadLetters]:
        """Connect. If the stream is missing, print a warning: there are no dead letters then."""
        namespace = namespace_of(access)
        async with operator_connection(access, "dlq") as connection:
            size = await DeadLetterReader(connection, namespace).size()
            if size is None:
                print(
                    f"warning: there is no stream {namespace.dead_letters_stream} on this server: neither a worker nor "
                    f"`diracx-task-run setup` has run in namespace {namespace.name}",
                    file=sys.stderr,
                )
            yield cls(connection, namespace, size)

    async def all(self) -> list[DeadLetter]:
        """Return all dead letters, the oldest first."""
        with progress("reading", self._size or 0) as advance:
            return await self._reader.all(advance)

    async def dead_tasks(self) -> list[DeadTask]:
        """Return the places of all dead letters in the streams, the oldest first."""
        with progress("reading", self._size or 0) as advance:
            return await self._reader.dead_tasks(advance)

    async def get(self, seq: int) -> DeadLetter | None:
        """Return the dead letter with this sequence, or None."""
        return await self._reader.get(seq)


@dataclass(frozen=True, slots=True)
class Selection:
    """The dead letters that a user names, in exactly one of three ways."""

    seqs: tuple[int, ...]
    task: str | None
    everything: bool

    def __post_init__(self) -> None:
        if sum(map(bool, (self.seqs, self.task is not None, self.everything))) != 1:
            raise click.UsageError("give either SEQ..., or --task NAME, or --all")

    def of(self, dead_tasks: Sequence[DeadTask]) -> list[DeadTask]:
        """Return the selected ones."""
        return [each for each in dead_tasks if self._selects(each)]

    def _selects(self, dead_task: DeadTask) -> bool:
        if self.task is not None:
            return dead_task.task == self.task
        return self.everything or dead_task.seq in self.seqs

    def missing(self, dead_tasks: Sequence[DeadTask]) -> list[int]:
        """Return the named sequences that do not exist."""
        found = {each.seq for each in dead_tasks}
        return [seq for seq in self.seqs if seq not in found]


def selection_options(command: Command) -> Command:
    """Add the options of a selection to a command, which receives them as `selection`."""

    @functools.wraps(command)
    def with_selection(*, seq: tuple[int, ...], task: str | None, everything: bool, **values: Any) -> Any:
        return command(selection=Selection(tuple(dict.fromkeys(seq)), task, everything), **values)

    decorated: Command = with_selection
    for option in (
        click.option("--all", "everything", is_flag=True, help="All dead letters."),
        task_option,
        click.argument(
            "seq", metavar="[SEQ]...", type=Number(1), nargs=-1, help="One or more sequences, as `dlq list` shows them."
        ),
    ):
        decorated = option(decorated)
    return decorated
