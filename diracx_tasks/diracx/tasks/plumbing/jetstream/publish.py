"""One publish into a stream, acknowledged by the server."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import ApiError


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct):
    """What the server says of a stored message."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    """True: a message of this `Nats-Msg-Id` was stored before, within the stream's duplicate window."""
    error: _Error | None = None


_ack = msgspec.json.Decoder(PubAck)


async def publish(
    connection: Connection, subject: str, body: bytes, headers: Mapping[str, str], *, timeout: float = 5.0
) -> PubAck:
    """Publish once and await the PubAck.

    Raises:
        ServerUnavailableError: No answer within `timeout` seconds; the message may have been stored.
        ApiError: The server refused it.
    """
    answer = await connection.request(subject, body, headers=headers, timeout=timeout)
    return ack_of(answer.data, subject)


def ack_of(answer: bytes, subject: str) -> PubAck:
    """The PubAck in an answer.

    Raises:
        ServerUnavailableError: The answer is none: it came from no stream.
        ApiError: The server refused the message.
    """
    try:
        ack = _ack.decode(answer)
    except msgspec.MsgspecError:
        raise ServerUnavailableError(f"the answer to a publish on {subject} came from no stream") from None
    if ack.error is not None:
        raise ApiError(ack.error.code, ack.error.err_code, ack.error.description)
    return ack
