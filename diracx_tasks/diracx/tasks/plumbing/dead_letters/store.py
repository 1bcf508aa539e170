"""Dead letters: tasks that will not run again, kept with payload and story.

A dead letter is the original message, body untouched, on a subject of its own with the sequence in the task stream:
`<namespace>.dlq.<category>.<Task>.<sequence>`. Its headers are those of the task, and the story in `Dead-*`. It is
stored with `Nats-Expected-Last-Subject-Sequence: 0`, so it is stored once, however often it is tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from diracx.tasks.plumbing.exceptions import SendTaskError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.errors import WRONG_LAST_SEQUENCE, ApiError, PayloadTooLargeError
from diracx.tasks.plumbing.jetstream.headers import EXPECTED_LAST_SUBJECT_SEQUENCE, without_server_headers
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import read_message
from diracx.tasks.plumbing.wire.envelope import TASK_ID, TASK_NAME, TASK_VERSION
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import to_rfc3339

REASON: Final = "Dead-Reason"
AT: Final = "Dead-At"
QUEUE: Final = "Dead-Queue"
SEQUENCE: Final = "Dead-Sequence"
STORED: Final = "Dead-Stored"
EXECUTIONS: Final = "Dead-Executions"
ERRORS: Final = "Dead-Errors"

_LONGEST_REASON: Final = 1_000
# JetStream stores no more in the headers of one message (err_code 10097), whatever `max_payload` is.
_MOST_HEADER_BYTES: Final = 65_535
# What the server itself adds to a stored message's size is not ours to know to the byte.
_SPARE_BYTES: Final = 512
_INDISPENSABLE: Final = (TASK_NAME, TASK_ID, TASK_VERSION)


class DeadLetterStore:
    """Where dead letters go."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace

    async def store(self, delivery: Delivery, reason: str, executions: int, failures: Sequence[Failure]) -> None:
        """Store the dead letter of a message; a second time changes nothing. Returns once it is stored.

        Args:
            reason: Why it is dead, one line.
            executions: How often it was executed.
            failures: What went wrong, the latest last.

        Raises:
            SendTaskError: The server refused it, e.g. since the stream is full, or the payload leaves no room for
                the story; the message must not be settled.
            ServerUnavailableError: No answer.
        """
        name = (delivery.headers or {}).get(TASK_NAME, "unknown:unknown")
        subject = self._namespace.dead_letter_subject(name, delivery.sequence)
        headers = self._fitting(delivery, reason, executions, failures)
        try:
            await self._publish_once(subject, delivery, headers)
        except PayloadTooLargeError as error:
            raise SendTaskError(
                f"the dead letter of message {delivery.sequence} ({name}) finds no room: {error}; the message stays in "
                "its queue: raise max_payload on the server, or remove the message with `nats stream rmm`"
            ) from error
        except ApiError as error:
            raise SendTaskError(
                f"the dead letter of message {delivery.sequence} ({name}) was refused by "
                f"{self._namespace.dead_letters_stream}: {error.description}; the message stays in its queue"
            ) from error

    async def _publish_once(self, subject: str, delivery: Delivery, headers: dict[str, str]) -> None:
        try:
            await publish(self._connection, subject, delivery.body, headers | {EXPECTED_LAST_SUBJECT_SEQUENCE: "0"})
        except ApiError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise
            found = await read_message(self._connection, self._namespace.dead_letters_stream, last_by_subj=subject)
            if found is None:
                raise
            if found.headers.get(STORED) != headers[STORED]:
                # A task stream that was made anew counts from 1 again: another message, another letter.
                expected = {EXPECTED_LAST_SUBJECT_SEQUENCE: str(found.sequence)}
                await publish(self._connection, subject, delivery.body, headers | expected)

    def _fitting(self, delivery: Delivery, reason: str, executions: int, failures: Sequence[Failure]) -> dict[str, str]:
        """Headers within the server's limits: the story shrinks first, then go the task's own, the payload never."""
        own = without_server_headers(delivery.headers)
        fixed = {
            REASON: _one_line(reason),
            AT: to_rfc3339(datetime.now(UTC)),
            QUEUE: delivery.subject,
            SEQUENCE: str(delivery.sequence),
            STORED: str(delivery.stored_ns),
            EXECUTIONS: str(executions),
        }
        room = min(self._connection.max_payload - len(delivery.body), _MOST_HEADER_BYTES) - _SPARE_BYTES - _size(fixed)
        if _size(own) > room:
            own = {name: own[name] for name in _INDISPENSABLE if name in own}
        for story in _stories(failures):
            # ASCII: header values of other encodings are not safe with every client.
            errors = {ERRORS: json.dumps(msgspec.to_builtins(story))}
            if _size(own) + _size(errors) <= room:
                return own | fixed | errors
        return own | fixed


def _stories(failures: Sequence[Failure]) -> Iterator[list[Failure]]:
    """Ever shorter ones: the oldest lose their tracebacks, all of them do, the oldest go."""
    bare = [msgspec.structs.replace(failure, traceback="") for failure in failures]
    first = range(len(failures))
    yield from ([*bare[:whole_from], *failures[whole_from:]] for whole_from in first)
    yield from (bare[kept_from:] for kept_from in first)
    yield []


def _size(headers: Mapping[str, str]) -> int:
    return sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_REASON]
