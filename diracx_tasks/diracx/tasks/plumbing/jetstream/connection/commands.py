"""The commands with which a client publishes, PUB and HPUB, and the block of headers within the latter.

nats-py builds a block a header at a time, in a bytearray, and measures it a second time to keep to the limit of the
server. Here one is built at once. What is sent is the same:

* a name is a token (RFC 9110, 5.6.2), without the white space around it; an empty one is left out;
* a value is sent without the white space around it, and each line break in it as a space. So no value can end its line,
  nor bring a command of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from nats.errors import BadHeaderError, BadSubjectError

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ENDS_A_SUBJECT: Final = re.compile(r"[ \t\r\n]")
_LINE_BREAKS: Final = str.maketrans({"\r": " ", "\n": " "})

_MAX_KNOWN_NAMES: Final = 1_000
_known_names: Final[set[str]] = set()
"""Names of headers that are known to be tokens."""


def header_block(headers: Mapping[str, str]) -> bytes:
    """The headers as they are sent, from the version to the empty line.

    Raises:
        BadHeaderError: A name is no token.
        UnicodeEncodeError: A value has a lone surrogate.
    """
    text = "".join([f"{name}: {value.strip()}\r\n" for name, value in headers.items()])
    lines = len(headers)
    if not _known_names.issuperset(headers) or text.count("\n") != lines or text.count("\r") != lines:
        text = "".join([_line(name.strip(), value) for name, value in headers.items() if name.strip()])
    return f"NATS/1.0\r\n{text}\r\n".encode()


def _line(name: str, value: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise BadHeaderError(name)
    if len(_known_names) < _MAX_KNOWN_NAMES:
        _known_names.add(name)
    return f"{name}: {value.strip().translate(_LINE_BREAKS)}\r\n"


def publish_command(subject: str, reply: str, block: bytes, payload: bytes) -> bytes:
    """The command that publishes a message.

    Args:
        reply: Empty: nobody is asked to reply.
        block: The headers, see `header_block`; empty: the message has none.

    Raises:
        BadSubjectError: The subject is empty, or it or the reply contains white space.
    """
    if not subject or _ENDS_A_SUBJECT.search(subject) or _ENDS_A_SUBJECT.search(reply):
        raise BadSubjectError
    if not block:
        return b"%b%b\r\n" % (f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload)
    line = f"HPUB {subject} {reply} {len(block)} {len(block) + len(payload)}\r\n"
    return b"%b%b%b\r\n" % (line.encode(), block, payload)
