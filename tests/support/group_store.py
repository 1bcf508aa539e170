"""A store of groups in memory, with the faults of a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from diracx.tasks.plumbing.clock import ServerClock, utc_now
from diracx.tasks.plumbing.exceptions import ServerError, ServerUnavailableError
from diracx.tasks.plumbing.groups.completions import GroupCompletions
from diracx.tasks.plumbing.groups.records import GroupRecord, OutcomesRecord, PartRecord, StoredOutcome
from diracx.tasks.plumbing.groups.store import Change, HeldCallback, Stored, UnreadableRecordError
from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from diracx.tasks.plumbing.wire.ending import Ending, Status
from diracx.tasks.plumbing.wire.failure import Failure

LARGEST = 4_000


@dataclass
class MemoryGroupStore:
    """Implements `GroupStore` for one group, `g`."""

    group: Stored[GroupRecord] | None = None
    parts: dict[int, Stored[PartRecord]] = field(default_factory=dict)
    callback: HeldCallback | None = None
    outcomes: dict[tuple[int, int], bytes] = field(default_factory=dict)
    largest: int = LARGEST
    sequence: int = 100
    releases: int = 0
    changes: list[Change] = field(default_factory=list)
    """What was stored."""
    tries: int = 0
    reads: int = 0
    before: Callable[[], ServerError | None] = lambda: None
    """Asked at each write and read: an error that is raised, and nothing is stored."""
    after: Callable[[], ServerError | None] = lambda: None
    """Asked after each write: an error that is raised although all is stored."""
    unreadable: set[int | None] = field(default_factory=set)
    """The numbers of parts that cannot be read; None is the group."""

    async def read_group(self, group: str) -> Stored[GroupRecord] | None:
        await self._answer(None)
        return self.group

    async def read_part(self, group: str, number: int) -> Stored[PartRecord] | None:
        await self._answer(number)
        return self.parts.get(number)

    async def read_callback(self, group: str) -> HeldCallback | None:
        await self._answer(-1)
        return self.callback

    async def read_outcomes(self, group: str, number: int) -> AsyncIterator[StoredOutcome]:
        await self._answer(number)
        for (part, _), body in self.outcomes.items():
            for each in msgspec.json.decode(body, type=OutcomesRecord).outcomes if part == number else ():
                yield each

    async def _answer(self, what: int | None) -> None:
        self.reads += 1
        await asyncio.sleep(0)
        if (error := self.before()) is not None:
            raise error
        if what in self.unreadable:
            raise UnreadableRecordError(f"record {what} cannot be read")

    async def write(self, change: Change) -> tuple[dict[int, int], int]:
        self.tries += 1
        await asyncio.sleep(0)
        if (error := self.before()) is not None:
            raise error
        self._compare(change)
        self.changes.append(change)
        sequences, closing = {}, 0
        for number, stored in change.parts.items():
            self.sequence += 1
            sequences[number] = self.sequence
            self.parts[number] = Stored(stored.record, self.sequence)
        for number, first, body in change.outcomes:
            assert len(body) <= self.largest
            assert (number, first) not in self.outcomes
            self.outcomes[number, first] = body
        if change.closing is not None:
            self.sequence += 1
            self.group, closing = Stored(change.closing.record, self.sequence), self.sequence
        if change.released is not None:
            self.callback, self.releases = None, self.releases + 1
        await asyncio.sleep(0)
        if (error := self.after()) is not None:
            raise error
        return sequences, closing

    def _compare(self, change: Change) -> None:
        found = [(self.parts.get(number), stored.sequence) for number, stored in change.parts.items()]
        if change.closing is not None:
            found.append((self.group, change.closing.sequence))  # type: ignore[arg-type]
        if change.released is not None:
            found.append((self.callback, change.released.sequence))  # type: ignore[arg-type]
        if any(at is None or at.sequence != expected for at, expected in found):
            raise RevisionConflictError("g")

    @property
    def letters(self) -> str:
        """The letters of all children."""
        return "".join(
            each.record.statuses or "." * len(each.record.children) for _, each in sorted(self.parts.items())
        )

    @property
    def stored_outcomes(self) -> dict[int, StoredOutcome]:
        """What is stored of outcomes, by index."""
        records = [msgspec.json.decode(body, type=OutcomesRecord) for body in self.outcomes.values()]
        return {each.index: each for record in records for each in record.outcomes}


def group_of(*sizes: int, age: timedelta = timedelta(0), ttl: timedelta = timedelta(days=1)) -> MemoryGroupStore:
    """A store with a group whose parts have these sizes.

    Args:
        age: How long ago it was spawned.
    """
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    record = GroupRecord(
        spawned=utc_now() - age,
        ttl_seconds=ttl.total_seconds(),
        children=sum(sizes),
        starts=tuple(starts),
        callback="test:After",
    )
    parts = {
        number: Stored(PartRecord(tasks=("test:Child",), queues=("normal.small",), children=(0,) * size), 10 + number)
        for number, size in enumerate(sizes)
    }
    return MemoryGroupStore(Stored(record, 1), parts, HeldCallback(2, "diracx.due.normal.small", {}, b"{}"))


def failing(*errors: ServerError | None) -> Callable[[], ServerError | None]:
    """For `before` and `after`: these errors, one after the other, then none."""
    left = list(errors)
    return lambda: left.pop(0) if left else None


def lost() -> ServerError:
    """No answer."""
    return ServerUnavailableError("no answer")


def sequences_of(changes: Sequence[Change]) -> list[int]:
    """How many children each change has ended, for a group of one part."""
    counts = [len(change.parts[0].record.children) - change.parts[0].record.waiting for change in changes]
    return [count - before for count, before in zip(counts, [0, *counts], strict=False)]


FAILURE = Failure("ValueError", "no", "Traceback...", "here", datetime(2026, 12, 1, tzinfo=UTC))


def ending(status: Status = Status.SUCCEEDED, value: Any = None) -> Ending:
    """The end of a child."""
    return Ending("id", "test:Child", status, value, None if status is Status.SUCCEEDED else FAILURE)


def completions_of(store: MemoryGroupStore, patience_seconds: float = 5) -> GroupCompletions:
    """The completions of one process."""
    return GroupCompletions(store, ServerClock(), patience_seconds=patience_seconds)
