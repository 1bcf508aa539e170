"""Text that others chose, for terminals and logs: no character of it controls the terminal or hides what is written.

Everything that `str.isprintable` refuses is written as an escape: control characters (C0, DEL, C1) and with them all
escape sequences, marks that turn the direction of text, characters without width, unassigned ones and lone surrogates.
Each sink escapes what it is given: `output` and `interaction` on standard output and error, the formatters of the log.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.wire.failure import message_of

_SUSPECT: Final = re.compile(r"[^\x20-\x7e\n]")
_SUSPECT_IN_A_LINE: Final = re.compile(r"[^\x20-\x7e]")


def printable(text: str) -> str:
    """Escape what controls a terminal; only line breaks stay."""
    return text if text.isprintable() else _SUSPECT.sub(_escape, text)


def one_line(text: str) -> str:
    """Escape what controls a terminal, line breaks included."""
    return text if text.isprintable() else _SUSPECT_IN_A_LINE.sub(_escape, text)


def printable_json(value: Any, encoding: str | None = None, indent: int | None = None) -> str:
    r"""Encode a value as JSON in which only printable characters stand; the others are `\u` escapes.

    Args:
        value: What msgspec encodes; any other object becomes its text. Times become RFC 3339.
        encoding: That of the stream; None: it takes text. One other than UTF-8 and UTF-16 may lack a character, so it
            gets ASCII only.
        indent: The spaces of a level; None writes one line.
    """
    document = msgspec.json.encode(value, enc_hook=message_of)
    text = (document if indent is None else msgspec.json.format(document, indent=indent)).decode()
    everything = encoding is not None and not encoding.lower().startswith("utf")

    def escape(match: re.Match[str]) -> str:
        units = match[0].encode("utf-16-be")
        if match[0].isprintable() and not everything:
            return match[0]
        return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))

    # Outside of strings, JSON has ASCII only, so an escape always stands within a string.
    return text if text.isascii() and text.isprintable() else _SUSPECT.sub(escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return character if character.isprintable() else ascii(character)[1:-1]
