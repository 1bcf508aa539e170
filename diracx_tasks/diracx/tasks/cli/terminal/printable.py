"""Text that others chose, for terminals and logs: no character of it controls the terminal or hides what is written.

Everything that `str.isprintable` refuses is written as an escape: control characters (C0, DEL, C1) and with them all
escape sequences, marks that turn the direction of text, characters without width, unassigned ones and lone surrogates.
Each sink escapes what it is given: `output` and `interaction` on standard output and error, the formatters of the log.
"""

from __future__ import annotations

import re
from typing import Final

SUSPECT: Final = re.compile(r"[^\x20-\x7e\n]")
"""Finds the characters that may have to be escaped."""
_SUSPECT_IN_A_LINE: Final = re.compile(r"[^\x20-\x7e]")


def printable(text: str) -> str:
    """Escape what controls a terminal; only line breaks stay."""
    return text if text.isprintable() else SUSPECT.sub(_escape, text)


def one_line(text: str) -> str:
    """Escape what controls a terminal, line breaks included."""
    return text if text.isprintable() else _SUSPECT_IN_A_LINE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return character if character.isprintable() else ascii(character)[1:-1]
