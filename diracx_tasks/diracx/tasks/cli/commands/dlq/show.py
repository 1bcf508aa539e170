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

from diracx.tasks.cli.commands.dlq.dead_letters import DeadLetters
from diracx.tasks.cli.options import MAX_SEQUENCE, Access, Number, json_option, log_option, server_options
from diracx.tasks.cli.terminal.output import print_document, print_text
from diracx.tasks.cli.terminal.printable import printable
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.times import readable_time

PIPE_WIDTH: Final = 80
MAX_WIDTH: Final = 120
"""Longer lines of prose are hard to read."""
INDENT: Final = " " * 11


@click.command("show")
@click.argument("seq", metavar="SEQ", type=Number(1, MAX_SEQUENCE), help="The sequence, as `dlq list` shows it.")
@json_option
@log_option("warning")
@server_options
def command(*, seq: int, as_json: bool, access: Access) -> None:
    """Show one dead letter: its arguments and labels, and each error with its traceback."""
    dead_letter = asyncio.run(_read(access, seq))
    if dead_letter is None:
        raise click.UsageError(f"there is no dead letter {seq}; see `diracx-task-run dlq list`")
    if as_json:
        print_document(dead_letter)
    else:
        width = min(Console().width, MAX_WIDTH) if sys.stdout.isatty() else PIPE_WIDTH
        print_text("\n".join(_lines(dead_letter, width)))


async def _read(access: Access, seq: int) -> DeadLetter | None:
    async with DeadLetters.open(access) as dead_letters:
        return await dead_letters.reader.get(seq)


def _lines(dead_letter: DeadLetter, width: int) -> Iterator[str]:
    fields = {
        "seq": str(dead_letter.seq),
        "task": dead_letter.task,
        "id": dead_letter.id,
        "submitted": _time(dead_letter.submitted),
        "died": _time(dead_letter.died),
        "attempts": None if dead_letter.attempts is None else str(dead_letter.attempts),
        "reason": dead_letter.reason,
        "labels": "\n".join(f"{name}={_label(value)}" for name, value in dead_letter.labels.items()),
        "args": None if dead_letter.args is None else json.dumps(dead_letter.args, indent=2, ensure_ascii=False),
    }
    for name, text in fields.items():
        first, *rest = _wrapped(text or "-", INDENT, width)
        yield f"{name:<{len(INDENT)}}{first.removeprefix(INDENT)}"
        yield from rest
    for number, failure in enumerate(dead_letter.errors, 1):
        yield ""
        yield f"error {number} of {len(dead_letter.errors)}, {_time(failure.at)}, {printable(failure.worker)}"
        yield from _failure(failure, width)


def _label(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _failure(failure: Failure, width: int) -> Iterator[str]:
    error, traceback = f"{failure.type}: {failure.message}".rstrip(), failure.traceback.rstrip()
    # A traceback ends with the error, unless it was cut to the limit.
    if not traceback.endswith(error):
        yield from _wrapped(error, "", width)
    # A line that is wider than the terminal is not broken, so that it can be copied.
    yield from printable(traceback).splitlines()


def _wrapped(text: str, indent: str, width: int) -> Iterator[str]:
    """Break a text between words only, so that a URL can be copied."""
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
    return "-" if moment is None else readable_time(moment, "milliseconds")
