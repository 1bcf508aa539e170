"""What is stored of a group, in the stream `later`: the record of the group, its parts, and outcomes of its children.

    <namespace>.group.<id>                              GroupRecord
    <namespace>.group.<id>.part.<number>                PartRecord
    <namespace>.group.<id>.outcomes.<number>.<index>    OutcomesRecord: values and errors of children of that part
    <namespace>.delayed.<id of the callback>            the callback, held until the end of the time to live

All are written in one stream, so that what belongs together is stored in one atomic batch. Each subject holds one
message; a write replaces it (`Nats-Rollup: sub`) by compare-and-set on its sequence.

A part has up to 1,000 children, as many as one atomic batch stores in the queues. Its record has their bodies until
they are stored there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from math import ceil
from typing import Annotated, Any, Final

import msgspec

from diracx.tasks.plumbing.wire.bounds import AwareTime
from diracx.tasks.plumbing.wire.ending import OutcomeError, Status

MAX_TTL_SECONDS: Final = 365 * 86_400
KEEP_GROUP: Final = timedelta(days=7)
"""How long after its time to live the record of a group stays, so that a parent that runs again spawns nothing."""
KEEP_OUTCOMES: Final = timedelta(days=1)
"""How long after it the parts and outcomes stay."""

WAITING: Final = "."
LETTERS: Final = {Status.SUCCEEDED: "s", Status.FAILED: "f", Status.EXPIRED: "e", Status.CANCELLED: "c"}
"""What stands in `PartRecord.statuses` for a child that has ended."""
STATUSES: Final = {letter: status for status, letter in LETTERS.items()}


class Ended(StrEnum):
    """Why the callback of a group was let go."""

    COMPLETE = "complete"
    """All children have ended."""
    EXPIRED = "expired"
    """The time to live was over first."""
    CANCELLED = "cancelled"
    """An operator has withdrawn the callback."""


class GroupRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One group."""

    spawned: AwareTime
    """By the server's clock."""
    ttl_seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_TTL_SECONDS)]
    """How long after that the callback runs at the latest."""
    children: int
    """The number of children."""
    starts: tuple[int, ...]
    """The index of the first child of each part, ascending; empty for a group without children."""
    callback: str
    """The name of the task that runs after the children."""
    parent: str | None = None
    """The id of the task that spawned it; None: no task did."""
    traceparent: str | None = None
    labels: dict[str, Any] = msgspec.field(default_factory=dict)
    """Of the children and of the callback."""
    digest: str = ""
    """Of the names and bodies of the children and of the callback, to tell whether a later spawn is the same."""
    ended_parts: tuple[int, ...] = ()
    """The numbers of parts whose children have all ended, ascending."""
    ended: Ended | None = None
    ended_at: datetime | None = None
    fired: int | None = None
    """The sequence, in the stream `later`, of the message that the callback runs for; None: it has not begun."""

    def part_of(self, index: int) -> int:
        """The number of the part that has this child."""
        return bisect_right(self.starts, index) - 1

    def children_of(self, part: int) -> int:
        """The number of children of a part."""
        return (*self.starts, self.children)[part + 1] - self.starts[part]


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the children of a group, in their order."""

    tasks: tuple[str, ...]
    """The names of tasks that occur, each once."""
    queues: tuple[str, ...]
    """`<priority>.<size>` of each of them."""
    children: tuple[int, ...]
    """Of each child, the position of its task in `tasks`."""
    bodies: tuple[msgspec.Raw, ...] = ()
    """The body of each child, until the children are stored in their queues."""
    stored: bool = False
    """Whether the children are stored in their queues."""
    statuses: str = ""
    """A letter for each child, see `LETTERS`; `WAITING` for one that has not ended. Empty: none has."""

    @property
    def waiting(self) -> int:
        """How many children have not ended."""
        return self.statuses.count(WAITING) if self.statuses else len(self.children)

    def as_stored(self) -> PartRecord:
        """The same once its children are stored in their queues."""
        return msgspec.structs.replace(self, stored=True, bodies=())


class StoredOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the letter in `PartRecord.statuses` does not tell of a child."""

    index: int
    """In the whole group."""
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """The JSON of its value, if that is kept."""
    error: OutcomeError | None = None


class OutcomesRecord(msgspec.Struct, frozen=True):
    """Outcomes that were recorded together."""

    outcomes: tuple[StoredOutcome, ...]


def group_id(parent: str, number: int) -> str:
    """The id of the group that an execution of `parent` spawns as its `number`th, counted from 0."""
    return f"{parent}-{number}"


def child_id(group: str, index: int) -> str:
    """The id of one child."""
    return f"{group}-{index}"


def callback_id(group: str) -> str:
    """The id of the callback."""
    return f"{group}-callback"


def part_id(group: str, number: int) -> str:
    """The id of the message that has a worker store the children of one part."""
    return f"{group}-part-{number}"


def place(group: str, number: int) -> str:
    """The header `Task-Group` of a child by its index, and `Task-Part` of a part by its number."""
    return f"{group}:{number}"


def split_place(text: str) -> tuple[str, int]:
    """The id of the group and the number in a `place`.

    Raises:
        ValueError: It has another form.
    """
    group, colon, number = text.rpartition(":")
    if not (colon and group and number.isdecimal() and number.isascii()):
        raise ValueError(f"{text[:80]!r} is no <group>:<number>")
    return group, int(number)


def remaining_ttl(record: GroupRecord, keep: timedelta, now: datetime) -> str:
    """The `Nats-TTL` of a message of the group that is written now, to be kept so long after its time to live."""
    end = record.spawned + timedelta(seconds=record.ttl_seconds) + keep
    return f"{max(1, ceil((end - now).total_seconds()))}s"


def with_statuses(record: PartRecord, first: int, ended: Sequence[tuple[int, Status]]) -> PartRecord:
    """The part with further children ended; those that had ended before stay as they are.

    Args:
        first: The index of its first child in the group.
        ended: The index of each child in the group, and how it has ended.
    """
    letters = list(record.statuses or WAITING * len(record.children))
    for index, status in ended:
        if letters[index - first] == WAITING:
            letters[index - first] = LETTERS[status]
    return msgspec.structs.replace(record, statuses="".join(letters))
