"""One message in hand, and the protocol's own verbs for it: ack, nak, term, in progress.

The reply subject of a delivered message carries its position (ADR-15):
`$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<timestamp>.<pending>`, and with a domain
`$JS.ACK.<domain>.<account>.<stream>...<pending>.<random>`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import nats.errors

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection

_TOKENS_WITHOUT_DOMAIN: Final = 9
_SOURCE: Final = "Nats-Stream-Source"
_LONGEST_REASON: Final = 500
# The server counts nanoseconds in 64 bits, some 292 years; it takes a longer delay for none at all.
_LONGEST_DELAY: Final = timedelta(days=365)

ACK: Final = b"+ACK"
"""Done: the work queue removes it."""


def nak(delay: timedelta = timedelta(0)) -> bytes:
    """Not done: the server delivers it again, no earlier than after `delay`, or after a year if that is longer."""
    nanoseconds = int(min(delay, _LONGEST_DELAY).total_seconds() * 1e9)
    return b'-NAK {"delay":%d}' % nanoseconds if nanoseconds > 0 else b"-NAK"


def term(reason: str) -> bytes:
    """Never again: the work queue removes it, and an advisory tells the reason."""
    return f"+TERM {' '.join(reason.split())[:_LONGEST_REASON]}".encode()


def answer(connection: Connection, reply: str, verb: bytes) -> None:
    """Answer the delivery that came with this reply subject.

    Raises:
        ServerUnavailableError: There is no connection; nothing was sent, nor will be.
    """
    try:
        connection.client.answer(reply, verb)
    except nats.errors.Error as error:
        raise ServerUnavailableError(f"message {_position(reply)[1]} cannot be settled now: {error}") from error


def _position(reply: str) -> tuple[int, int, int]:
    """How often the message was delivered, its sequence in the stream, and when that stored it, in nanoseconds."""
    tokens = reply.split(".")
    first = 4 if len(tokens) == _TOKENS_WITHOUT_DOMAIN else 6
    return int(tokens[first]), int(tokens[first + 1]), int(tokens[first + 3])


class Delivery:
    """One delivery of one message.

    None of the verbs is fenced by the server: a stale worker's ack deletes a task that runs elsewhere. Call them
    only while the lease on the delivery holds. Without a connection they raise `ServerUnavailableError` at once;
    nothing is kept to be sent later, when it may be stale.
    """

    __slots__ = (
        "_connection",
        "body",
        "delivered",
        "headers",
        "reply",
        "requested",
        "sequence",
        "stored_ns",
        "subject",
    )

    def __init__(self, connection: Connection, message: Any, requested: float) -> None:
        """Wrap a message of the client library.

        Args:
            connection: To answer on.
            message: As received: subject, reply, headers, data.
            requested: When the pull request left that it answers, on `clock.boottime`; it was delivered later.
        """
        self._connection = connection
        self.subject: str = message.subject
        self.reply: str = message.reply
        self.headers: dict[str, str] | None = message.headers
        self.body: bytes = message.data
        self.requested = requested
        delivered, sequence, stored_ns = _position(self.reply)
        self.delivered = delivered
        """How often the server has handed out this message, this time included."""
        self.sequence = sequence
        """Its sequence in the stream."""
        self.stored_ns = stored_ns
        """When the stream stored it, in nanoseconds since the epoch, by the server's clock."""

    @property
    def stored(self) -> datetime:
        """When the stream stored it, by the server's clock."""
        return datetime.fromtimestamp(self.stored_ns / 1e9, UTC)

    @property
    def origin(self) -> tuple[str, int] | None:
        """The stream that this message was sourced from, and its sequence there; None for one that was published."""
        if self.headers is None or (source := self.headers.get(_SOURCE)) is None:
            return None
        stream, sequence, *_ = source.split(" ")
        return stream, int(sequence)

    async def ack(self) -> None:
        """See `ACK`."""
        answer(self._connection, self.reply, ACK)

    async def nak(self, delay: timedelta = timedelta(0)) -> None:
        """See `nak`."""
        answer(self._connection, self.reply, nak(delay))

    async def term(self, reason: str) -> None:
        """See `term`."""
        answer(self._connection, self.reply, term(reason))

    async def in_progress(self, timeout: float) -> None:
        """Still at it: the server's `ack_wait` starts anew. Returns once the server has answered.

        Raises:
            ServerUnavailableError: No answer within `timeout` seconds; the server may or may not have heard.
        """
        await self._connection.request(self.reply, b"+WPI", timeout=timeout)
