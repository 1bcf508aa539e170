"""Replay and purge dead letters: those that were ticked, or all that a filter lets through.

The number is counted for the confirmation page, which also fixes where the stream ends: what dies later is not touched.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar, Final
from urllib.parse import urlencode

from diracx.tasks.dashboard.actions import Job, Plan, RefusedError, Values
from diracx.tasks.dashboard.letters import DeadLetterFacts, filter_of, summed_by_task, values_of
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.pages.dead_letters import sequence_of
from diracx.tasks.dashboard.words import plural
from diracx.tasks.plumbing.dead_letters.bulk import purge_selected, replay_selected
from diracx.tasks.plumbing.dead_letters.reader import Selects
from diracx.tasks.plumbing.dead_letters.replay import NotReplayableError
from diracx.tasks.plumbing.dead_letters.selection import Filter, Selection

MAX_TICKED: Final = 1_000
MAX_NOTES: Final = 10
"""So many of those that were left out are named."""
_READ_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The dead letters that an operator means."""

    selection: Selection
    filter_: Filter
    values: list[tuple[str, str]]
    """What names them again."""

    @property
    def back(self) -> str:
        """The list from which they were chosen."""
        text = urlencode(values_of(self.filter_))
        return f"/dead-letters?{text}" if text else "/dead-letters"


def _chosen(mesh: Mesh, values: Values) -> _Chosen:
    """Read what a form names.

    Raises:
        RefusedError: Nothing is named, or something that is no dead letter.
    """
    filter_ = filter_of(values, mesh.connection.clock.now())
    texts = values.getlist("seq")
    if len(texts) > MAX_TICKED:
        raise RefusedError(f"that are more than {MAX_TICKED:,} dead letters: use a filter")
    seqs = [seq for text in texts if (seq := sequence_of(text))]
    if len(seqs) < len(texts):
        raise RefusedError("a dead letter is named by its sequence, a number")
    if seqs:
        return _Chosen(Selection(seqs, filter_), filter_, [("seq", str(seq)) for seq in seqs])
    # Beside the boxes stands the filter of the list: without a tick it must not mean all that it lets through.
    if values.get("ticked") or (not filter_ and values.get("everything") != "1"):
        raise RefusedError("no dead letter is chosen: tick some of them first")
    return _Chosen(Selection((), filter_), filter_, values_of(filter_) or [("everything", "1")])


@dataclass(slots=True)
class _Count:
    """What the confirmation page tells of the chosen ones."""

    of_tasks: Counter[str | None] = field(default_factory=Counter)
    missing: list[int] = field(default_factory=list)
    last: int = 0


async def _count(mesh: Mesh, chosen: _Chosen) -> _Count:
    reader = mesh.facts(DeadLetterFacts).reader
    size, found = await reader.size(), _Count()
    if size is None:
        raise RefusedError(f"there is no stream {mesh.namespace.dead_letters_stream}: diracx-task-run setup creates it")
    found.last = size.last
    if not chosen.selection.seqs:
        async for letter in reader.newest(size.last - size.first + 1):
            if letter.seq <= size.last and chosen.selection.selects(letter):
                found.of_tasks[letter.task] += 1
        return found
    room = asyncio.Semaphore(_READ_AT_ONCE)

    async def read(seq: int) -> None:
        async with room:
            letter = await reader.get(seq)
        if letter is None:
            found.missing.append(seq)
        else:
            found.of_tasks[letter.task] += 1

    await asyncio.gather(*map(read, chosen.selection.seqs))
    return found


