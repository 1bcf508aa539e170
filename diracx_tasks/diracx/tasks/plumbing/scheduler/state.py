"""What is remembered of one schedule, and what one occurrence of it is called."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from diracx.tasks.plumbing.wire.names import escape


@dataclass(frozen=True, slots=True, order=True)
class ScheduleKey:
    """One periodic task, or its instance for one VO."""

    task: str
    """`<category>:<ClassName>`."""
    vo: str = ""
    """Empty: the task knows nothing of VOs."""

    def __str__(self) -> str:
        return f"{self.task}@{escape(self.vo)}" if self.vo else self.task


class ScheduleState(msgspec.Struct, frozen=True, kw_only=True):
    """The body of the message on `<namespace>.state.<category>.<Task>[.<vo>]`: the latest one counts."""

    task: str
    vo: str = ""
    schedule: str
    """In words; other words are another schedule."""
    enabled: bool
    after: datetime
    """Decided up to here: what lies later was not published yet, or was taken back."""
    pending: tuple[datetime, ...] = ()
    """Occurrences that were published, rising. Those in the past have happened, and are forgotten after a while."""
    last: datetime | None = None
    """The latest occurrence that had happened when this was written."""
    cancelled: tuple[datetime, ...] = ()
    """Occurrences that were taken back: their schedules older than this message are to be purged."""
    ended: bool = False
    """The schedule has nothing after `pending`."""
    scheduler: str = ""
    """Who wrote it."""

    @property
    def key(self) -> ScheduleKey:
        """Whose state it is."""
        return ScheduleKey(self.task, self.vo)

    def latest_before(self, now: datetime) -> datetime | None:
        """The latest occurrence that has fallen due; None when there was none."""
        return max((due for due in (self.last, *self.pending) if due is not None and due <= now), default=None)

    def next_after(self, now: datetime) -> datetime | None:
        """The next occurrence that the server holds; None when it holds none."""
        return min((due for due in self.pending if due > now), default=None)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One time at which a periodic task runs."""

    due: datetime
    expires: datetime | None
    """When it gives way to the next one if nobody has begun it; None: never."""


def due_name(due: datetime) -> str:
    """A due time as a part of subjects and ids: `20261201T060000Z`, with microseconds only where there are some."""
    text = due.astimezone(UTC).strftime("%Y%m%dT%H%M%S")
    return f"{text}_{due.microsecond:06}Z" if due.microsecond else f"{text}Z"


def occurrence_id(key: ScheduleKey, due: datetime) -> str:
    """The id of the task that one occurrence is; the same whoever publishes it."""
    return f"{key}-{due_name(due)}"
