"""The note that an operator has cancelled tasks, and which messages it concerns.

A note is one message in the stream of later tasks, on a subject of its own. So the same tasks cancelled again replace
it, and a worker that starts finds all that stand.

    id      that task, until it ends
    task    the tasks of that name that were submitted before the note, and occurrences that were due before it
    group   the children of that group, also those that are not stored in their queues yet

A dead letter that is replayed after the note counts as submitted then: the operator wants it to run. Times are the
server's, but for `Task-Submitted`, which the submitting process worked out; it counts only where it is earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import msgspec

from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.groups.records import split_place
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage
from diracx.tasks.plumbing.wire.envelope import (
    MSG_ID,
    TASK_DUE,
    TASK_GROUP,
    TASK_ID,
    TASK_NAME,
    TASK_PART,
    TASK_SUBMITTED,
)
from diracx.tasks.plumbing.wire.times import from_rfc3339, readable_time

_REPLAYED = "replay-"
"""How the `Nats-Msg-Id` of a dead letter begins that was replayed."""


class Kind(StrEnum):
    """What the key of a note names."""

    ID = "id"
    TASK = "task"
    GROUP = "group"


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides about one message whether a note concerns it."""

    id: str
    task: str
    group: str | None
    part: bool
    """Whether it is a part of a group. That is no task: a worker stores its children, and drops those that are
    cancelled."""
    since: datetime
    """When it was submitted, or replayed, or for an occurrence when it was due."""
    replayed: bool

    @classmethod
    def of(cls, headers: Mapping[str, str] | None, sequence: int, stored: datetime) -> Identity:
        """Read the headers of a message, however malformed.

        Args:
            sequence: Of the message in its stream; the id of a message without one.
            stored: When the stream stored the message.
        """
        headers = headers or {}
        task, id_ = headers.get(TASK_NAME, ""), headers.get(TASK_ID) or str(sequence)
        group, replayed = None, headers.get(MSG_ID, "").startswith(_REPLAYED)
        with suppress(KeyError, ValueError):
            group = split_place(headers[TASK_GROUP])[0]
        # The id of an occurrence begins with the name of its task. It was published before it was due.
        occurrence = TASK_DUE in headers and bool(task) and id_.startswith(task)
        since = stored
        if not replayed:
            with suppress(KeyError, ValueError):
                since = min(stored, from_rfc3339(headers[TASK_DUE if occurrence else TASK_SUBMITTED]))
        return cls(id_, task, group, TASK_PART in headers, since, replayed)


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One note. The fields are its JSON on the wire."""

    kind: Kind
    key: str
    """The id of a task, the name of tasks, or the id of a group."""
    at: datetime
    """When it was written, by the server's clock. What was read has the time at which the stream stored it."""
    by: str = ""
    """Who wrote it, as the writing process says; empty: it does not."""

    @classmethod
    def from_message(cls, message: StoredMessage) -> Note:
        """Read a note as the stream keeps it.

        Raises:
            ValueError: It is no note.
        """
        try:
            note = _decoder.decode(message.body)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ValueError(f"{shown(message.subject)}: {shown(str(error))}") from None
        return msgspec.structs.replace(note, at=message.stored)

    @property
    def reason(self) -> str:
        """Why a task that it concerns does not run, for people."""
        by = f" by {shown(self.by)}" if self.by else ""
        return f"cancelled{by} at {readable_time(self.at)}"

    def concerns(self, message: Identity) -> bool:
        """Whether the message is to be cancelled."""
        before = message.since <= self.at
        if message.part:
            return False
        if self.kind is Kind.TASK:
            return message.task == self.key and before
        named = message.id if self.kind is Kind.ID else message.group
        return named == self.key and (before or not message.replayed)


_decoder = msgspec.json.Decoder(Note)