class LetterAction(ABC):
    """An action on dead letters. The values are `seq`, any number of times, or those of a filter, or `everything`."""

    name: str
    verb: ClassVar[str]
    done: ClassVar[str]
    dangerous: ClassVar[bool]

    @abstractmethod
    def sentences(self, count: int, tasks: str) -> list[str]:
        """What will happen to so many of these tasks."""

    @abstractmethod
    async def work(self, mesh: Mesh, selects: Selects, last: int, job: Job) -> str:
        """Do it for all that are selected up to a sequence; returns what else is to be said."""

    async def plan(self, mesh: Mesh, values: Values) -> Plan:
        """See `Action.plan`."""
        chosen = _chosen(mesh, values)
        if (total := sequence_of(values.get("total", ""))) is not None and values.get("last"):
            # It was counted for the confirmation page.
            counted = [("total", str(total)), ("last", values.get("last", ""))]
            return self._plan(chosen, total, [], counted)
        count = await _count(mesh, chosen)
        if not (total := count.of_tasks.total()):
            raise RefusedError(f"there is no such dead letter{'' if chosen.selection.seqs else chosen.filter_}")
        sentences = self.sentences(total, summed_by_task(count.of_tasks.items()))
        if count.missing:
            gone = ", ".join(map(str, sorted(count.missing)[:MAX_NOTES]))
            sentences.append(f"{plural(len(count.missing), 'other')} of them: gone meanwhile ({gone}).")
        return self._plan(chosen, total, sentences, [("total", str(total)), ("last", str(count.last))])

    def _plan(self, chosen: _Chosen, total: int, sentences: list[str], counted: list[tuple[str, str]]) -> Plan:
        what = plural(total, "dead letter")
        return Plan(
            title=f"{self.verb} {what}{'' if chosen.selection.seqs else chosen.filter_}",
            sentences=sentences,
            button=f"{self.verb} {what}",
            back=chosen.back,
            values=[*chosen.values, *counted],
            dangerous=self.dangerous,
        )

    async def carry_out(self, mesh: Mesh, values: Values, job: Job) -> str:
        """See `Action.carry_out`."""
        chosen = _chosen(mesh, values)
        job.total, last = sequence_of(values.get("total", "")) or 0, sequence_of(values.get("last", ""))
        if last is None:
            raise RefusedError("the form does not say up to which dead letter: begin again on the list")
        more = await self.work(mesh, chosen.selection.selects, last, job)
        return f"{self.done} {plural(job.done, 'dead letter')}{more}"


class ReplayLetters(LetterAction):
    """Puts dead tasks back into their queues."""

    name = "replay"
    verb = "Replay"
    done = "replayed"
    dangerous = False

    def sentences(self, count: int, tasks: str) -> list[str]:
        """See `LetterAction`."""
        go = plural(count, "dead task goes", "dead tasks go")
        return [
            f"{go} back into the queue with all retries, to run as soon as a worker is free: {tasks}.",
            "Each keeps its id and is enqueued once, also if this is broken off midway: replay again for the rest.",
            "A task whose message is gone is left out, and named.",
        ]

    async def work(self, mesh: Mesh, selects: Selects, last: int, job: Job) -> str:
        """See `LetterAction`."""
        left_out = 0

        def on_done(error: NotReplayableError | None = None) -> None:
            nonlocal left_out
            if error is None:
                job.done += 1
                return
            left_out += 1
            if left_out <= MAX_NOTES:
                job.notes.append(str(error))

        finished = await replay_selected(mesh.connection, mesh.namespace, selects, last=last, on_done=on_done)
        said = f", and finished {plural(len(finished), 'one', 'ones')} of a run that was cut off" if finished else ""
        return said + (f"; {plural(left_out, 'was', 'were')} left out" if left_out else "")


class PurgeLetters(LetterAction):
    """Removes dead letters for good."""

    name = "purge"
    verb = "Purge"
    done = "purged"
    dangerous = True

    def sentences(self, count: int, tasks: str) -> list[str]:
        """See `LetterAction`."""
        are = plural(count, "dead letter is", "dead letters are")
        return [
            f"{are} removed for good, with arguments and errors: {tasks}.",
            "Nothing brings them back.",
            "A message that is still in its queue, though the server will never deliver it again, is removed as well.",
        ]

    async def work(self, mesh: Mesh, selects: Selects, last: int, job: Job) -> str:
        """See `LetterAction`."""

        def on_done(_: object = None) -> None:
            job.done += 1

        await purge_selected(mesh.connection, mesh.namespace, selects, last=last, on_done=on_done)
        return ""
