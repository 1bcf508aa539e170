"""The stored state of one schedule, and the names of its occurrences."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from diracx.tasks.plumbing.wire.names import escape, escape_entry
from diracx.tasks.plumbing.wire.occurrence import due_name


@dataclass(frozen=True, slots=True, order=True)
class ScheduleKey:
    """One periodic task, one VO of a VO-aware one, or one entry of either."""

    task: str
    """`<category>:<ClassName>`."""
    vo: str = ""
    """Empty if the task is not VO-aware."""
    entry: str = ""
    """The name of the entry; empty if the configuration has no entries, and for the entry without a name."""

    def __str__(self) -> str:
        vo = f"@{escape(self.vo)}" if self.vo else ""
        return f"{self.task}{vo}{escape_entry(self.entry) if self.entry else ''}"


class ScheduleState(msgspec.Struct, frozen=True, kw_only=True):
    """The body of the latest message on `<namespace>.state.<category>.<Task>[.<vo>][.+<entry>]`.

    All times are aware. The fields, in this order, are the JSON on the wire; those that are unset are left out.
    """

    task: str
    vo: str = ""
    entry: str | msgspec.UnsetType = msgspec.UNSET
    """Unset if the entry has no name, or if there are no entries."""
    args: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """The arguments that every occurrence in `pending` has, except those that had fallen due when they changed. Unset:
    none."""
    schedule: str
    """The schedule in words. If the words change, the schedule has changed."""
    enabled: bool
    after: datetime
    """Every occurrence up to this time was decided. Later ones were not published yet, or were withdrawn."""
    pending: tuple[datetime, ...] = ()
    """Published occurrences, ascending. Those in the past have happened, and are dropped after a while."""
    last: datetime | None = None
    """The latest occurrence that had happened when this state was written."""
    cancelled: tuple[datetime, ...] = ()
    """Withdrawn occurrences: their schedules are to be purged if they are older than this message."""
    ended: bool = False
    """Whether the schedule has no occurrence after `pending`."""
    scheduler: str = ""
    """The id of the scheduler that wrote this state."""

    @property
    def key(self) -> ScheduleKey:
        """The schedule that this state belongs to."""
        return ScheduleKey(self.task, self.vo, self.entry or "")

    @property
    def arguments(self) -> bytes:
        """The arguments as JSON; empty: none."""
        return bytes(self.args) if self.args else b""

    def latest_before(self, now: datetime) -> datetime | None:
        """The latest occurrence that has fallen due; None if there was none."""
        return max((due for due in (self.last, *self.pending) if due is not None and due <= now), default=None)

    def next_after(self, now: datetime) -> datetime | None:
        """The next occurrence that the server holds; None if it holds none."""
        return min((due for due in self.pending if due > now), default=None)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One time at which a periodic task runs."""

    due: datetime
    expires: datetime | None
    """When the occurrence is dropped in favour of the next one if it is not done; None: never."""
    replaces: int | None = None
    """The sequence of the held message that it replaces, which the server must still hold; None: it replaces none."""


def occurrence_id(key: ScheduleKey, due: datetime) -> str:
    """The task id of one occurrence. It is the same whichever scheduler publishes it."""
    return f"{key}-{due_name(due)}"
