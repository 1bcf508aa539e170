"""Two schedulers that both believe they lead, in thousands of interleavings, with a simulated server and clocks.

A scheduler is a coroutine that stops at each call of the store, where a driver resumes it, fails it or kills it.
Nothing waits, and only the seed is random, so an interleaving that fails can be repeated.
"""

from __future__ import annotations

import random
import types
from collections import Counter
from collections.abc import Coroutine, Generator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.locks import RevisionConflictError
from diracx.tasks.plumbing.scheduler.instances import Instance
from diracx.tasks.plumbing.scheduler.planning import Rule
from diracx.tasks.plumbing.scheduler.reconciler import Change, ScheduleReconciler, StoredState
from diracx.tasks.plumbing.scheduler.state import ScheduleKey
from diracx.tasks.plumbing.schedules import IntervalSeconds, TaskScheduleBase

START = datetime(2026, 12, 1, 12, 0, 0, 500_000, tzinfo=UTC)
HORIZON = timedelta(seconds=30)
LONGEST_ABSENCE = timedelta(seconds=12)
"""The takeover: after it, one scheduler completes its rounds undisturbed."""


def instance(
    name: str,
    seconds: float,
    *,
    enabled: bool = True,
    entry: str = "",
    arguments: bytes = b"",
    removed: bool = False,
    schedule: TaskScheduleBase | None = None,
) -> Instance:
    rule = Rule(schedule or IntervalSeconds(seconds), enabled, arguments)
    body = arguments or b"{}"
    return Instance(ScheduleKey(name, "", entry), rule, Priority.NORMAL, Size.SMALL, body, removed=removed)


@types.coroutine
def stopped() -> Generator[None, None, None]:
    """A point where the driver decides how the scheduler continues."""
    yield


class Server:
    """Stores states and schedules as JetStream does, and publishes due occurrences by its own clock."""

    def __init__(self) -> None:
        self.clock = START
        self.states: dict[ScheduleKey, StoredState] = {}
        self.schedules: dict[tuple[ScheduleKey, datetime], int] = {}
        self.bodies: dict[tuple[ScheduleKey, datetime], bytes] = {}
        self.happened: Counter[tuple[ScheduleKey, datetime]] = Counter()
        self._sequence = 0

    def pass_time(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)
        for key, due in [each for each in self.schedules if each[1] <= self.clock]:
            del self.schedules[key, due]
            self.happened[key, due] += 1

    async def read(self, keys: Sequence[ScheduleKey]) -> dict[ScheduleKey, StoredState]:
        await stopped()
        found = {key: self.states[key] for key in keys if key in self.states}
        await stopped()
        return found

    async def read_all(self) -> dict[ScheduleKey, StoredState]:
        return await self.read(list(self.states))

    def unreadable(self, key: ScheduleKey) -> bool:
        return False

    async def write(self, changes: Sequence[Change]) -> list[int]:
        await stopped()
        revisions = self._store(changes)
        await stopped()
        return revisions

    def _store(self, changes: Sequence[Change]) -> list[int]:
        for change in changes:
            stored = self.states.get(change.instance.key)
            if change.revision != (0 if stored is None else stored.revision):
                raise RevisionConflictError(str(change.instance.key))
            for each in change.occurrences:
                if each.replaces is not None and self.schedules.get((change.instance.key, each.due)) != each.replaces:
                    raise RevisionConflictError(str(change.instance.key))
        revisions = []
        for change in changes:
            self._sequence += 1
            revisions.append(self._sequence)
            self.states[change.instance.key] = StoredState(change.plan.state, self._sequence)
            for occurrence in change.occurrences:
                self._sequence += 1
                self.schedules[change.instance.key, occurrence.due] = self._sequence
                self.bodies[change.instance.key, occurrence.due] = change.instance.body
        self.pass_time(0)
        return revisions

    async def held(self, key: ScheduleKey, dues: Sequence[datetime]) -> dict[datetime, int]:
        await stopped()
        found = {due: self.schedules[key, due] for due in dues if (key, due) in self.schedules}
        await stopped()
        return found

    async def remove(self, key: ScheduleKey, revision: int) -> None:
        await stopped()
        if (stored := self.states.get(key)) is not None and stored.revision <= revision:
            del self.states[key]
        await stopped()

    async def withdraw(self, key: ScheduleKey, dues: Sequence[datetime], before: int) -> None:
        for due in dues:
            await stopped()
            if self.schedules.get((key, due), before) < before:
                del self.schedules[key, due]
        await stopped()


class Scheduler:
    """One scheduler with a clock that is off, and its unfinished round."""

    def __init__(self, server: Server, name: str) -> None:
        self._server = server
        self.name = name
        self.offset = timedelta(0)
        self.instances: list[Instance] = []
        self.start()

    def start(self) -> None:
        """Start as a new process."""
        self._reconciler = ScheduleReconciler(
            self._server, HORIZON, self.name, lambda: self._server.clock + self.offset
        )
        self._loaded = False
        self._round: Coroutine[Any, Any, Any] | None = None

    def kill(self) -> None:
        if self._round is not None:
            self._round.close()
        self.start()

    async def _one_round(self) -> None:
        if not self._loaded:
            await self._reconciler.load()
            self._loaded = True
        await self._reconciler.advance(self._reconciler.due(self.instances))

    def step(self, error: Exception | None = None) -> bool:
        """Continue to the next call of the store; True at the end of a round, however it ended."""
        if self._round is None:
            self._round = self._one_round()
            error = None
        try:
            self._round.send(None) if error is None else self._round.throw(error)
        except (StopIteration, RevisionConflictError, ServerUnavailableError):
            self._round = None
            return True
        return False

    def get_through(self) -> None:
        """Run whole rounds until everything is supplied."""
        for _ in range(3):
            while not self.step():
                pass


class Interleaving:
    """One run of two schedulers by one seed."""

    def __init__(self, seed: int, intervals: Sequence[float]) -> None:
        self.random = random.Random(seed)
        self.server = Server()
        self.both = [Scheduler(self.server, "one"), Scheduler(self.server, "two")]
        self.instances = [instance(f"c:T{number}", seconds) for number, seconds in enumerate(intervals)]
        self.configure(self.instances)
        self.both[0].get_through()
        self.supplied_at = self.server.clock

    def configure(self, instances: list[Instance]) -> None:
        for scheduler in self.both:
            scheduler.instances = instances

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.act()
            if self.server.clock - self.supplied_at > LONGEST_ABSENCE:
                self.random.choice(self.both).get_through()
                self.supplied_at = self.server.clock

    def act(self) -> None:
        scheduler = self.random.choice(self.both)
        chance = self.random.random()
        if chance < 0.70:
            scheduler.step()
        elif chance < 0.78:
            scheduler.step(ServerUnavailableError("no answer"))
        elif chance < 0.83:
            scheduler.kill()
        elif chance < 0.88:
            scheduler.offset = timedelta(seconds=self.random.uniform(-2.5, 2.5))
        else:
            self.server.pass_time(self.random.choice([0.1, 1, 4]))

    def doubled(self) -> list[tuple[ScheduleKey, datetime]]:
        return [occurrence for occurrence, times in self.server.happened.items() if times > 1]

    def missing(self) -> list[tuple[ScheduleKey, datetime]]:
        """The occurrences since the beginning that should have happened and did not."""
        lost = []
        for each in self.instances:
            due = each.rule.schedule.next_occurrence(START)
            while due <= self.server.clock:
                if not self.server.happened[each.key, due]:
                    lost.append((each.key, due))
                due = each.rule.schedule.next_occurrence(due)
        return lost
