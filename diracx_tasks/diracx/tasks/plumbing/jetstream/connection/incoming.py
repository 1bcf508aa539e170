"""What a connection reads: a whole read of the socket at once.

nats-py's parser takes a message at a time: it tries up to seven regular expressions on a buffer that it shifts each
time, and awaits a coroutine. Here the messages to listeners (`PersistentClient.listen`) are cut out of the bytes that
were read, and each is passed to its listener on the spot. Anything else (`PING`, `INFO`, errors, messages to ordinary
subscriptions, what does not look as the server writes it) is left to nats-py's parser, with all that follows it in the
same read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from diracx.tasks.plumbing.jetstream.headers import DESCRIPTION, STATUS

Listener = Callable[["Received"], object]
"""Called with each message where it is read; it must not block."""

_MAX_KEPT_BYTES: Final = 131_072
"""A message that is not complete is joined with the next read up to this size; nats-py gathers a larger one."""
_LONGEST_LINE: Final = 4_096
_CRLF: Final = b"\r\n"
_VERSION: Final = b"NATS/1.0"
_VERSION_LENGTH: Final = len(_VERSION)
_STATUS_LENGTH: Final = 3
_STATUS_FOLLOWS: Final = ord(" ")
"""This character after the version announces a status, as in `NATS/1.0 503`."""

_MAX_KNOWN_NAMES: Final = 1_000
_known_names: Final[set[str]] = set()
"""Names of headers that are known to be valid."""


def parse_header_lines(raw: bytes) -> dict[str, str]:
    """The headers in lines of `name: value`. A later one of the same name counts; what is no header is left out."""
    headers: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon:
            continue
        if name not in _known_names:  # most messages have the same headers
            name = name.strip()
            # A name is an ASCII token without white space (RFC 9110, 5.1); nats-py skips others, too.
            if not name.isascii() or " " in name or "\t" in name:
                continue
            if len(_known_names) < _MAX_KNOWN_NAMES:
                _known_names.add(name)
        headers[name] = value.strip()
    return headers


def parse_headers(block: bytes) -> dict[str, str] | None:
    """The headers of a message, with a status and its description under the names that nats-py gives them.

    Args:
        block: From `NATS/1.0` to the blank line; empty for a message without headers.
    """
    if not block:
        return None
    if len(block) <= _VERSION_LENGTH or block[_VERSION_LENGTH] != _STATUS_FOLLOWS:
        return parse_header_lines(block[_VERSION_LENGTH + 2 :]) or None
    line, _, rest = block[_VERSION_LENGTH + 1 :].partition(_CRLF)
    status, description = line[:_STATUS_LENGTH].strip().decode("utf-8", "replace"), line[_STATUS_LENGTH + 1 :]
    headers = {STATUS: status} if status.isdigit() else {}
    if description:
        headers[DESCRIPTION] = description.decode("utf-8", "replace")
    return headers | parse_header_lines(rest)


class Received:
    """A message as it was read. Its headers are parsed when they are asked for."""

    __slots__ = ("_headers", "_parsed", "block", "data", "raw_reply", "raw_subject")

    def __init__(self, subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        self.raw_subject = subject
        self.raw_reply = reply
        """Where to answer; empty: nowhere."""
        self.block = block
        """The headers as they were sent; empty without headers."""
        self.data = data
        self._parsed = False

    @property
    def subject(self) -> str:
        """The subject that it was published to."""
        return self.raw_subject.decode()

    @property
    def reply(self) -> str:
        """The subject for an answer; empty: none is expected."""
        return self.raw_reply.decode()

    @property
    def headers(self) -> dict[str, str] | None:
        """The headers; None if it has none."""
        if not self._parsed:
            self._headers = parse_headers(self.block)
            self._parsed = True
        return self._headers


class ListenerParser(Parser):
    """nats-py's parser, with a fast way for the messages to listeners.

    Args:
        client: The client, as nats-py's parser knows it.
        listeners: The listeners by the id of their subscription, as the server writes it.
    """

    def __init__(self, client: Any, listeners: dict[bytes, Listener]) -> None:
        super().__init__(client)
        self._client = client
        self._listeners = listeners

    async def parse(self, data: bytes = b"") -> None:
        """Parse what was read. An error of a listener goes to the error callback, and the next message is parsed."""
        if self.state == AWAITING_CONTROL_LINE:
            if self.buf:
                data = bytes(self.buf) + data
                self.buf.clear()
            errors: list[Exception] = []
            data = self._pass_on(data, errors)
            for error in errors:
                await self._client._error_cb(error)
            if self._may_be_continued(data):
                self.buf.extend(data)
                return
        if data:
            await super().parse(data)

    def _pass_on(self, data: bytes, errors: list[Exception]) -> bytes:
        """Pass the messages at the start of `data` to their listeners. Returns the rest."""
        listeners, position, count, size = self._listeners, 0, 0, 0
        find = data.find
        while (end := find(_CRLF, position)) >= 0:
            match data[position:end].split(b" "):
                case [b"HMSG", subject, sid, *reply, block_size, total]:
                    pass
                case [b"MSG", subject, sid, *reply, total]:
                    block_size = b"0"
                case _:
                    break
            listener = listeners.get(sid)
            start = end + 2
            try:
                start_of_data, end = start + int(block_size), start + int(total)
            except ValueError:
                break
            if listener is None or len(reply) > 1 or len(data) < end + 2:
                break
            position = end + 2
            count += 1
            size += end - start_of_data
            message = Received(subject, reply[0] if reply else b"", data[start:start_of_data], data[start_of_data:end])
            try:
                listener(message)
            except Exception as error:  # an error of a listener must not end the read loop
                errors.append(error)
        stats = self._client.stats
        stats["in_msgs"] += count
        stats["in_bytes"] += size
        return data[position:] if position else data

    def _may_be_continued(self, data: bytes) -> bool:
        """Whether `data` is the start of a message to a listener, which the next read goes on with."""
        line, complete, _ = data[:_LONGEST_LINE].partition(_CRLF)
        if not complete:
            return len(data) < _LONGEST_LINE and data[:1] in (b"H", b"M")
        words = line.split(b" ")
        return (
            words[0] in (b"HMSG", b"MSG")
            and words[2:3] != []
            and words[2] in self._listeners
            and (len(data) < _MAX_KEPT_BYTES)
        )
