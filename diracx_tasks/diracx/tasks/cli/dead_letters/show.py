"""`diracx-task-run dlq show`."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import rich_click as click

from diracx.tasks.cli.dead_letters.reading import Letters
from diracx.tasks.cli.options import Access, json_option, log_option, server_options
from diracx.tasks.cli.output import print_document, printable
from diracx.tasks.plumbing.dead_letter import DeadLetter
from diracx.tasks.plumbing.wire.failure import Failure

_WIDTH: Final = 80
_INDENT: Final = " " * 11


@click.command("show")
@click.argument("seq", metavar="SEQ", type=click.IntRange(min=1), help="As `dlq list` has it.")
@json_option
@log_option("warning")
@server_options
def command(*, seq: int, as_json: bool, access: Access) -> None:
    """Show one dead letter: its arguments and labels, and each error with its traceback."""
    letter = asyncio.run(_letter(access, seq))
    if letter is None:
        raise click.BadParameter(f"there is no dead letter {seq}; see `dlq list`", param_hint="SEQ")
    if as_json:
        print_document(letter)
    else:
        print("\n".join(_lines(letter)))


async def _letter(access: Access, seq: int) -> DeadLetter | None:
    async with Letters.open(access) as letters:
        return await letters.get(seq)


def _lines(letter: DeadLetter) -> Iterator[str]:
    yield from _field("seq", str(letter.seq))
    yield from _field("task", letter.task)
    yield from _field("id", letter.id)
    yield from _field("submitted", _time(letter.submitted))
    yield from _field("died", _time(letter.died))
    yield from _field("attempts", None if letter.attempts is None else str(letter.attempts))
    yield from _field("reason", letter.reason)
    yield from _field("labels", "\n".join(f"{name}={value}" for name, value in letter.labels.items()))
    yield from _field("args", None if letter.args is None else json.dumps(letter.args, indent=2, ensure_ascii=False))
    for number, failure in enumerate(letter.errors, 1):
        yield ""
        yield f"error {number} of {len(letter.errors)}, {_time(failure.at)}, {printable(failure.worker)}"
        yield from _failure(failure)


def _failure(failure: Failure) -> Iterator[str]:
    yield from _wrapped(f"{failure.type}: {failure.message}", "")
    # As Python wrote it: what is wider than the terminal stays one line, to be copied.
    yield from printable(failure.traceback.rstrip()).splitlines()


def _field(name: str, text: str | None) -> Iterator[str]:
    lines = list(_wrapped(text or "-", _INDENT))
    yield f"{name:<{len(_INDENT)}}{lines[0].removeprefix(_INDENT)}"
    yield from lines[1:]


def _wrapped(text: str, indent: str) -> Iterator[str]:
    for line in printable(text).splitlines() or [""]:
        inner = indent + line[: len(line) - len(line.lstrip())]
        yield from textwrap.wrap(
            line.strip(), _WIDTH, initial_indent=inner, subsequent_indent=inner, break_on_hyphens=False
        ) or [indent]


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
