"""One delivery of a message, and the verbs of the protocol for it: ack, nak, term, in progress."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import nats.errors

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.headers import STREAM_SOURCE

_TOKENS_WITHOUT_DOMAIN: Final = 9
_MAX_REASON_CHARACTERS: Final = 500
_SOURCE_NAME: Final = STREAM_SOURCE.encode()
# The server counts nanoseconds in 64 bits, about 292 years, and takes a longer delay for no delay.
_MAX_DELAY: Final = timedelta(days=365)


class ReplySubject:
    """The reply subject of a delivered message. A verb sent to it tells the server how the delivery ended.

    The server fences no verb: the ack of a stale worker deletes a task that runs elsewhere. Send one only while the
    lease on the delivery holds. Without a connection each verb raises `ServerUnavailableError` at once; nothing is
    kept to be sent later, because it may be stale by then.

    The subject holds the position of the message (ADR-15):
    `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<timestamp>.<pending>`, and with a domain
    `$JS.ACK.<domain>.<account>.<stream>...<pending>.<random>`.
    """

    __slots__ = ("_connection", "reply")

    def __init__(self, connection: Connection, reply: bytes) -> None:
        self._connection = connection
        self.reply = reply

    def ack(self) -> None:
        """Acknowledge the message. The work queue removes it."""
        self._send(b"+ACK")

    def nak(self, delay: timedelta = timedelta(0)) -> None:
        """Negatively acknowledge the message. The server redelivers it after `delay`, a year at the most."""
        nanoseconds = int(min(delay, _MAX_DELAY).total_seconds() * 1e9)
        self._send(b'-NAK {"delay":%d}' % nanoseconds if nanoseconds > 0 else b"-NAK")

    def term(self, reason: str) -> None:
        """Terminate the message. The work queue removes it, and an advisory carries the reason, cut to one line."""
        self._send(f"+TERM {' '.join(reason.split())[:_MAX_REASON_CHARACTERS]}".encode())

    async def in_progress(self, timeout: float) -> None:
        """Restart the server's `ack_wait`. Returns once the server has answered.

        Raises:
            ServerUnavailableError: No answer within `timeout` seconds; the server may have received it.
        """
        await self._connection.request(self.reply.decode(), b"+WPI", timeout=timeout)

    def _send(self, verb: bytes) -> None:
        try:
            self._connection.client.queue(b"PUB %b  %d\r\n%b\r\n" % (self.reply, len(verb), verb), len(verb))
        except nats.errors.Error as error:
            sequence = _position(self.reply)[1]
            raise ServerUnavailableError(f"message {sequence} cannot be settled now: {error}") from error


class Delivery(ReplySubject):
    """One delivery of one message."""

    __slots__ = ("body", "delivered", "message", "requested", "sequence", "stored_ns")

    def __init__(self, connection: Connection, message: Received, requested: float) -> None:
        """Wrap a message of the client library.

        Args:
            connection: Carries the verbs.
            message: The received message.
            requested: The time on `clock.boottime` at which the pull request for it was sent, before its delivery.
        """
        self._connection = connection
        self.reply = message.raw_reply
        self.message = message
        """The message as it was read."""
        self.body: bytes = message.data
        self.requested = requested
        self.delivered, self.sequence, self.stored_ns = _position(self.reply)
        """How often the server has delivered it, this time included; its sequence in its stream; and when the stream
        stored it, in nanoseconds since the epoch, by the server's clock."""

    @property
    def subject(self) -> str:
        """The subject that it was published to."""
        return self.message.subject

    @property
    def header_block(self) -> bytes:
        """The headers as they were sent; empty if it has none."""
        return self.message.block

    @property
    def headers(self) -> dict[str, str] | None:
        """The headers; None if it has none."""
        return self.message.headers

    @property
    def stored(self) -> datetime:
        """The time at which the stream stored it, by the server's clock."""
        return datetime.fromtimestamp(self.stored_ns / 1e9, UTC)

    @property
    def origin(self) -> tuple[str, int] | None:
        """The stream and the sequence that this message was sourced from; None for a published message."""
        if _SOURCE_NAME not in self.message.block:  # before all headers are parsed for it
            return None
        if (source := (self.message.headers or {}).get(STREAM_SOURCE)) is None:
            return None
        stream, sequence, *_ = source.split(" ")
        return stream, int(sequence)


def _position(reply: bytes) -> tuple[int, int, int]:
    """The number of deliveries, the sequence in the stream, and the time of storage in nanoseconds."""
    tokens = reply.split(b".")
    first = 4 if len(tokens) == _TOKENS_WITHOUT_DOMAIN else 6
    return int(tokens[first]), int(tokens[first + 1]), int(tokens[first + 3])
