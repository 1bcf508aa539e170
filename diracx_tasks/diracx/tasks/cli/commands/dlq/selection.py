"""Which dead letters a command is about: by sequence, by task, or all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import rich_click as click

from diracx.tasks.cli.installed import complete_tasks
from diracx.tasks.cli.options import Number
from diracx.tasks.plumbing.dead_letters.reader import DeadTask

Command = Callable[..., Any]

task_option = click.option(
    "--task", metavar="NAME", help="Those of this task, <category>:<ClassName>.", shell_complete=complete_tasks
)


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for; exactly one of the three."""

    seqs: tuple[int, ...]
    task: str | None
    everything: bool

    def __post_init__(self) -> None:
        if sum(map(bool, (self.seqs, self.task is not None, self.everything))) != 1:
            raise click.UsageError("say which: either SEQ..., or --task NAME, or --all")

    def of(self, remains: Sequence[DeadTask]) -> list[DeadTask]:
        """Those that it means."""
        return [each for each in remains if self._means(each)]

    def _means(self, remains: DeadTask) -> bool:
        return self.everything or remains.seq in self.seqs or (self.task is not None and remains.task == self.task)

    def missing(self, remains: Sequence[DeadTask]) -> list[int]:
        """The sequences that were named and are not there."""
        there = {each.seq for each in remains}
        return [seq for seq in self.seqs if seq not in there]


def selection_options(command: Command) -> Command:
    """Give a command the argument `selection`."""

    @functools.wraps(command)
    def with_selection(*, seq: tuple[int, ...], task: str | None, everything: bool, **values: Any) -> Any:
        return command(selection=Selection(tuple(dict.fromkeys(seq)), task, everything), **values)

    decorated: Command = with_selection
    for option in (
        click.option("--all", "everything", is_flag=True, help="All of them."),
        task_option,
        click.argument("seq", metavar="[SEQ]...", type=Number(1), nargs=-1, help="As `dlq list` has it; one or more."),
    ):
        decorated = option(decorated)
    return decorated
