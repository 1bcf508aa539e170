"""The server's advisories of messages that it will not deliver again, as the stream of dead letters keeps them.

MAX_DELIVERIES comes where an operator limited `max_deliver`, and leaves the message in its stream, where nobody gets
it any more. MSG_TERMINATED comes of a `+TERM`, a worker's or an operator's, and the message is gone. In clusters an
advisory may come twice.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage

ADVISORIES: Final = "$JS.EVENT.ADVISORY.>"
"""What their subjects match."""

CLOCK_SKEW: Final = timedelta(minutes=1)
"""How far the clocks of two servers of a cluster may be apart: one stores the message, another writes of its end."""

_TERMINATED: Final = ".MSG_TERMINATED."


class _Body(msgspec.Struct):
    stream_seq: int
    consumer: str
    deliveries: int
    timestamp: datetime
    reason: str = ""


_body = msgspec.json.Decoder(_Body)


class Advisory(msgspec.Struct, frozen=True):
    """What an advisory says of the end of one message."""

    seq: int
    """Its own, in the stream of dead letters."""
    stored_us: int
    """When that stream stored it, in microseconds since the epoch."""
    sequence: int
    """That of the message, in the task stream; 0 where the advisory cannot be read."""
    at: datetime
    story: str
    """One line."""

    @classmethod
    def of(cls, message: StoredMessage) -> Advisory:
        """Read one."""
        try:
            body = _body.decode(message.body)
        except msgspec.MsgspecError as error:
            return cls(
                message.sequence, message.stored_us, 0, message.stored, f"an advisory that cannot be read: {error}"
            )
        what = "terminated" if _TERMINATED in message.subject else "given up"
        story = f"{what} on {body.consumer} after {body.deliveries} deliveries, message {body.stream_seq}"
        at = body.timestamp.astimezone(UTC)
        story = f"{story}: {body.reason}" if body.reason else story
        return cls(message.sequence, message.stored_us, body.stream_seq, at, story)

    def concerns(self, stored: datetime) -> bool:
        """Whether it is of a message that was stored then, and not of one in an earlier stream of that name."""
        return stored <= self.at + CLOCK_SKEW
