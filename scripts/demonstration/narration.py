"""The output of the demo: with colours and a progress bar on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

WIDTH = 96
QUARTERS = 4
INDENT = "   "


@dataclass
class Narration:
    """Shows the demo step by step."""

    console: Console = field(default_factory=lambda: Console(highlight=False))
    _step: int = 0

    def __post_init__(self) -> None:
        self.console.width = min(self.console.width, WIDTH) if self.console.is_terminal else WIDTH

    def title(self, text: str) -> None:
        """Show the headline."""
        self.console.print(Text(text, "bold"))

    def step(self, text: str) -> None:
        """Show what happens next, numbered."""
        self._step += 1
        first, *more = textwrap.wrap(text, self.console.width - len(INDENT))
        self.console.print()
        self.console.print(Text.assemble((f"{self._step}. ", "bold cyan"), first))
        self.lines("\n".join(more))

    def command(self, line: str) -> None:
        """Show a command that is about to run."""
        self.console.print(Text.assemble(INDENT, ("$ ", "cyan"), (line, "bold")), soft_wrap=True)

    def lines(self, text: str) -> None:
        """Show the output of a command."""
        for line in text.splitlines():
            self.console.print(Text(f"{INDENT}{line}"), soft_wrap=True)

    @contextmanager
    def progress(self, total: int) -> Iterator[Progressing]:
        """Show the progress as a bar, or as a line for each quarter."""
        if not self.console.is_terminal:
            yield Progressing(total, self)
            return
        columns = (TextColumn(" "), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as bar:
            yield Progressing(total, self, bar)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Show a table: words on the left, numbers on the right. The first row is the heading."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for number, row in enumerate(rows):
            cells = [
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.console.print(Text(f"{INDENT}{'  '.join(cells)}", "" if number else "bold"), soft_wrap=True)

    def result(self, text: str, *, good: bool) -> None:
        """Show the verdict."""
        self.console.print()
        self.console.print(Text(text, "bold green" if good else "bold red"))

    def next_steps(self, steps: Mapping[str, Sequence[str]]) -> None:
        """Show commands to try, each under what it does."""
        self.console.print()
        self.console.print(Text("What to try next, from this folder:", "bold"))
        for meaning, commands in steps.items():
            self.console.print()
            self.console.print(Text(f"{INDENT}# {meaning}", "dim"), soft_wrap=True)
            for command in commands:
                self.console.print(Text(f"{INDENT}{command}"), soft_wrap=True)


@dataclass
class Progressing:
    """The progress of one step."""

    total: int
    _narration: Narration
    _bar: Progress | None = None
    _shown: int = 0

    def __post_init__(self) -> None:
        if self._bar is not None:
            self._bar.add_task("", total=self.total)

    def show(self, done: int) -> None:
        """Show how many are done."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        elif (quarter := QUARTERS * done // self.total) > self._shown:
            self._shown = quarter
            self._narration.lines(f"{done:,} of {self.total:,}")
