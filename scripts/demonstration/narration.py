"""What the demo says. On a terminal with colours and a progress bar; elsewhere the same as plain lines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

_WIDTH = 96
_QUARTERS = 4
_INDENT = "   "


@dataclass
class Narration:
    """Tells the demo, step by step."""

    console: Console = field(default_factory=lambda: Console(highlight=False))
    _step: int = 0

    def __post_init__(self) -> None:
        self.console.width = min(self.console.width, _WIDTH) if self.console.is_terminal else _WIDTH

    def title(self, text: str) -> None:
        """The headline."""
        self.console.print(Text(text, "bold"))

    def step(self, text: str) -> None:
        """One step of the story, in words."""
        self._step += 1
        first, *more = textwrap.wrap(text, self.console.width - len(_INDENT))
        self.console.print()
        self.console.print(Text.assemble((f"{self._step}. ", "bold cyan"), first))
        self.lines("\n".join(more))

    def command(self, line: str) -> None:
        """A command that is run now."""
        self.console.print(Text.assemble(_INDENT, ("$ ", "cyan"), (line, "bold")), soft_wrap=True)

    def lines(self, text: str) -> None:
        """What a command wrote."""
        for line in text.splitlines():
            self.console.print(Text(f"{_INDENT}{line}"), soft_wrap=True)

    @contextmanager
    def progress(self, total: int) -> Iterator[Progressing]:
        """A bar, or a line for each quarter."""
        if not self.console.is_terminal:
            yield Progressing(total, self)
            return
        columns = (TextColumn(" "), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as bar:
            yield Progressing(total, self, bar)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Words on the left, numbers on the right; the first row is the heading."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for number, row in enumerate(rows):
            cells = [
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.console.print(Text(f"{_INDENT}{'  '.join(cells)}", "" if number else "bold"), soft_wrap=True)

    def result(self, text: str, *, good: bool) -> None:
        """How it ended."""
        self.console.print()
        self.console.print(Text(text, "bold green" if good else "bold red"))

    def next_steps(self, steps: Mapping[str, Sequence[str]]) -> None:
        """Commands to type, under what they do."""
        self.console.print()
        self.console.print(Text("What to try next, from this folder:", "bold"))
        for meaning, commands in steps.items():
            self.console.print()
            self.console.print(Text(f"{_INDENT}# {meaning}", "dim"), soft_wrap=True)
            for command in commands:
                self.console.print(Text(f"{_INDENT}{command}"), soft_wrap=True)


@dataclass
class Progressing:
    """How far it is."""

    total: int
    _narration: Narration
    _bar: Progress | None = None
    _told: int = 0

    def __post_init__(self) -> None:
        if self._bar is not None:
            self._bar.add_task("", total=self.total)

    def show(self, done: int) -> None:
        """So many are done."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        elif (quarter := _QUARTERS * done // self.total) > self._told:
            self._told = quarter
            self._narration.lines(f"{done:,} of {self.total:,}")
