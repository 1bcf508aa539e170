"""The completions of the children of groups, merged within one process.

Many children of a group end at about the same time, and each has a letter in the record of its part. Within a process
the children that end while the record is being written go together into the next write (group commit); there is no
timer. Among processes the compare-and-set on the sequence of the record decides. Who loses reads again after a pause
that grows, while more of its own children join.

    record() -> waiting -> one write at a time for each group -> stored -> record() returns, the message is settled

Invariants:

- A letter that is set stays. So a child that is delivered again, replayed or late changes nothing.
- The write that sets the last letter of a part also notes it in the record of the group. The one that ends the last
  part releases the callback: all in one atomic batch, or nothing. The callback is released by compare-and-set on the
  sequence at which it is held, so it runs once, whether it is released here or falls due by itself.
- `record` returns when the letter is stored, and the callback released if that child was the last. Until then the
  message of the child is not settled.

Crash points:

    before the write                 nothing is stored; the message of the child is delivered again
    write stored, answer lost        read again: the letters tell that it was stored
    stored, message not settled      the child may execute once more; its letter stays as it is
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Generic, TypeVar

import msgspec

from diracx.tasks.plumbing.clock import ServerClock, boottime
from diracx.tasks.plumbing.exceptions import ServerUnavailableError, shown
from diracx.tasks.plumbing.groups.outcome_records import outcome_of, outcomes_records
from diracx.tasks.plumbing.groups.records import (
    WAITING,
    Ended,
    GroupRecord,
    PartRecord,
    split_place,
    with_statuses,
)
from diracx.tasks.plumbing.groups.store import Change, GroupStore, HeldCallback, Stored, UnreadableRecordError
from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from diracx.tasks.plumbing.wire.ending import Ending, Status

K = TypeVar("K")
V = TypeVar("V")

logger = logging.getLogger("diracx.tasks.worker")

MAX_KNOWN: Final = 256
"""How many records of groups, and of parts, a process keeps; the latter have about 10 kB each."""
MAX_MERGED: Final = 400
"""How many completions one write has at the most: each may have a message of its own in the batch."""
MAX_MERGED_BYTES: Final = 8 * 1024 * 1024
"""How large the values and errors in one write are, but for a single one."""
MAX_NOTED: Final = 1_000

CLOCK_TOLERANCE: Final = timedelta(seconds=1)

FIRST_PAUSE_SECONDS: Final = 0.004
LONGEST_PAUSE_SECONDS: Final = 0.5
UNANSWERED_PAUSE_SECONDS: Final = 0.2
PATIENCE_SECONDS: Final = 12.0
"""How long a write is tried again without an answer. While a message is settled it has no heartbeats, and its lease has
20 s left at that time."""


class _Completion(asyncio.Future[None]):
    """The end of one child, on its way to the store; done when it is stored.

    No cancellation of its waiter reaches it. The waiter gets the `CancelledError` when it is done.
    """

    __slots__ = ("index", "outcome", "status")

    index: int
    status: Status
    outcome: bytes | None
    """The JSON of its `StoredOutcome`; None: its letter tells all."""

    def cancel(self, msg: object = None) -> bool:
        return False


class _Latest(Generic[K, V]):
    """A dictionary that forgets what was put in first when it is full."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        self._values.pop(key, None)
        self._values[key] = value
        if len(self._values) > self._most:
            del self._values[next(iter(self._values))]

    def forget(self, key: K) -> None:
        self._values.pop(key, None)


@dataclass(slots=True, eq=False)
class _Writer:
    """The asyncio task that writes the completions of one group, while there are any."""

    waiting: list[_Completion] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    def take(self, beside: Sequence[_Completion] = ()) -> list[_Completion]:
        """What goes with the next write, beside these."""
        size, taken = sum(len(each.outcome or b"") for each in beside), list[_Completion]()
        for each in self.waiting[: MAX_MERGED - len(beside)]:
            size += len(each.outcome or b"")
            if (taken or beside) and size > MAX_MERGED_BYTES:
                break
            taken.append(each)
        del self.waiting[: len(taken)]
        return taken


