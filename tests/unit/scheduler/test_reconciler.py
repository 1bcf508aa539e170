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

import pytest

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.locks import RevisionConflictError
from diracx.tasks.plumbing.scheduler.instances import Instance
from diracx.tasks.plumbing.scheduler.planning import Rule
from diracx.tasks.plumbing.scheduler.reconciler import Change, ScheduleReconciler, StoredState
from diracx.tasks.plumbing.scheduler.state import ScheduleKey
from diracx.tasks.plumbing.schedules import IntervalSeconds

START = datetime(2026, 12, 1, 12, 0, 0, 500_000, tzinfo=UTC)
HORIZON = timedelta(seconds=30)
LONGEST_ABSENCE = timedelta(seconds=12)
"""The takeover: after it, one scheduler completes its rounds undisturbed."""


def instance(name: str, seconds: float, *, enabled: bool = True) -> Instance:
    return Instance(ScheduleKey(name), Rule(IntervalSeconds(seconds), enabled), Priority.NORMAL, Size.SMALL, b"{}")


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
        revisions = []
        for change in changes:
            self._sequence += 1
            revisions.append(self._sequence)
            self.states[change.instance.key] = StoredState(change.plan.state, self._sequence)
            for occurrence in change.occurrences:
                self._sequence += 1
                self.schedules[change.instance.key, occurrence.due] = self._sequence
        self.pass_time(0)
        return revisions

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


@pytest.mark.parametrize("part", range(4))
def test_two_schedulers_lose_and_double_nothing_in_any_interleaving(part: int) -> None:
    happened = 0
    for seed in range(part * 1_000, (part + 1) * 1_000):
        run = Interleaving(seed, intervals=(3, 10, 47))
        run.run(steps=100)
        assert not run.doubled(), f"seed {seed}"
        assert not run.missing(), f"seed {seed}"
        happened += run.server.happened.total()
    assert happened > 5_000, "the interleavings are too tame"


@pytest.mark.parametrize("part", range(2))
def test_changing_rules_double_nothing_in_any_interleaving(part: int) -> None:
    for seed in range(part * 1_000, (part + 1) * 1_000):
        run = Interleaving(seed, intervals=(3, 10))
        for _ in range(6):
            run.run(steps=20)
            seconds, enabled = run.random.choice([3, 5, 10, 30]), run.random.random() < 0.7
            run.configure([instance("c:T0", seconds, enabled=enabled), run.instances[1]])
        assert not run.doubled(), f"seed {seed}"
        assert not [key for key, due in run.missing() if key.task == "c:T1"], f"seed {seed}"


def test_a_disabled_schedule_is_silent_once_both_know_of_it() -> None:
    for seed in range(300):
        run = Interleaving(seed, intervals=(3,))
        run.run(steps=40)
        run.configure([instance("c:T0", 3, enabled=False)])
        for scheduler in run.both:
            scheduler.offset = timedelta(0)
            scheduler.kill()
            scheduler.get_through()
        before = run.server.happened.total()
        run.server.pass_time(300)
        assert run.server.happened.total() == before, f"seed {seed}"


def test_a_scheduler_whose_write_was_refused_reads_again_and_continues() -> None:
    run = Interleaving(0, intervals=(10,))
    one, two = run.both
    two.get_through()
    run.server.pass_time(20)
    one.get_through()
    run.server.pass_time(20)
    two.get_through()
    run.server.pass_time(45)
    assert not run.missing()


def test_a_scheduler_that_returns_after_days_catches_up_with_one_occurrence() -> None:
    run = Interleaving(0, intervals=(10,))
    run.server.pass_time(3 * 86_400)
    before = run.server.happened.total()
    run.both[0].kill()
    run.both[0].get_through()
    assert run.server.happened.total() == before + 1


def test_a_stale_scheduler_withdraws_nothing_that_was_published_after_it_stopped() -> None:
    run = Interleaving(0, intervals=(100,))
    stale, fresh = run.both
    run.configure([instance("c:T0", 100, enabled=False)])
    while run.server.states[ScheduleKey("c:T0")].state.enabled:
        stale.step()
    fresh.get_through()
    run.configure(run.instances)
    fresh.get_through()
    held = dict(run.server.schedules)
    assert held
    while not stale.step():
        pass
    assert run.server.schedules == held
