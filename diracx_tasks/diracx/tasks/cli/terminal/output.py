"""Text on standard output and error, and JSON documents. What fills a terminal with columns stands in `tables`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable

from diracx.tasks.cli.terminal.json_text import printable_json
from diracx.tasks.cli.terminal.printable import printable
from diracx.tasks.cli.terminal.streams import check_written


def say(text: str) -> None:
    """Print text on standard output, at once. Where it cannot be written, the command goes on."""
    print(printable(text), flush=True)


def note(text: str) -> None:
    """Print text on standard error: an error, a warning, or what else does not belong to the output."""
    print(printable(text), file=sys.stderr)


def print_document(value: object, indent: int | None = 2) -> None:
    """Print one JSON document; times become RFC 3339.

    Args:
        indent: The spaces of a level; None prints one line.

    Raises:
        OutputLostError: It could not be written.
    """
    print(printable_json(value, sys.stdout.encoding, indent))
    check_written()


def print_text(text: str) -> None:
    """Print text that is all that a command shows.

    Raises:
        OutputLostError: It could not be written.
    """
    say(text)
    check_written()


def print_file(text: str) -> None:
    """Print the text of a file: on a terminal like other text, elsewhere as the very UTF-8 that the file is to hold.

    Raises:
        OutputLostError: It could not be written.
    """
    if sys.stdout.isatty():
        say(text.removesuffix("\n"))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
    check_written()


async def print_array(values: AsyncIterable[object]) -> None:
    """Print a JSON document that is an array, while its values come: it is never held as a whole.

    Raises:
        OutputLostError: It could not be written; no more values are asked for then.
    """
    before = "[\n  "
    async for value in values:
        text = printable_json(value, sys.stdout.encoding, indent=2)
        sys.stdout.write(before + text.replace("\n", "\n  "))
        before = ",\n  "
        check_written()
    print("\n]" if before.startswith(",") else "[]")
    check_written()
