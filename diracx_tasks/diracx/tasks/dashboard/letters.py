"""The dead letters for the pages, of which there may be 100,000: a page holds a few rows and the counts of groups.

* Letters are read as a stream, from its end. What a page shows of each is cut to a row.
* A reading is kept until the stream changes, so that a page that is kept up costs one small request.
* Groups are counted over the last `MAX_GROUPED` messages, and say so if there are more. A page of the list goes
  through `MAX_SEARCHED` messages; if its filter lets few of them through, the next page goes on from there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from diracx.tasks.dashboard.actions import RefusedError
from diracx.tasks.dashboard.mesh import Mesh, Shared
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.dead_letters.grouping import Group, grouped
from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader, StreamSize
from diracx.tasks.plumbing.dead_letters.selection import Filter
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.wire.times import from_rfc3339, to_rfc3339

PAGE_ROWS: Final = 50
MAX_GROUPED: Final = 10_000
"""Messages of the stream, advisories included."""
MAX_SEARCHED: Final = 20_000
MAX_READINGS: Final = 20
"""The readings that are kept, each of one filter and page."""
MAX_REASON_CHARS: Final = 300
FILTER: Final = ("task", "error", "reason", "since")
"""The parameters of a filter."""
PERIODS: Final = {
    "": "ever",
    "1h": "the last hour",
    "6h": "the last 6 hours",
    "24h": "the last 24 hours",
    "7d": "the last 7 days",
}
"""What the form offers as `since`."""
_HOURS: Final = {"1h": 1, "6h": 6, "24h": 24, "7d": 168}


@dataclass(frozen=True, slots=True)
class Row:
    """What the list shows of one dead letter."""

    seq: int
    died: datetime
    task: str | None
    id: str | None
    attempts: int | None
    error: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of the list."""

    rows: list[Row]
    """The latest first."""
    older: int | None
    """Where the next page begins; None: there is none."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """The groups of the dead letters that a filter lets through."""

    groups: list[Group]
    """The largest first."""
    count: int
    complete: bool
    """Whether all dead letters were counted, not only those among the last messages of the stream."""


def filter_of(values: Mapping[str, str], now: datetime) -> Filter:
    """The filter that the values of a form make.

    Raises:
        RefusedError: `since` is neither one of `PERIODS` nor a time.
    """
    since, text = None, values.get("since", "")
    if text in _HOURS:
        # To the minute, so that a page that is kept up asks for the same again.
        since = now.replace(second=0, microsecond=0) - timedelta(hours=_HOURS[text])
    elif text:
        try:
            since = from_rfc3339(text)
        except ValueError:
            raise RefusedError(f"{shown(text)!r} is no time: write it as 2026-12-01T06:00:00Z") from None
    return Filter(values.get("task") or None, values.get("reason") or None, since, values.get("error") or None)


def values_of(filter_: Filter) -> list[tuple[str, str]]:
    """The values that make this filter again, whenever that is."""
    since = None if filter_.since is None else to_rfc3339(filter_.since)
    values = zip(FILTER, (filter_.task, filter_.error, filter_.reason, since), strict=True)
    return [(name, value) for name, value in values if value is not None]


class DeadLetterFacts:
    """Reads the dead letters of a mesh for all viewers."""

    def __init__(self, mesh: Mesh) -> None:
        self.reader = DeadLetterReader(mesh.connection, mesh.namespace)
        self._size = Shared[StreamSize | None](self.reader.size)
        self._kept: OrderedDict[object, tuple[StreamSize, Shared[Any]]] = OrderedDict()

    async def size(self) -> StreamSize | None:
        """How much the stream holds; None: it is missing."""
        return await self._size.get()

    async def listing(self, filter_: Filter, before: int | None) -> Listing:
        """One page of the list.

        Args:
            before: The sequence before which it begins; None: the latest.
        """

        async def read() -> Listing:
            most = MAX_SEARCHED if filter_.since is None else None  # else the time is the bound
            found = await self.reader.latest(
                PAGE_ROWS + 1, filter_.selects, since=filter_.stored_since, before=before, most=most
            )
            rows = [_row(each) for each in reversed(found)]
            if len(rows) > PAGE_ROWS:
                return Listing(rows[:PAGE_ROWS], rows[PAGE_ROWS - 1].seq)
            size = await self._size.get()
            if size is None or most is None:
                return Listing(rows, None)
            unread = min(size.last + 1, before or size.last + 1) - most
            return Listing(rows, unread if unread > size.first else None)

        return await self._reading(("rows", filter_, before), read) or Listing([], None)

    async def grouping(self, filter_: Filter) -> Grouping:
        """The groups by task and error."""

        async def read() -> Grouping:
            groups = await grouped(_selected(self.reader.newest(MAX_GROUPED), filter_), ("task", "error"))
            size = await self._size.get()
            complete = size is None or size.messages <= MAX_GROUPED
            return Grouping(groups, sum(group.count for group in groups), complete)

        return await self._reading(("groups", filter_), read) or Grouping([], 0, complete=True)

    async def _reading(self, key: object, read: Callable[[], Awaitable[Any]]) -> Any:
        """What was read since the stream changed, or a new reading; None: there is no stream."""
        size = await self._size.get()
        if size is None:
            return None
        kept = self._kept.get(key)
        if kept is None or kept[0] != size:
            kept = self._kept[key] = size, Shared(read, float("inf"))
            await self._drop_more_than(MAX_READINGS)
        self._kept.move_to_end(key)
        return await kept[1].get()

    async def _drop_more_than(self, most: int) -> None:
        while len(self._kept) > most:
            self._kept.popitem(last=False)

    def forget(self) -> None:
        """See `Facts`."""
        self._size.forget()

    async def end(self) -> None:
        """See `Facts`."""
        for reading in (self._size, *(kept for _, kept in self._kept.values())):
            await reading.end()


async def _selected(letters: AsyncIterator[DeadLetter], filter_: Filter) -> AsyncIterator[DeadLetter]:
    async for letter in letters:
        if filter_.selects(letter):
            yield letter


def _row(letter: DeadLetter) -> Row:
    reason = letter.reason if len(letter.reason) <= MAX_REASON_CHARS else f"{letter.reason[:MAX_REASON_CHARS]} …"
    return Row(
        seq=letter.seq,
        died=letter.died,
        task=letter.task,
        id=letter.id,
        attempts=letter.attempts,
        error=letter.error_type,
        reason=reason,
    )


def summed_by_task(counts: Iterable[tuple[str | None, int]], most: int = 5) -> str:
    """How many of which task, in words, the largest first: `40 of a:B, 2 of a:C and 3 of 2 further tasks`."""
    ranked = sorted(counts, key=lambda each: -each[1])
    named = [f"{count:,} of {shown(task or 'a task that is not known')}" for task, count in ranked[:most]]
    if rest := ranked[most:]:
        named.append(f"{sum(count for _, count in rest):,} of {len(rest):,} further tasks")
    return ", ".join(named[:-1]) + (" and " if len(named) > 1 else "") + named[-1] if named else "none"
