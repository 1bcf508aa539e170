"""The outcomes of the children of a group, read from its records through the leader of the stream `later`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec

from diracx.tasks.plumbing.callbacks.outcomes import MISSING, ChildOutcome, GroupOutcomes, OutcomeCounts, counted
from diracx.tasks.plumbing.exceptions import UnretryableError, shown
from diracx.tasks.plumbing.groups.records import STATUSES, WAITING, GroupRecord, PartRecord, StoredOutcome, child_id
from diracx.tasks.plumbing.groups.store import PARALLEL_READS, GroupStore, UnreadableRecordError

T = TypeVar("T")


class StoredOutcomes:
    """Implements `OutcomesSource`. It keeps the part that was read last, so pages in order read each part once.

    It belongs to the event loop on which it was made. Other event loops may use it too: it hops across.
    """

    def __init__(self, group: str, store: GroupStore) -> None:
        self._group, self._store = group, store
        self._loop = asyncio.get_running_loop()
        self._latest: tuple[int, list[ChildOutcome]] = (-1, [])

    async def counts(self) -> OutcomeCounts:
        """See `OutcomesSource`."""
        return await self._on_own_loop(self._counts())

    async def page(self, first: int, limit: int) -> list[ChildOutcome]:
        """See `OutcomesSource`."""
        return await self._on_own_loop(self._page(first, limit))

    async def _on_own_loop(self, work: Coroutine[Any, Any, T]) -> T:
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _counts(self) -> OutcomeCounts:
        record = await self._record()
        letters: Counter[str] = Counter()
        for begin in range(0, len(record.starts), PARALLEL_READS):
            numbers = range(begin, min(begin + PARALLEL_READS, len(record.starts)))
            for part in await asyncio.gather(*(self._part(record, number) for number in numbers)):
                letters.update(part.statuses)
        return counted(record.children, Counter({STATUSES[each]: letters[each] for each in STATUSES}))

    async def _page(self, first: int, limit: int) -> list[ChildOutcome]:
        record = await self._record()
        end, found = min(first + limit, record.children), list[ChildOutcome]()
        while first < end:
            number = record.part_of(first)
            if self._latest[0] != number:
                self._latest = number, await self._outcomes_of(record, number)
            begin = record.starts[number]
            found += self._latest[1][first - begin : end - begin]
            first = begin + len(self._latest[1])
        return found

    async def _outcomes_of(self, record: GroupRecord, number: int) -> list[ChildOutcome]:
        begin, part = record.starts[number], await self._part(record, number)
        details = await self._details(number)
        statuses = part.statuses or WAITING * len(part.children)
        return [
            _outcome(child_id(self._group, index), part.tasks[task], letter, details.get(index) or StoredOutcome(index))
            for index, (task, letter) in enumerate(zip(part.children, statuses, strict=True), begin)
        ]

    async def _details(self, number: int) -> dict[int, StoredOutcome]:
        try:
            return {each.index: each async for each in self._store.read_outcomes(self._group, number)}
        except UnreadableRecordError as error:
            raise self._unusable(str(error)) from None

    async def _record(self) -> GroupRecord:
        try:
            stored = await self._store.read_group(self._group)
        except UnreadableRecordError as error:
            raise self._unusable(str(error)) from None
        if stored is None:
            raise self._unusable("its records are gone, since its time to live was over long ago")
        return stored.record

    async def _part(self, record: GroupRecord, number: int) -> PartRecord:
        try:
            stored = await self._store.read_part(self._group, number)
        except UnreadableRecordError as error:
            raise self._unusable(str(error)) from None
        if stored is None:
            raise self._unusable("they were kept for a day after its time to live")
        if len(stored.record.children) != record.children_of(number):
            raise self._unusable(f"its part {number} has not the children that it should have")
        return stored.record

    def _unusable(self, why: str) -> UnretryableError:
        return UnretryableError(f"the outcomes of the group {shown(self._group)} cannot be had: {why}")


def _outcome(id: str, task: str, letter: str, stored: StoredOutcome) -> ChildOutcome:  # noqa: A002
    value = None if stored.value is msgspec.UNSET else msgspec.json.decode(stored.value)
    status = STATUSES.get(letter, MISSING)
    return ChildOutcome(index=stored.index, id=id, task=task, status=status, value=value, error=stored.error)


def stored_outcomes(group: str, store: GroupStore) -> GroupOutcomes:
    """The outcomes of a group, for its callback that executes in this process."""
    return GroupOutcomes(group, StoredOutcomes(group, store))
