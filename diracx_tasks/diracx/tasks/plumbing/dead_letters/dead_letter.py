"""A dead letter as operators see it.

The dead letter stream holds two kinds of messages:

* Dead letters. A worker stores them (see `store`): the message of the task, with its errors in `Dead-*` headers.
* Advisories. The server stores them when it ends a message. They hold neither the name nor the payload of the task.

There are two advisories, and in a cluster the same one may arrive twice:

* MAX_DELIVERIES: an operator limited `max_deliver`. The message stays in the task stream, but is not delivered again.
* MSG_TERMINATED: a worker or an operator sent `+TERM`. The message is removed from the task stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.dead_letters.store import (
    DEAD_AT,
    DEAD_ERRORS,
    DEAD_EXECUTIONS,
    DEAD_REASON,
    DEAD_SEQUENCE,
    DEAD_STORED,
)
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.bounds import AwareTime
from diracx.tasks.plumbing.wire.envelope import TASK_NAME, Envelope
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.times import from_rfc3339

CLOCK_SKEW: Final = timedelta(minutes=1)
"""How far apart the clocks of two servers may be: one stores the message, another dates its advisory."""

_TERMINATED: Final = ".MSG_TERMINATED."
_KIND_ENDS: Final = re.compile(r""":| ['"]| on | after """)
"""What ends the kind of death in a reason, as `malformed: ...`, `unknown task 'a:B'`, `given up on normal-small`."""


class _AdvisoryBody(msgspec.Struct):
    stream_seq: int
    consumer: str
    deliveries: int
    timestamp: AwareTime
    reason: str = ""


_advisory_body = msgspec.json.Decoder(_AdvisoryBody)
_errors = msgspec.json.Decoder(list[Failure])


class Advisory(msgspec.Struct, frozen=True):
    """The server's report that it will not deliver one message again."""

    seq: int
    """The sequence of the advisory in the dead letter stream."""
    stored_us: int
    """When the dead letter stream stored it, in microseconds since the epoch."""
    sequence: int
    """The sequence of the message in the task stream; 0 if the advisory cannot be read."""
    at: datetime
    """When the message ended."""
    reason: str
    """Why and where the message ended, in one line."""

    @classmethod
    def from_message(cls, message: StoredMessage) -> Advisory:
        """Read an advisory; one that cannot be read gets the sequence 0 and the error as its reason."""
        try:
            body = _advisory_body.decode(message.body)
            at = body.timestamp.astimezone(UTC)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
            return cls(
                message.sequence, message.stored_us, 0, message.stored, f"an advisory that cannot be read: {error}"
            )
        verb = "terminated" if _TERMINATED in message.subject else "given up"
        reason = f"{verb} on {body.consumer} after {body.deliveries} deliveries, message {body.stream_seq}"
        reason = f"{reason}: {body.reason}" if body.reason else reason
        return cls(message.sequence, message.stored_us, body.stream_seq, at, reason)

    def concerns(self, stored: datetime) -> bool:
        """Whether it reports a message stored at `stored`, and not one of an earlier stream of the same name."""
        return stored <= self.at + CLOCK_SKEW


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A task that will not run again. These fields, in this order, are those of `dlq list --json`.

    A field is None if its value is not known.
    """

    seq: int
    """The sequence in the dead letter stream. Operators name a dead letter by it."""
    task: str | None
    id: str | None
    args: Any
    """The fields of the task as JSON; None also if the body is not JSON."""
    labels: dict[str, Any]
    reason: str
    attempts: int | None
    """How often the task was executed."""
    errors: list[Failure]
    """The latest error is the last."""
    submitted: datetime | None
    """When the publisher submitted the task; if the publisher does not say, when the task stream stored it."""
    died: datetime

    @property
    def error_type(self) -> str:
        """The type of the last error, or the kind of death if there is no error."""
        return self.errors[-1].type if self.errors else _KIND_ENDS.split(self.reason, 1)[0]

    @classmethod
    def from_message(cls, message: StoredMessage) -> DeadLetter:
        """Read a dead letter that a worker stored."""
        headers = message.headers
        envelope = _envelope(headers, read_number(headers, DEAD_SEQUENCE) or 0)
        return cls(
            seq=message.sequence,
            task=headers.get(TASK_NAME),
            id=envelope.id if envelope is not None else headers.get(DEAD_SEQUENCE),
            args=_json(message.body),
            labels=envelope.labels if envelope is not None else {},
            reason=headers.get(DEAD_REASON, ""),
            attempts=read_number(headers, DEAD_EXECUTIONS),
            errors=_read_errors(headers),
            submitted=(envelope.submitted if envelope is not None else None) or original_stored(headers),
            died=_read_time(headers, DEAD_AT) or message.stored,
        )

    @classmethod
    def from_advisory(
        cls, advisory: Advisory, message: StoredMessage | None, record: AttemptRecord | None
    ) -> DeadLetter:
        """Describe a task that ended without a dead letter, e.g. by a limit that an operator set.

        Args:
            advisory: The report of its end.
            message: The message as the task stream still holds it; None if it is gone.
            record: The attempts of the task; None if they are not known.
        """
        if message is None:
            return cls(
                seq=advisory.seq,
                task=None,
                id=None,
                args=None,
                labels={},
                reason=f"{advisory.reason} (the message is gone)",
                attempts=None,
                errors=[],
                submitted=None,
                died=advisory.at,
            )
        envelope = _envelope(message.headers, message.sequence)
        return cls(
            seq=advisory.seq,
            task=message.headers.get(TASK_NAME),
            id=envelope.id if envelope is not None else str(message.sequence),
            args=_json(message.body),
            labels=envelope.labels if envelope is not None else {},
            reason=advisory.reason,
            attempts=None if record is None else record.failed + record.crashes,
            errors=[] if record is None else list(record.failures),
            submitted=(envelope.submitted if envelope is not None else None) or message.stored,
            died=advisory.at,
        )


def read_number(headers: Mapping[str, str], name: str) -> int | None:
    """A header as a whole number; None if it is missing, or is none of at most 64 bits."""
    text = headers.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def original_stored(headers: Mapping[str, str]) -> datetime | None:
    """When the task stream stored the message of a dead letter with these headers; None if it is not known."""
    nanoseconds = read_number(headers, DEAD_STORED)
    # 19 digits of nanoseconds end in the year 2286.
    return None if nanoseconds is None else datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def _envelope(headers: Mapping[str, str], sequence: int) -> Envelope | None:
    """The envelope; None if the headers are malformed, which may be the reason why the task is dead."""
    try:
        return Envelope.from_headers(headers, sequence)
    except MalformedTaskError:
        return None


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _read_errors(headers: Mapping[str, str]) -> list[Failure]:
    try:
        return _errors.decode(headers.get(DEAD_ERRORS, "[]"))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return []


def _read_time(headers: Mapping[str, str], name: str) -> datetime | None:
    try:
        return from_rfc3339(headers[name]) if name in headers else None
    except ValueError:
        return None
