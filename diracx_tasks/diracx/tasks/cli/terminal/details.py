"""One thing in full: its fields by name, one below the other, and its errors with their tracebacks."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Console

from diracx.tasks.cli.terminal.output import print_text
from diracx.tasks.cli.terminal.printable import printable
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.times import readable_time

PIPE_WIDTH: Final = 80
MAX_WIDTH: Final = 120
"""Longer lines of prose are hard to read."""
INDENT: Final = " " * 11


def print_details(fields: Mapping[str, str | None], errors: Sequence[Failure]) -> None:
    """Print the fields, then the errors. A field that is None is shown as a dash.

    Raises:
        OutputLostError: It could not be written.
    """
    width = min(Console().width, MAX_WIDTH) if sys.stdout.isatty() else PIPE_WIDTH
    print_text("\n".join(_lines(fields, errors, width)))


def labels_text(labels: Mapping[str, Any]) -> str:
    """One label a line."""
    return "\n".join(f"{name}={_label(value)}" for name, value in labels.items())


def json_text(value: object) -> str | None:
    """A value as JSON over several lines; None if there is none."""
    return None if value is None else json.dumps(value, indent=2, ensure_ascii=False)


def time_text(moment: datetime | None) -> str | None:
    """A time to the millisecond; None if there is none."""
    return None if moment is None else readable_time(moment, "milliseconds")


def _lines(fields: Mapping[str, str | None], errors: Sequence[Failure], width: int) -> Iterator[str]:
    for name, text in fields.items():
        first, *rest = _wrapped(text or "-", INDENT, width)
        yield f"{name:<{len(INDENT)}}{first.removeprefix(INDENT)}"
        yield from rest
    for number, failure in enumerate(errors, 1):
        yield ""
        yield f"error {number} of {len(errors)}, {time_text(failure.at)}, {printable(failure.worker)}"
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