class GroupCompletions:
    """Records the completions of one worker process.

    Args:
        clock: Tells whether the time to live of a group is over.
        patience_seconds: See `PATIENCE_SECONDS`.
    """

    def __init__(self, store: GroupStore, clock: ServerClock, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._store, self._clock, self._patience = store, clock, patience_seconds
        self._writers: dict[str, _Writer] = {}
        self._groups: _Latest[str, Stored[GroupRecord]] = _Latest(MAX_KNOWN)
        self._parts: _Latest[tuple[str, int], Stored[PartRecord]] = _Latest(MAX_KNOWN)
        self._noted: _Latest[str, bool] = _Latest(MAX_NOTED)
        """The groups of which the log has said that they take no completion."""

    async def record(self, place: str, ending: Ending, *, keeps_value: bool) -> None:
        """Record that a child has ended, and return once that is stored. The first record of a child stays.

        No cancellation breaks it off: it is ignored, since it comes from code that must not cancel this. If the event
        loop ends, the cancellation is raised.

        A completion that nothing can take is logged, once for each group: the group has expired, its record cannot be
        read, or the child is none of it. The message can be settled then, since another execution would not help.

        Args:
            place: The header `Task-Group` of the child, `<id of the group>:<index>`.
            keeps_value: Whether the value is kept for the callback.

        Raises:
            ServerError: It was not stored.
        """
        try:
            group, index = split_place(place)
        except ValueError as error:
            logger.warning("%s has ended, and is counted in no group: %s", ending.task, error)
            return
        completion = _Completion()
        completion.index, completion.status, completion.outcome = index, ending.status, None
        if ending.error is not None or (keeps_value and ending.value is not None):
            completion.outcome = outcome_of(index, ending, self._store.largest)
        if (writer := self._writers.get(group)) is None:
            writer = self._writers[group] = _Writer()
            writer.task = asyncio.create_task(self._write_all(group, writer), name=f"completions of {shown(group)}")
        writer.waiting.append(completion)
        try:
            await completion
        except asyncio.CancelledError:
            completion.result()

    async def _write_all(self, group: str, writer: _Writer) -> None:
        taken: list[_Completion] = []
        try:
            while taken := writer.take():
                await self._write(group, writer, taken)
                # One turn of the loop, in which children that are about to end catch the next write.
                await asyncio.sleep(0)
        finally:
            del self._writers[group]
            _end([*taken, *writer.waiting], asyncio.CancelledError())  # there are none, unless the event loop ends

    async def _write(self, group: str, writer: _Writer, taken: list[_Completion]) -> None:
        """Store these completions, and those that join while others write."""
        conflicts, began = 0, boottime()
        while True:
            try:
                await self._store_together(group, taken)
            except RevisionConflictError:
                conflicts += 1
                pause = min(FIRST_PAUSE_SECONDS * 2**conflicts, LONGEST_PAUSE_SECONDS)
            except ServerUnavailableError as error:
                if boottime() - began >= self._patience:
                    _end(taken, error)
                    return
                pause = UNANSWERED_PAUSE_SECONDS
            except Exception as error:
                _end(taken, error)
                return
            else:
                _end(taken)
                return
            self._forget(group, taken)
            await asyncio.sleep(random.uniform(0, pause))
            taken += writer.take(taken)

    async def _store_together(self, group: str, taken: Iterable[_Completion]) -> None:
        try:
            change = await self._change(group, taken)
        except UnreadableRecordError as error:
            self._note_unreadable(group, error)
            return
        if change is None:
            return
        sequences, sequence = await self._store.write(change)
        for number, at in sequences.items():
            self._parts.put((group, number), Stored(change.parts[number].record, at))
        if change.closing is not None:
            self._groups.put(group, Stored(change.closing.record, sequence))
            _log_end(group, change.closing.record)

    async def _change(self, group: str, taken: Iterable[_Completion]) -> Change | None:
        """What these completions change; None: nothing."""
        known = self._groups.get(group) or await self._store.read_group(group)
        if known is None:
            self._note_gone(group)
            return None
        self._groups.put(group, known)
        change = Change(group, known.record)
        complete = set()
        for number, completions in self._by_part(group, known.record, taken).items():
            part = await self._part(group, known.record, number)
            if part is None:
                continue
            changed = self._with_completions(change, number, part.record, completions)
            if changed is not part.record:
                change.parts[number] = Stored(changed, part.sequence)
            if not changed.waiting:
                complete.add(number)
        if complete:
            await self._close(change, known, complete)
        return change if change.parts or change.closing else None

    def _by_part(self, group: str, record: GroupRecord, taken: Iterable[_Completion]) -> dict[int, list[_Completion]]:
        parts: dict[int, list[_Completion]] = {}
        for each in taken:
            if each.index < record.children:
                parts.setdefault(record.part_of(each.index), []).append(each)
            else:
                self._note(
                    logging.WARNING, group, f"has {record.children} children, and none with the index {each.index}"
                )
        return parts

    async def _part(self, group: str, record: GroupRecord, number: int) -> Stored[PartRecord] | None:
        if (part := self._parts.get((group, number))) is not None:
            return part
        try:
            part = await self._store.read_part(group, number)
            if part is None:
                self._note_gone(group)
                return None
            if len(part.record.children) != record.children_of(number):
                raise UnreadableRecordError(f"its part {number} has not the children that it should have")
        except UnreadableRecordError as error:
            self._note_unreadable(group, error)
            return None
        self._parts.put((group, number), part)
        return part

    def _with_completions(
        self, change: Change, number: int, record: PartRecord, completions: Iterable[_Completion]
    ) -> PartRecord:
        """The part with what is new among these completions, whose outcomes go into the change."""
        first = change.group.starts[number]
        new: dict[int, _Completion] = {}
        for each in completions:
            if not record.statuses or record.statuses[each.index - first] == WAITING:
                new.setdefault(each.index, each)
        if not new:
            return record
        if outcomes := sorted((each.index, each.outcome) for each in new.values() if each.outcome is not None):
            change.outcomes += outcomes_records(number, outcomes, self._store.largest)
        # A child that has ended was stored, and so was the whole part.
        return with_statuses(record.as_stored(), first, [(each.index, each.status) for each in new.values()])

    async def _close(self, change: Change, known: Stored[GroupRecord], complete: set[int]) -> None:
        """Note the parts that have ended in the record of the group. If they are the last, release the callback."""
        record = known.record
        if record.ended is not None:
            return
        if len(record.starts) > 1:
            if complete.issubset(record.ended_parts) and len(record.ended_parts) < len(record.starts):
                return
            fresh = await self._store.read_group(change.id)  # others may have ended parts since
            if fresh is None or fresh.record.ended is not None:
                return
            known, record = fresh, fresh.record
        ended = tuple(sorted({*record.ended_parts, *complete}))
        closing = msgspec.structs.replace(record, ended_parts=ended)
        if len(ended) == len(record.starts):
            change.released = await self._store.read_callback(change.id)
            reason = self._why_ended(record, change.released)
            closing = msgspec.structs.replace(closing, ended=reason, ended_at=self._clock.now())
        elif ended == record.ended_parts:
            return
        change.closing = Stored(closing, known.sequence)

    def _why_ended(self, record: GroupRecord, held: HeldCallback | None) -> Ended:
        if held is not None:
            return Ended.COMPLETE
        due = record.spawned + timedelta(seconds=record.ttl_seconds)
        return Ended.EXPIRED if self._clock.now() >= due - CLOCK_TOLERANCE else Ended.CANCELLED

    def _forget(self, group: str, taken: Iterable[_Completion]) -> None:
        """Forget what may have changed."""
        if (known := self._groups.get(group)) is not None:
            self._groups.forget(group)
            for each in taken:
                self._parts.forget((group, known.record.part_of(each.index)))

    def _note_gone(self, group: str) -> None:
        self._note(logging.INFO, group, "is over, and its records are gone: further completions change nothing")

    def _note_unreadable(self, group: str, error: UnreadableRecordError) -> None:
        text = (
            f"does not count all completions: {error}; its callback runs at the end of the time to live, without them. "
            "A newer version may have written the record: update this one"
        )
        self._note(logging.ERROR, group, text)

    def _note(self, level: int, group: str, text: str) -> None:
        if not self._noted.get(group):
            self._noted.put(group, True)
            logger.log(level, "the group %s %s", shown(group), text)


def _end(completions: Iterable[_Completion], error: BaseException | None = None) -> None:
    for each in completions:
        if each.done():
            continue
        if error is None:
            each.set_result(None)
        else:
            each.set_exception(error)


def _log_end(group: str, record: GroupRecord) -> None:
    match record.ended:
        case Ended.COMPLETE:
            logger.debug("the group %s has ended, and its callback %s follows", shown(group), record.callback)
        case Ended.EXPIRED:
            logger.info("the last child of the group %s has ended after its callback %s", shown(group), record.callback)
        case Ended.CANCELLED:
            text = "the group %s has ended; its callback %s was withdrawn, and does not run"
            logger.info(text, shown(group), record.callback)
