"""JSON for terminals, files and logs: all that stands in it is printable.

Apart from `printable`, since a help page or a completed word needs no JSON: its encoder is a tenth of their start.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from diracx.tasks.cli.terminal.printable import SUSPECT
from diracx.tasks.plumbing.wire.failure import message_of


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
    return text if text.isascii() and text.isprintable() else SUSPECT.sub(escape, text)
