"""A dead letter as operators see it, from what `dead_letters` stored, or from an advisory where nothing was stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from diracx.tasks.plumbing.dead_letters import store as dead_letters
from diracx.tasks.plumbing.dead_letters.advisories import Advisory
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.envelope import TASK_NAME, Envelope
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.times import from_rfc3339


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A task that will not run again. The fields, in this order, are those of `dlq list --json`."""

    seq: int
    """Of the dead letter in its stream: how operators name it."""
    task: str | None
    """None: not known, as for all that can be None."""
    id: str | None
    args: Any
    """The task's fields as JSON; None also for a body that is no JSON."""
    labels: dict[str, str]
    reason: str
    attempts: int | None
    """How often it was executed."""
    errors: list[Failure]
    """The latest last."""
    submitted: datetime | None
    """When the stream stored it, where the publisher does not say."""
    died: datetime


_errors = msgspec.json.Decoder(list[Failure])


def from_letter(message: StoredMessage) -> DeadLetter:
    """What a worker buried."""
    headers = message.headers
    sequence = number(headers, dead_letters.SEQUENCE)
    envelope = _envelope(headers, sequence or 0)
    return DeadLetter(
        seq=message.sequence,
        task=headers.get(TASK_NAME),
        id=envelope.id if envelope is not None else headers.get(dead_letters.SEQUENCE),
        args=_json(message.body),
        labels=envelope.labels if envelope is not None else {},
        reason=headers.get(dead_letters.REASON, ""),
        attempts=number(headers, dead_letters.EXECUTIONS),
        errors=_failures(headers),
        submitted=(envelope.submitted if envelope is not None else None) or stored_at(headers),
        died=_time(headers, dead_letters.AT) or message.stored,
    )


def from_advisory(advisory: Advisory, message: StoredMessage | None, record: AttemptRecord | None) -> DeadLetter:
    """What ended otherwise, e.g. by `nats consumer` commands or a limit that an operator set.

    Args:
        advisory: What is known of its end.
        message: As the task stream still holds it; None where it is gone.
        record: What was tried of it, where that is known.
    """
    if message is None:
        return DeadLetter(
            seq=advisory.seq,
            task=None,
            id=None,
            args=None,
            labels={},
            reason=f"{advisory.story} (the message is gone)",
            attempts=None,
            errors=[],
            submitted=None,
            died=advisory.at,
        )
    envelope = _envelope(message.headers, message.sequence)
    return DeadLetter(
        seq=advisory.seq,
        task=message.headers.get(TASK_NAME),
        id=envelope.id if envelope is not None else str(message.sequence),
        args=_json(message.body),
        labels=envelope.labels if envelope is not None else {},
        reason=advisory.story,
        attempts=None if record is None else record.failed + record.crashes,
        errors=[] if record is None else list(record.failures),
        submitted=(envelope.submitted if envelope is not None else None) or message.stored,
        died=advisory.at,
    )


def number(headers: Mapping[str, str], name: str) -> int | None:
    """A header that is a whole number; None where it is missing or something else."""
    text = headers.get(name, "")
    return int(text) if text.isdecimal() else None


def stored_at(headers: Mapping[str, str]) -> datetime | None:
    """When the task stream stored the message of a dead letter."""
    nanoseconds = number(headers, dead_letters.STORED)
    return None if nanoseconds is None else datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def _envelope(headers: Mapping[str, str], sequence: int) -> Envelope | None:
    """None where the headers are what it died of."""
    try:
        return Envelope.from_headers(headers, sequence)
    except MalformedTaskError:
        return None


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _failures(headers: Mapping[str, str]) -> list[Failure]:
    try:
        return _errors.decode(headers.get(dead_letters.ERRORS, "[]"))
    except msgspec.MsgspecError:
        return []


def _time(headers: Mapping[str, str], name: str) -> datetime | None:
    try:
        return from_rfc3339(headers[name]) if name in headers else None
    except ValueError:
        return None
