"""Questions and progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich_click as click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from diracx.tasks.cli.terminal.printable import printable


def confirmed(question: str, undone: str) -> bool:
    """Ask a yes-or-no question.

    Args:
        undone: The words for the error that nothing was done, e.g. "nothing was purged".

    Raises:
        click.UsageError: Standard input ends without an answer.
        click.Abort: The user pressed Ctrl-C.
    """
    try:
        return click.confirm(printable(question), err=True)
    except click.Abort:
        # The cursor is still behind the question.
        print(file=sys.stderr)
        if sys.stdin.isatty():
            raise
        raise click.UsageError(f"standard input gives no answer, and {undone}; use --yes") from None


@contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar within the block; the function that it yields advances the bar by one.

    Where standard error is no terminal, there is no bar.
    """
    console = Console(stderr=True)
    # Standard output has the list: rich would break its lines to the width of the terminal.
    with Progress(console=console, disable=not console.is_terminal, transient=True, redirect_stdout=False) as bar:
        line = bar.add_task(doing, total=total)
        yield lambda: bar.advance(line)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show that something is waited for, and for how long, within the block.

    Where standard error is no terminal, nothing is shown.
    """
    console = Console(stderr=True)
    columns = (SpinnerColumn("line"), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True, redirect_stdout=False
    ) as bar:
        bar.add_task(printable(text), total=None)
        yield
