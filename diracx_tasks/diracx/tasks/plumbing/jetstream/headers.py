"""The headers that nats-server itself reads or writes, as names and as ready sets.

`Nats-Msg-Id` is in `wire.envelope`, because a task's envelope carries it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol

from diracx.tasks.plumbing.wire.times import ensure_holdable, to_rfc3339

# Read by the server in a publish.
EXPECTED_LAST_SUBJECT_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
"""Compare-and-set: the last sequence on the subject of the message; `0` for none."""
ROLLUP: Final = "Nats-Rollup"
"""`sub`: the message replaces all earlier ones on its subject."""
TTL: Final = "Nats-TTL"
"""Whole seconds with `s`, or a Go duration such as `168h` (ADR-43)."""
BATCH_ID: Final = "Nats-Batch-Id"
BATCH_SEQUENCE: Final = "Nats-Batch-Sequence"
BATCH_COMMIT: Final = "Nats-Batch-Commit"
SCHEDULE: Final = "Nats-Schedule"
SCHEDULE_TARGET: Final = "Nats-Schedule-Target"
SCHEDULE_TTL: Final = "Nats-Schedule-TTL"

# Written by the server.
STREAM: Final = "Nats-Stream"
"""The stream that has stored a message; the server sets it where it republishes or reads one directly."""
STREAM_SOURCE: Final = "Nats-Stream-Source"
"""In a sourced message: `<stream> <sequence> ...` of its origin."""
STORED_SUBJECT: Final = "Nats-Subject"
"""This and the next two: in a message that is read directly (ADR-31), as it is stored."""
STORED_SEQUENCE: Final = "Nats-Sequence"
STORED_TIME: Final = "Nats-Time-Stamp"
ADDED_TO_DIRECT_READS: Final = frozenset(
    {STORED_SUBJECT, STORED_SEQUENCE, STORED_TIME, STREAM, "Nats-Num-Pending", "Nats-Last-Sequence"}
)
"""All that the server adds to the headers of such a message."""
KV_OPERATION: Final = "KV-Operation"
"""In the marker that a client leaves where it deleted a key."""
MARKER_REASON: Final = "Nats-Marker-Reason"
"""In the marker that a bucket with limit markers leaves where a key expired (ADR-43)."""

STATUS: Final = "Status"
DESCRIPTION: Final = "Description"

# Values of STATUS.
HEARTBEAT: Final = "100"
NO_MESSAGES: Final = "404"
TIMED_OUT: Final = "408"
NO_RESPONDERS: Final = "503"

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

_EPOCH: Final = "1970-01-01T00:00:00.000000Z"

DUE_TTL: Final = "720h"
"""A task that fell due waits this long for room in a full work queue. A settled task is removed at once."""


def schedule_headers(due: datetime, target: str) -> dict[str, str]:
    """The headers that make a message a schedule (ADR-51): the server publishes it to `target` at `due`.

    Raises:
        ValueError: `due` is naive, or too late for the server to hold it.
    """
    text = to_rfc3339(due)
    ensure_holdable(due)
    # The server takes a time before 1678 for one in the future. Any past one falls due at once.
    return {SCHEDULE: f"@at {max(text, _EPOCH)}", SCHEDULE_TARGET: target, SCHEDULE_TTL: DUE_TTL}


def headers_to_fall_due(headers: Mapping[str, str], sequence: int, target: str, now: datetime) -> dict[str, str]:
    """The headers with which a schedule is published to its own subject once more, so that it falls due now.

    The server refuses it (`WRONG_LAST_SEQUENCE`) if the schedule has fallen due or was withdrawn meanwhile.

    Args:
        headers: Of the schedule as it is stored.
        sequence: At which it is stored, and so never 0: after it has fallen due nothing is stored there, and a 0 would
            let it fall due again.
    """
    expected = {EXPECTED_LAST_SUBJECT_SEQUENCE: str(sequence)}
    return without_server_headers(headers) | schedule_headers(now, target) | expected


def without_server_headers(headers: Mapping[str, str] | None, *more: str) -> dict[str, str]:
    """The headers of a message that can be published again: without those of the server (`Nats-*`).

    A name that is no token (RFC 9110, 5.6.2), such as `a/b`, is left out, too. The server stores any name, but nats-py
    refuses to publish such a one, so the message could be neither dead-lettered nor requeued.

    Args:
        headers: As received; None when the message has none.
        more: Further prefixes to leave out, in lower case.
    """
    prefixes = ("nats-", *more)
    return {
        name: value
        for name, value in (headers or {}).items()
        if _TOKEN.fullmatch(name) and not name.lower().startswith(prefixes)
    }


class HasHeaders(Protocol):
    """A received message, as nats-py or `connection.incoming` makes it."""

    @property
    def headers(self) -> Mapping[str, str] | None:
        """The headers; None if it has none."""


def status_of(message: HasHeaders) -> str:
    """The status in a message that the server itself sent, such as `404`; empty for any other message."""
    return (message.headers or {}).get(STATUS, "")
