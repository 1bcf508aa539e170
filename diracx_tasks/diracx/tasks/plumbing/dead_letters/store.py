"""Storing dead letters: tasks that will not run again, kept with their payload and their errors.

A dead letter is the original message, its body untouched, on a subject of its own:
`<namespace>.dlq.<category>.<Task>.<sequence>`, with the sequence in the task stream. Its headers are those of the task
plus `Dead-*`: why, when and where it died, and its errors. Names that cannot be published, such as `a/b`, are left out.

Invariants:

* Once. `Nats-Expected-Last-Subject-Sequence: 0` makes a second write of the same dead letter fail, and that failure
  counts as success. A worker that is killed before it settles the message may therefore store it again.
* Never settled without. If the dead letter cannot be stored, `store` raises, and the message must stay in its queue.
* Payload first. Headers are cut to the server's limits: old tracebacks first, then all tracebacks, then old errors;
  headers of the task (except its name, id and version) are dropped if they alone are too large; these three are cut if
  nothing else helps, so that the message leaves its queue. The body is never cut.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from diracx.tasks.plumbing.exceptions import SendTaskError, shown
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.errors import WRONG_LAST_SEQUENCE, ApiError, PayloadTooLargeError
from diracx.tasks.plumbing.jetstream.headers import EXPECTED_LAST_SUBJECT_SEQUENCE, without_server_headers
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import read_message
from diracx.tasks.plumbing.wire.envelope import TASK_ID, TASK_NAME, TASK_VERSION
from diracx.tasks.plumbing.wire.failure import Failure, shrinking
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import to_rfc3339

DEAD_REASON: Final = "Dead-Reason"
DEAD_AT: Final = "Dead-At"
DEAD_QUEUE: Final = "Dead-Queue"
DEAD_SEQUENCE: Final = "Dead-Sequence"
DEAD_STORED: Final = "Dead-Stored"
DEAD_EXECUTIONS: Final = "Dead-Executions"
DEAD_ERRORS: Final = "Dead-Errors"

MAX_REASON_LENGTH: Final = 1_000
# JetStream stores no more header bytes in one message (err_code 10097), whatever `max_payload` is.
MAX_HEADER_BYTES: Final = 65_535
# The server adds a few bytes to the size of a stored message; their number is not documented.
SPARE_BYTES: Final = 512
ESSENTIAL_HEADERS: Final = (TASK_NAME, TASK_ID, TASK_VERSION)


class DeadLetterStore:
    """Writes to the dead letter stream of one namespace."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace

    async def store(self, delivery: Delivery, reason: str, executions: int, failures: Sequence[Failure]) -> None:
        """Store the dead letter of a message and wait for the PubAck; a second call changes nothing.

        Args:
            reason: Why the task is dead, in one line.
            executions: How often it was executed.
            failures: Its errors, the latest last.

        Raises:
            SendTaskError: The server refused, e.g. because the stream is full, or because the payload leaves no room
                for the headers. The message must not be settled.
            ServerUnavailableError: No answer arrived. The message must not be settled.
        """
        name = (delivery.headers or {}).get(TASK_NAME, "unknown:unknown")
        subject = self._namespace.dead_letter_subject(name, delivery.sequence)
        headers = self._fitting_headers(delivery, reason, executions, failures)
        message = f"message {delivery.sequence} ({shown(name)})"
        try:
            await self._publish_once(subject, delivery, headers)
        except PayloadTooLargeError as error:
            raise SendTaskError(
                f"the dead letter of {message} is too large: {error}; the message stays in "
                "its queue: raise max_payload on the server, or remove the message with `nats stream rmm`"
            ) from error
        except ApiError as error:
            raise SendTaskError(
                f"the dead letter of {message} was refused by "
                f"{self._namespace.dead_letters_stream}: {error.description}; the message stays in its queue"
            ) from error

    async def _publish_once(self, subject: str, delivery: Delivery, headers: dict[str, str]) -> None:
        try:
            await publish(self._connection, subject, delivery.body, headers | {EXPECTED_LAST_SUBJECT_SEQUENCE: "0"})
        except ApiError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise
            stored = await read_message(self._connection, self._namespace.dead_letters_stream, last_by_subj=subject)
            if stored is None:
                raise
            if stored.headers.get(DEAD_STORED) != headers[DEAD_STORED]:
                # A task stream that was created anew counts from 1 again: this is the dead letter of another message.
                expected = {EXPECTED_LAST_SUBJECT_SEQUENCE: str(stored.sequence)}
                await publish(self._connection, subject, delivery.body, headers | expected)

    def _fitting_headers(
        self, delivery: Delivery, reason: str, executions: int, failures: Sequence[Failure]
    ) -> dict[str, str]:
        """The headers of the dead letter, cut to the server's limits as the module's docstring says."""
        own = without_server_headers(delivery.headers)
        fixed = {
            DEAD_REASON: _one_line(reason),
            DEAD_AT: to_rfc3339(self._connection.clock.now()),
            DEAD_QUEUE: delivery.subject,
            DEAD_SEQUENCE: str(delivery.sequence),
            DEAD_STORED: str(delivery.stored_ns),
            DEAD_EXECUTIONS: str(executions),
        }
        room = min(self._connection.max_payload - len(delivery.body), MAX_HEADER_BYTES) - SPARE_BYTES - _size(fixed)
        if _size(own) > room:
            own = {name: own[name] for name in ESSENTIAL_HEADERS if name in own}
        if _size(own) > room:
            own = {name: shown(value) for name, value in own.items()}
        for kept in shrinking(failures):
            # ASCII: not every client can read header values in other encodings.
            errors = {DEAD_ERRORS: json.dumps(msgspec.to_builtins(kept))}
            if _size(own) + _size(errors) <= room:
                return own | fixed | errors
        return own | fixed


def _size(headers: Mapping[str, str]) -> int:
    return sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MAX_REASON_LENGTH]
