"""`diracx-task-run dlq show`."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import rich_click as click
from rich.console import Console

from diracx.tasks.cli.commands.dlq.reading import Letters
from diracx.tasks.cli.options import Access, Number, json_option, log_option, server_options
from diracx.tasks.cli.terminal.output import print_document, printable
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.wire.failure import Failure

_WIDTH: Final = 80
_WIDEST: Final = 120
"""Prose is not broken later on a terminal that is wider."""
_INDENT: Final = " " * 11


@click.command("show")
@click.argument("seq", metavar="SEQ", type=Number(1), help="As `dlq list` has it.")
@json_option
@log_option("warning")
@server_options
def command(*, seq: int, as_json: bool, access: Access) -> None:
    """Show one dead letter: its arguments and labels, and each error with its traceback."""
    letter = asyncio.run(_letter(access, seq))
    if letter is None:
        raise click.UsageError(f"there is no dead letter {seq}; see `diracx-task-run dlq list`")
    if as_json:
        print_document(letter)
    else:
        width = min(Console().width, _WIDEST) if sys.stdout.isatty() else _WIDTH
        print("\n".join(_lines(letter, width)))


async def _letter(access: Access, seq: int) -> DeadLetter | None:
    async with Letters.open(access) as letters:
        return await letters.get(seq)


def _lines(letter: DeadLetter, width: int) -> Iterator[str]:
    fields = {
        "seq": str(letter.seq),
        "task": letter.task,
        "id": letter.id,
        "submitted": _time(letter.submitted),
        "died": _time(letter.died),
        "attempts": None if letter.attempts is None else str(letter.attempts),
        "reason": letter.reason,
        "labels": "\n".join(f"{name}={value}" for name, value in letter.labels.items()),
        "args": None if letter.args is None else json.dumps(letter.args, indent=2, ensure_ascii=False),
    }
    for name, text in fields.items():
        first, *rest = _wrapped(text or "-", _INDENT, width)
        yield f"{name:<{len(_INDENT)}}{first.removeprefix(_INDENT)}"
        yield from rest
    for number, failure in enumerate(letter.errors, 1):
        yield ""
        yield f"error {number} of {len(letter.errors)}, {_time(failure.at)}, {printable(failure.worker)}"
        yield from _failure(failure, width)


def _failure(failure: Failure, width: int) -> Iterator[str]:
    error, story = f"{failure.type}: {failure.message}".rstrip(), failure.traceback.rstrip()
    # A traceback ends with the error, but for one that was cut.
    if not story.endswith(error):
        yield from _wrapped(error, "", width)
    # As Python wrote it: what is wider than the terminal stays one line, to be copied.
    yield from printable(story).splitlines()


def _wrapped(text: str, indent: str, width: int) -> Iterator[str]:
    """Broken between words only: a URL is to be copied, too."""
    for line in printable(text).splitlines() or [""]:
        inner = indent + line[: len(line) - len(line.lstrip())]
        yield from textwrap.wrap(
            line.strip(),
            width,
            initial_indent=inner,
            subsequent_indent=inner,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [indent]


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
